"""Figures of a run on their way to TensorBoard or Weights & Biases, by Accelerate's trackers."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PLACE = ("step", "epoch", "split", "phase")


def check(name: str) -> None:
    """Raise ImportError, saying what to install, unless the package behind none, tensorboard or wandb is there."""
    if name != "none" and find_spec(name) is None:
        raise ImportError(f"--tracker {name} needs {name}: pip install 'bnn-torch[track]'", name=name)


class Tracker:
    """What receives the rows of metrics.jsonl, as <phase>/<split>/<name>, and at the end those of table.json.

    Every phase counts its steps from 0. TensorBoard: event files in `folder`/tensorboard, which begin anew. wandb: a
    new run of project bnn (or WANDB_PROJECT) with files in `folder`/wandb, offline by WANDB_MODE=offline; steps are the
    figure <phase>/step, since its own only go up.

    Raises:
        ValueError: wandb refuses to begin, for example without an account.
    """

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.wandb = name == "wandb"
        self.phases: set[str] = set()
        self.inner: Any = _wandb(folder, config) if self.wandb else _tensorboard(folder, config)

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl."""
        phase, step = row["phase"], row["step"]
        values = {f"{phase}/{row['split']}/{name}": value for name, value in row.items() if name not in PLACE}
        if not self.wandb:
            self.inner.log(values, step=step)
            return
        if phase not in self.phases:
            self.inner.tracker.define_metric(f"{phase}/*", step_metric=f"{phase}/step")
            self.phases.add(phase)
        self.inner.log({**values, f"{phase}/step": step})

    def finish(self, table: Sequence[Mapping[str, Any]]) -> None:
        """The rows of table.json, then the end."""
        numbers = {
            f"{row['split']}/{row['name']}/{name}": value
            for row in table
            for name, value in row.items()
            if isinstance(value, int | float)
        }
        self.inner.log(numbers)
        self.inner.finish()


def _tensorboard(folder: Path, config: Mapping[str, Any]) -> Any:
    from accelerate.tracking import TensorBoardTracker

    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    tracker = TensorBoardTracker("tensorboard", folder)
    tracker.start()
    tracker.log({"config": f"```\n{json.dumps(config, indent=2)}\n```"}, step=0)
    return tracker


def _wandb(folder: Path, config: Mapping[str, Any]) -> Any:
    import wandb
    from accelerate.tracking import WandBTracker

    project = os.environ.get("WANDB_PROJECT", "bnn")
    options = {"name": folder.resolve().name, "dir": str(folder), "config": dict(config), "reinit": "finish_previous"}
    tracker = WandBTracker(project, **options)
    try:
        tracker.start()
    except wandb.errors.Error as problem:
        raise ValueError(f"--tracker wandb: {problem}; WANDB_MODE=offline needs no account") from None
    return tracker
