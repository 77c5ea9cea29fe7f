"""`bnn report RUN... -o FILE.html`: one page that compares finished runs; it opens offline."""

import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import torch
import tyro

import bnn
from bnn.commands._load import Target, open_target
from bnn.commands._parse import continuation, parse
from bnn.commands.bench import machine, take_turns
from bnn.commands.eval import data_for
from bnn.data import Data
from bnn.models.twins import twin
from bnn.nn.real_weights import binary_layers
from bnn.recipes._session import DATA_FIELDS
from bnn.report import Evaluated, check_same_data, render
from bnn.training.checkpoint import write_text
from bnn.training.device import start
from bnn.training.predict import predict
from bnn.training.run import read_config, read_json

ROUNDS = 6  # turns of 50 ms that each network gets on the clock


@dataclass(frozen=True)
class Config:
    """Compare finished runs in one HTML file that opens offline."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders on the same data; those that differ only in the seed are shown as mean ± std."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write."""
    title: str | None = None
    """Heading; default: how many runs, on what."""
    overwrite: bool = False
    """Replace the file if it is there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute predictions; time is always that of the CPU."""


def main(argv: list[str]) -> int:
    """Evaluate, measure, write."""
    config = parse(Config, argv, "bnn report")
    output = config.output
    if not config.runs:
        raise ValueError("bnn report RUN... -o FILE.html: no run given")
    if output.is_dir() or (output.exists() and not config.overwrite):
        raise ValueError(f"{output} exists: choose another -o" + ("" if output.is_dir() else ", or add --overwrite"))
    folders = [Path(run) for run in config.runs]
    for folder in folders:
        check(folder)
        if [path.resolve() for path in folders].count(folder.resolve()) > 1:
            raise ValueError(f"{folder} is given twice")
    shown = names(folders)
    check_same_data({name: read_config(folder) for name, folder in zip(shown, folders, strict=True)})
    targets = [open_target(str(folder)) for folder in folders]
    costs = measure(targets)
    known: dict[str, Data] = {}
    runs: list[Evaluated] = []
    for target, name, cost in zip(targets, shown, costs, strict=True):
        print(f"[{len(runs) + 1}/{len(folders)}] {target.path}", file=sys.stderr, flush=True)
        runs.append(evaluate(target, name, cost, known, config.device))
    page = render(runs, machine(torch.get_num_threads()), config.title)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, page)
    print(f"{output}: {len(page.encode()) / 1e6:.1f} MB")
    return 0


def check(folder: Path) -> None:
    """Raise ValueError or FileNotFoundError, naming the folder, unless it holds a finished run."""
    command = shlex.split(read_config(folder).get("command", ""))
    if not (folder / "table.json").is_file():
        how = f": {continuation(command[1:])}" if command[:1] == ["bnn"] else " with --resume"
        raise FileNotFoundError(f"{folder} has no table.json: the run did not finish; continue it{how}")


def names(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    paths = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, paths))):
        ends = ["/".join(path[-length:]) for path in paths]
        if len(set(ends)) == len(ends):
            return ends
    return [str(folder) for folder in folders]


def evaluate(target: Target, name: str, cost: dict[str, Any], known: dict[str, Data], device: str) -> Evaluated:
    """A run with its predictions. known: data sets that were loaded for others, by their fields."""
    folder = target.path
    key = json.dumps([target.config.get(field) for field in ("data", "split", *DATA_FIELDS)])
    data = known[key] if key in known else known.setdefault(key, data_for(target, {}))
    place = start(device, "no").torch_device
    target.model.to(place)
    logits, labels = predict(target.forward, data.splits["test"], target.preprocess.normalize, device=place)
    recorded = folder / "evaluation.json"
    return Evaluated(
        name,
        target.config,
        rows_of(folder / "table.json"),
        logits,
        labels,
        list(history(folder / "metrics.jsonl")),
        read_evaluation(recorded) if recorded.exists() else {},
        cost,
        list(origins(target.config)),
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A list of flat dicts from a JSON file. Raises ValueError when it is something else."""
    rows: Any = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: expected a list of rows, each a JSON object")
    return rows


def read_evaluation(path: Path) -> dict[str, Any]:
    """Lists of rows by name. Raises ValueError when the file holds something else."""
    content: Any = read_json(path)
    lists = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in lists):
        raise ValueError(f"{path}: expected a JSON object whose values are lists of rows, each a JSON object")
    return content


def history(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of metrics.jsonl, as far as they are whole; none if a recipe trains nothing."""
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as problem:
            raise ValueError(f"{path}, line {number}, is damaged: {problem}") from None


def origins(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Configs of the runs that a run came from, the nearest first, as far as their folders are still there."""
    for _ in range(20):  # a circle of folders ends too
        name = config.get("from")
        if not name or not (Path(name) / "config.json").is_file():
            return
        config = read_config(Path(name))
        yield config


def measure(targets: list[Target]) -> list[dict[str, Any]]:
    """Of each: megabytes of the training weights and of the packed file; milliseconds of one image, of its twin too.

    All networks take turns, so that what else the machine does falls on all alike; equal twins are one.
    """
    costs: list[dict[str, Any]] = []
    networks: dict[Any, Callable[[], Any]] = {}  # a twin under its arguments, a packed network under its place
    for place, target in enumerate(targets):
        packed, size = in_file(target)
        x = torch.zeros(1, len(target.preprocess.mean), *target.preprocess.size)
        x = x.to(memory_format=torch.channels_last)
        networks[place] = partial(packed, x)
        costs.append({"training MB": (target.path / "model.safetensors").stat().st_size / 1e6, "packed MB": size / 1e6})
        if binary_layers(target.model):
            network = target.config["network"]
            shape = tuple(network[name] for name in ("name", "num_classes", "in_channels", "image_size"))
            costs[-1]["twin"], rival = twin(*shape)
            costs[-1]["key"] = (shape, x.shape)
            folded = bnn.pack(rival).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            networks.setdefault(costs[-1]["key"], partial(folded, x))
    with torch.inference_mode():
        turns = take_turns(list(networks.values()), ROUNDS, lambda: None)
    ms = {key: 1e3 * median(t for turn in mine for t in turn) for key, mine in zip(networks, turns, strict=True)}
    return [{**cost, "ms": ms[i], "twin ms": ms.get(cost.get("key"))} for i, cost in enumerate(costs)]


def in_file(target: Target) -> tuple[bnn.PackedModel, int]:
    """The packed network as its file gives it back, and the bytes of that file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "packed.safetensors")
        bnn.save(bnn.pack(target.model), file, target.classes, target.preprocess.to_dict(), target.posthoc)
        return bnn.load(file), file.stat().st_size
