"""`bnn curate`: auxiliary classes for `bnn train granularity`: their names, and which pictures are near enough.

A picture of a proposed class is kept if LOW < cos < HIGH, cos between its features and the nearest prototype (mean
feature of the training images) of the target classes that it is proposed for.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from bnn.commands import _propose
from bnn.commands._load import Target, open_target
from bnn.commands._parse import as_json, given, parse
from bnn.commands._prototypes import HIGH, LOW, distances, features_of, prototypes, unit_features
from bnn.data import Data, folder, longtail, neighbors
from bnn.data.neighbors import NeighborMap
from bnn.recipes._config import require
from bnn.recipes._report import markdown
from bnn.recipes._session import DATA_FIELDS, load_data

COLUMNS = ("images", "too far", "kept", "too near")


@dataclass(frozen=True)
class Config:
    """Write a map of neighbors and a folder of their images, for bnn train granularity --neighbors, --auxiliary."""

    network: tyro.conf.Positional[str]
    """Run folder or packed file whose features compare the pictures."""
    out: Path
    """Folder to write: neighbors.json, images/CLASS/..., table.md."""
    images: Path | None = None
    """Folder with one folder of pictures for every proposed class; without it only neighbors.json is written."""
    names: Path | None = None
    """Proposed names: JSON {"target": ["name", ...]}, or text, a line "target: name, name" each."""
    endpoint: str | None = None
    """OpenAI-compatible URL to ask for names instead, such as http://localhost:8000/v1."""
    llm: str | None = None
    """Its model."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key, if it needs one."""
    names_per_class: tuple[int, int, int] = (2, 4, 8)
    """Names to ask for, for a class with many, medium, few training images."""
    low: float = LOW
    """Cosine with the prototype above which a picture is near enough."""
    high: float = HIGH
    """Cosine from which on it is a near-duplicate."""
    data: str | None = None
    """Data set with the target classes; default: that of the run."""
    draw: int | None = None
    """Seed of its classes or splits."""


def main(argv: list[str]) -> int:
    """Propose, compare, write, print."""
    rest, wants_json = as_json(argv)
    config = parse(Config, rest, "bnn curate")
    check(config)
    target = open_target(config.network)
    data = target_data(target, given(config))
    found = proposals(config, data)
    rows = [] if config.images is None else choose(config, target, data, found)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "neighbors.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if rows:
        (config.out / "table.md").write_text(markdown(rows, COLUMNS), "utf-8")
    if wants_json:
        print(json.dumps({"neighbors": found, "classes": rows}, indent=2, ensure_ascii=False))
    else:
        print(markdown(rows, COLUMNS) if rows else f"{config.out / 'neighbors.json'}: {len(found)} target classes")
    return 0


def check(config: Config) -> None:
    """Raise ValueError for values that exclude each other, are out of range, or an output that is there already."""
    if (config.names is None) == (config.endpoint is None):
        raise ValueError("bnn curate: give --names FILE or --endpoint URL, one of them")
    require(config.endpoint is None or config.llm is not None, "llm", "a model with --endpoint", config.llm)
    require(-1 <= config.low < config.high <= 1, "low", "-1 <= low < high <= 1", (config.low, config.high))
    wanted = config.names_per_class
    require(min(wanted) >= 0 < max(wanted), "names-per-class", "0 or more, not all 0", wanted)
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ValueError(f"{config.out} exists: choose another --out")
    if config.images is not None and not config.images.is_dir():
        raise FileNotFoundError(f"--images: no such folder: {config.images}")


def target_data(target: Target, fields: dict[str, Any]) -> Data:
    """The data with the target classes, in the size and the colors that the network reads."""
    recorded = {name: target.config[name] for name in ("data", "split", *DATA_FIELDS) if name in target.config}
    if fields.get("data", recorded.get("data")) != recorded.get("data"):
        recorded = {}
    chosen: dict[str, Any] = {name: fields[name] for name in ("data", "draw") if name in fields}
    if not recorded and "data" not in chosen:
        raise ValueError("a packed file does not record its data: give --data glyphs, digits or folder:PATH")
    data = load_data({**recorded, **chosen, "image_size": target.preprocess.size[0]})
    if data.preprocess.mode != target.preprocess.mode:
        modes = f"{target.preprocess.mode!r} images, {data.name} has {data.preprocess.mode!r}"
        raise ValueError(f"{target.path} reads {modes}: choose another network")
    return data


def proposals(config: Config, data: Data) -> NeighborMap:
    """Names for the target classes, checked; of those from an endpoint, the ones there is a folder for."""
    if config.names is not None:
        found = read_names(config.names)
    else:
        masks = longtail.groups(data.class_counts)
        groups = zip(("many", "medium", "few"), config.names_per_class, strict=True)
        wanted = torch.as_tensor(sum(masks[group] * count for group, count in groups)).tolist()
        found = _propose.propose(config.endpoint or "", config.llm or "", config.key_variable, data.classes, wanted)
        if config.images is not None:
            there = {path.name for path in config.images.iterdir() if path.is_dir()}
            found = {name: [other for other in others if other in there] for name, others in found.items()}
    neighbors.check(found, data.classes)
    return found


def read_names(path: Path) -> NeighborMap:
    """A map in JSON or in lines "target: name, name"."""
    if path.suffix == ".json" or not path.is_file():
        return neighbors.read(path)
    found: NeighborMap = {}
    for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
        name, colon, others = line.partition(":")
        if not colon:
            raise ValueError(f'--names: {path}: expected lines "target: name, name"; got {line!r}')
        found.setdefault(name.strip(), []).extend(other.strip() for other in others.split(",") if other.strip())
    return found


def choose(config: Config, target: Target, data: Data, found: NeighborMap) -> list[dict[str, Any]]:
    """Copy the pictures at the right distance to OUT/images; returns a row for every auxiliary class."""
    names, preprocess = neighbors.auxiliary_classes(found), target.preprocess
    pictures = folder.only(str(config.images), names, preprocess.size, preprocess.mode)
    body, train = features_of(target.model), data.splits["train"]
    prototype = prototypes(unit_features(body, train, preprocess.normalize), train.labels, len(data.classes))
    near = neighbors.relation(found, data.classes)
    cos = distances(unit_features(body, pictures, preprocess.normalize), pictures.labels, near, prototype)
    kept = (config.low < cos) & (cos < config.high)
    rows = [_row(config, name, cos[pictures.labels == a]) for a, name in enumerate(names)]
    for a, row in enumerate(rows):
        if not row["kept"]:
            seen = cos[pictures.labels == a]
            raise ValueError(
                f"--low {config.low} --high {config.high}: no picture of {row['name']!r} lies between (its cosines are "
                f"{seen.min().item():.2f} to {seen.max().item():.2f}); widen them or drop the name"
            )
    for i in kept.nonzero().flatten().tolist():
        source = Path(pictures.paths[i])
        copy = config.out / "images" / source.relative_to(config.images or "")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    return rows


def _row(config: Config, name: str, cos: Tensor) -> dict[str, Any]:
    far, near = int((cos <= config.low).sum()), int((cos >= config.high).sum())
    return {"name": name, "images": len(cos), "too far": far, "kept": len(cos) - far - near, "too near": near}
