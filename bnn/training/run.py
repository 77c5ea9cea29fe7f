"""The run folder: what a training leaves behind, and how another command picks it up.

config.json          recipe, every field (device and precision as resolved), versions, command line, network, data
metrics.jsonl        one object a line: step, epoch, split, phase, then name -> value
model.safetensors    training weights (float32), under the names the model gives them
state/<phase>.pt     what --resume needs
table.json table.md  final metrics; reliability.png, per_class.png beside them
"""

import json
import platform
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from bnn.training import checkpoint
from bnn.training import tracker as trackers

_PLACES = ("out", "data_root", "download", "device", "processes", "tracker")
NOT_COMPARED = ("command", "versions", "resume", "overwrite", *_PLACES)


class Run:
    """An open run folder. Only the main process writes; the others read state and compute along.

    Args:
        folder: where. Made if it is not there.
        config: what goes into config.json; must hold "recipe". Its "tracker" (default none) gets all figures too.
        resume: continue what is there (nothing there: begin); `config` must agree with what was recorded.
        overwrite: delete the run that is there first.
        main: whether this process writes.

    Raises:
        ValueError: the folder holds something and neither flag was given; or it is no run folder; or a field differs.
        ImportError: the tracker's package is not installed.
    """

    def __init__(self, folder: Path, config: dict, *, resume: bool = False, overwrite: bool = False, main: bool = True):
        self.folder, self.config, self.main = Path(folder), config, main
        self._tracker: trackers.Tracker | None = None
        if not main:
            return
        trackers.check(config.get("tracker", "none"))
        check_folder(self.folder, config, resume=resume, overwrite=overwrite)
        if overwrite and self.folder.exists():
            _remove(self.folder)
        (self.folder / "state").mkdir(parents=True, exist_ok=True)
        if not (self.folder / "config.json").exists():
            checkpoint.write_text(self.folder / "config.json", json.dumps(config, indent=2) + "\n")
        self._drop_rows_after_checkpoint()

    def log(self, values: dict[str, float], *, step: int, epoch: int, split: str, phase: str) -> None:
        """Append a row to metrics.jsonl."""
        if self.main:
            row = {"step": step, "epoch": epoch, "split": split, "phase": phase, **values}
            with open(self._metrics, "a") as file:
                file.write(json.dumps(row) + "\n")
            if self._tracker is not None:
                self._tracker.row(row)

    def track(self) -> None:
        """Begin with the config's tracker, if it has one, by the rows that are in metrics.jsonl already."""
        name = self.config.get("tracker", "none")
        if self.main and name != "none" and self._tracker is None:
            self._tracker = trackers.Tracker(name, self.folder, self.config)
            for line in self._metrics.read_text().splitlines():
                self._tracker.row(json.loads(line))

    def finish(self, table: list[dict]) -> None:
        """Give the tracker the rows of table.json and end it."""
        self.track()
        if self._tracker is not None:
            self._tracker.finish(table)
            self._tracker = None

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _drop_rows_after_checkpoint(self) -> None:
        known = max((checkpoint.load(path)["metrics_bytes"] for path in self._states()), default=0)
        with open(self._metrics, "ab") as file:
            file.truncate(min(known, self._metrics.stat().st_size))

    def _states(self) -> list[Path]:
        return sorted((self.folder / "state").glob("*.pt"))

    def load_state(self, phase: str) -> dict | None:
        """The last checkpoint of `phase`, or None."""
        path = self.folder / "state" / f"{phase}.pt"
        return checkpoint.load(path) if path.exists() else None

    def save_state(self, phase: str, state: dict) -> None:
        """Make `state` the checkpoint of `phase`; rows logged so far survive a resume."""
        if self.main:
            size = self._metrics.stat().st_size if self._metrics.exists() else 0
            checkpoint.save(self.folder / "state" / f"{phase}.pt", {**state, "phase": phase, "metrics_bytes": size})

    def finished(self, phase: str, modules: nn.Module) -> bool:
        """Whether `phase` was completed before; if so, its weights are loaded into `modules`."""
        state = self.load_state(phase)
        if state is None or not state["finished"]:
            return False
        modules.load_state_dict(state["modules"])
        return True

    def save_model(self, model: nn.Module) -> None:
        """Write model.safetensors."""
        if self.main:
            save_weights(self.folder / "model.safetensors", model)

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file into the folder."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Write a text file into the folder."""
        if self.main:
            checkpoint.write_text(self.folder / name, content)


def check_folder(folder: Path, config: dict, *, resume: bool, overwrite: bool) -> None:
    """Raise ValueError unless a run with `config` may begin or continue in `folder`; changes nothing."""
    folder = Path(folder)
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: continue the run, or start it again")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} exists and is not a run folder (no config.json); choose another --out")
    if not resume and not overwrite:
        raise ValueError(f"{folder} holds a run already: add --resume to continue it or --overwrite to start again")
    if resume:
        _check_agreement(folder, config)


def _check_agreement(folder: Path, config: dict) -> None:
    recorded = read_config(folder)
    for name in config:
        was, now = recorded.get(name), json.loads(json.dumps(config.get(name)))
        if name not in NOT_COMPARED and was != now:
            flag = name.replace("_", "-")
            raise ValueError(
                f"--resume: {flag} was {_short(was)} when {folder} began and is {_short(now)} now; "
                "give the recorded value, or another --out"
            )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def read_config(folder: Path) -> dict:
    """config.json of a run folder.

    Raises:
        FileNotFoundError: `folder` is no run folder.
        ValueError: config.json is damaged.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no config.json")
    return read_json(path)


def read_json(path: Path) -> dict:
    """A JSON object of a run folder. Raises ValueError when it is damaged."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path} is damaged: {problem}") from None


def load_model(folder: Path) -> nn.Module:
    """The trained network of a finished run: float32, channels-last, on the CPU, in eval mode.

    Raises:
        FileNotFoundError: no such run, or it has not finished.
        ValueError: the weights do not fit the network named in config.json.
    """
    from bnn import models

    config = read_config(folder)
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no model.safetensors: the run did not finish; continue it with --resume")
    model = models.build(**config["network"])
    load_weights(path, model)
    return model.eval().to(memory_format=torch.channels_last)


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a state dict as safetensors, channel-first, whole or not at all."""
    from safetensors.torch import save

    state: dict[str, Tensor] = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    checkpoint.write_bytes(path, save(state))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load what `save_weights` wrote. Raises ValueError when it does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(f"{path} does not fit the network of its run: {reason}") from None


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    from bnn import __version__

    return {"bnn": __version__, "torch": torch.__version__, "python": platform.python_version()}
