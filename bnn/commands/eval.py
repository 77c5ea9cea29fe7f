"""`bnn eval RUN|FILE`: accuracy and calibration on a data set; strange images, corruptions, other frequencies."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from bnn.commands._beyond import Subject, corrupted, keep, ood, shifted, tables
from bnn.commands._load import Target, open_target
from bnn.commands._parse import as_json, given, parse
from bnn.data import NAMES, Data, corruptions, options
from bnn.recipes._report import row
from bnn.recipes._session import DATA_FIELDS, load_data
from bnn.training.device import start

Item = TypeVar("Item")


@dataclass(frozen=True)
class Config:
    """Figures of a run or a packed file on a data set."""

    target: tyro.conf.Positional[str]
    """Run folder or packed file."""
    data: str | None = None
    """Data set, see bnn train; default: that of the run."""
    draw: int | None = None
    """Seed of the classes and their order."""
    image_size: int | None = None
    """Side of the images, pixels; default: what the model was trained on."""
    num_classes: int | None = None
    """Number of classes, glyphs only."""
    profile: Literal["exponential", "step"] | None = None
    """Shape of the long tail, which decides many, medium and few."""
    imbalance: float | None = None
    """Images of the largest class over those of the smallest."""
    n_max: int | None = None
    """Training images of the largest class."""
    split: Literal["test", "val", "train"] = "test"
    """Images to evaluate on."""
    data_root: Path | None = None
    """Where the files of a data set lie, see bnn train."""
    download: bool = False
    """Fetch a data set of torchvision or hf that is not there."""
    ood: tuple[str, ...] = ()
    """Data sets of strange images (glyphs: its other characters): AUROC, and FPR at 95 % TPR, of three scores."""
    corruptions: tuple[str, ...] = ()
    """all, or names from bnn.data.corruptions: figures at five severities; the table shows their means."""
    shift: bool = False
    """Calibration under other class frequencies: balanced, as in training, reversed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def main(argv: list[str]) -> int:
    """Print the table."""
    rest, wants_json = as_json(argv)
    config = parse(Config, rest, "bnn eval")
    names = corruptions.find(config.corruptions)
    target = open_target(config.target)
    device = start(config.device, "no").torch_device
    data = data_for(target, _own(given(config), target.config))
    target.model.to(device)
    subject = Subject(target, data, config.split, device)
    figures = row(str(config.target), *subject.outputs, data.class_counts, config.split)
    found: dict[str, list[dict[str, Any]]] = {}
    if config.ood:
        found["ood"] = [ood(subject, spec, config.data_root, config.download) for spec in _shown("ood", config.ood)]
    if names:
        harms = [(name, severity) for name in names for severity in corruptions.SEVERITIES]
        found["corruptions"] = [corrupted(subject, *harm) for harm in _shown("corruptions", harms)]
    if config.shift:
        found["shift"] = shifted(subject)
    if found and target.config:
        keep(target.path / "evaluation.json", found, condition(config, target.config))
    print(json.dumps({**figures, **found}, indent=2) if wants_json else tables(figures, found))
    return 0


def _shown(what: str, items: Sequence[Item]) -> Iterable[Item]:
    """`items` with a progress bar on stderr."""
    from tqdm import tqdm

    return tqdm(items, desc=what, leave=False)


def _own(fields: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """`fields` without data_root and download where these can only be meant for the data sets of --ood."""
    others = {"data_root", "download"} - set(options(fields.get("data", recorded.get("data", ""))))
    return {name: value for name, value in fields.items() if name not in others or not fields["ood"]}


def condition(config: Config, recorded: dict[str, Any]) -> str:
    """The arguments that change the images which the figures are of, as one string."""
    fields = {name: value for name, value in given(config).items() if name in ("data", *DATA_FIELDS)}
    changed = {name: value for name, value in fields.items() if name != "data_root" and value != recorded.get(name)}
    return " ".join([config.split, *(f"{name}={value}" for name, value in changed.items())])


def data_for(target: Target, fields: dict[str, Any]) -> Data:
    """The data that `fields` describe, completed by what the run recorded; its classes must be the model's.

    Raises:
        ValueError: a packed file without --data, other classes.
    """
    if "data" not in fields and not target.config:
        raise ValueError(f"a packed file does not record its data: give --data, one of {', '.join(NAMES)}")
    size = {"image_size": target.preprocess.size[0]}
    recorded = {name: target.config[name] for name in ("data", "split", *DATA_FIELDS) if name in target.config}
    if fields.get("data", recorded.get("data")) != recorded.get("data"):
        recorded = {}  # the long tail of another data set says nothing about this one
    chosen = {name: value for name, value in fields.items() if name in ("data", "download", *DATA_FIELDS)}
    data = load_data({**size, **recorded, **chosen})
    if target.classes is not None and list(data.classes) != target.classes:
        raise ValueError(
            f"{target.path} knows {len(target.classes)} classes ({target.classes[0]!r}, ...), {data.name} has "
            f"{len(data.classes)} ({data.classes[0]!r}, ...): give the --data and --draw it was trained on"
        )
    return data
