"""`bnn eval RUN|FILE`: accuracy and calibration on a data set."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from bnn.commands._load import Target, open_target
from bnn.commands._parse import as_json, given, parse
from bnn.data import Data
from bnn.recipes._report import markdown, row
from bnn.recipes._session import DATA_FIELDS, load_data
from bnn.training.device import start
from bnn.training.predict import predict


@dataclass(frozen=True)
class Config:
    """Figures of a run or a packed file on a data set."""

    target: tyro.conf.Positional[str]
    """Run folder or packed file."""
    data: str | None = None
    """Data set: glyphs, digits or folder:PATH; default: that of the run."""
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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def main(argv: list[str]) -> int:
    """Print the table."""
    rest, wants_json = as_json(argv)
    config = parse(Config, rest, "bnn eval")
    target = open_target(config.target)
    device = start(config.device, "no").torch_device
    data = data_for(target, given(config))
    target.model.to(device)
    logits, labels = predict(target.forward, data.splits[config.split], target.preprocess.normalize, device=device)
    figures = row(str(config.target), logits, labels, data.class_counts, config.split)
    print(json.dumps(figures, indent=2) if wants_json else markdown([figures]))
    return 0


def data_for(target: Target, fields: dict[str, Any]) -> Data:
    """The data that `fields` describe, completed by what the run recorded; its classes must be the model's.

    Raises:
        ValueError: a packed file without --data, other classes.
    """
    if "data" not in fields and not target.config:
        raise ValueError("a packed file does not record its data: give --data glyphs, digits or folder:PATH")
    size = {"image_size": target.preprocess.size[0]}
    recorded = {name: target.config[name] for name in ("data", "split", *DATA_FIELDS) if name in target.config}
    if fields.get("data", recorded.get("data")) != recorded.get("data"):
        recorded = {}  # the long tail of another data set says nothing about this one
    chosen = {name: value for name, value in fields.items() if name in ("data", *DATA_FIELDS)}
    data = load_data({**size, **recorded, **chosen})
    if target.classes is not None and list(data.classes) != target.classes:
        raise ValueError(
            f"{target.path} knows {len(target.classes)} classes ({target.classes[0]!r}, ...), {data.name} has "
            f"{len(data.classes)} ({data.classes[0]!r}, ...): give the --data and --draw it was trained on"
        )
    return data
