"""`hf:NAME`: image classification sets of the Hugging Face hub, or a local folder in one of its formats (parquet).

NAME is a directory, or a name on the hub that `datasets` has in its cache or, if asked to, fetches. The picture is the
one column of images; the class is the column called label (labels, fine_label), or the only one of class labels, or
the one named after a "#": hf:uoft-cs/cifar100#coarse_label. Splits: train; validation (val, valid, dev); test, unless
its labels are withheld (-1), in which case validation is test. What is missing is cut from train (`splits.complete`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnn.data import Data
from bnn.data.images import DecodedImages, Images, read_image, require
from bnn.data.splits import Tail, complete, finish

VAL_NAMES = ("validation", "val", "valid", "dev")
LABEL_NAMES = ("label", "labels", "fine_label")


class HubImages(DecodedImages):
    """Pictures of a column of a `datasets.Dataset`, whose rows hold the encoded file ("bytes") or its "path"."""

    def __init__(self, column: Any, rows: Tensor, labels: Tensor, size: tuple[int, int], name: str) -> None:
        super().__init__(labels, size, "RGB")
        self.column, self.rows, self.name = column, rows, name

    def read(self, i: int) -> Tensor:
        row = int(self.rows[i])
        entry, name = self.column[row], f"{self.name} row {row}"
        if not entry or not (entry["bytes"] or entry["path"]):
            raise ValueError(f"{name} has no picture; remove it")
        return read_image(io.BytesIO(entry["bytes"]) if entry["bytes"] else entry["path"], self.size, self.mode, name)

    def subset(self, indices: Tensor | Sequence[int]) -> HubImages:
        index = torch.as_tensor(indices, dtype=torch.int64)
        return HubImages(self.column, self.rows[index], self.labels[index], self.size, self.name)


def load(name: str, image_size: int, tail: Tail, root: Path | None, download: bool) -> Data:
    """See `bnn.data.load`. root: cache of `datasets`, its usual place by default.

    Raises FileNotFoundError if the set is neither a directory nor in the cache, ValueError if no column of pictures or
    of classes is found, or several.
    """
    place, _, wanted = name.partition("#")
    found = _open(place, root, download)
    if "train" not in found:
        raise ValueError(f"hf:{place}: expected a split train; it has {', '.join(found)}")
    features = found["train"].features
    picture, target = _picture(place, features), _target(place, features, wanted)
    values = {split: np.asarray(found[split].with_format("numpy")[target][:]) for split in _splits(found)}
    classes = _classes(place, features[target], values["train"])
    splits: dict[str, Images] = {}
    for split, raw in values.items():
        labels = _labels(f"hf:{place} {split}", raw, classes, features[target])
        if split == "test" and bool((labels == -1).all()):
            continue
        column = found[split].cast_column(picture, require("datasets", "hub").Image(decode=False))[picture]
        rows, size = torch.arange(len(labels)), (image_size, image_size)
        splits["val" if split in VAL_NAMES else split] = HubImages(column, rows, labels, size, f"hf:{place} {split}")
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
    return finish(f"hf:{name}", classes, complete(splits, tail.draw), (image_size, image_size), "RGB", tail)


def _open(place: str, root: Path | None, download: bool) -> Any:
    """Split name -> `datasets.Dataset`; the network is used only if `download`."""
    datasets = require("datasets", "hub")
    local = Path(place).expanduser()
    is_local = local.is_dir()
    try:
        with _network(datasets, download and not is_local):
            return datasets.load_dataset(str(local) if is_local else place, cache_dir=str(root) if root else None)
    except Exception as problem:  # its builders, pyarrow and the network each raise errors of their own
        reason = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
        if is_local:
            raise ValueError(f"hf: cannot read the directory {local} ({reason})") from problem
        hint = "check the name and the network" if download else "add --download to fetch it, or give a directory"
        raise FileNotFoundError(f"hf:{place}: no such directory, and not in the cache ({reason}); {hint}") from problem


@contextmanager
def _network(datasets: Any, allowed: bool) -> Iterator[None]:
    was = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = was or not allowed
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = was


def _splits(found: Any) -> list[str]:
    validation = [name for name in VAL_NAMES if name in found][:1]
    return ["train", *validation, *(["test"] if "test" in found else [])]


def _picture(place: str, features: Any) -> str:
    image = require("datasets", "hub").Image

    def holds_pictures(feature: Any) -> bool:  # parquet that `datasets` has not written holds them as structures
        return isinstance(feature, image) or (isinstance(feature, dict) and {"bytes", "path"} <= set(feature))

    names = [name for name, feature in features.items() if holds_pictures(feature)]
    if len(names) != 1:
        raise ValueError(f"hf:{place}: expected one column of pictures; its columns are {', '.join(features)}")
    return names[0]


def _target(place: str, features: Any, wanted: str) -> str:
    label = require("datasets", "hub").ClassLabel
    names = [wanted] if wanted else [n for n in LABEL_NAMES if n in features][:1]
    names = names or [n for n, f in features.items() if isinstance(f, label)]
    if len(names) != 1 or names[0] not in features:
        asked = f"no column {wanted}" if wanted else "no or several columns of classes"
        raise ValueError(f"hf:{place}: {asked}; name one of {', '.join(features)}: hf:{place}#COLUMN")
    return names[0]


def _classes(place: str, feature: Any, train: np.ndarray) -> list[str]:
    names = getattr(feature, "names", None)
    if names:
        return list(names)
    if train.dtype.kind not in "iuOUS":
        raise ValueError(f"hf:{place}: expected classes as integers or text; got {feature}")
    return [str(value) for value in sorted(set(train.tolist()) - {-1})]


def _labels(name: str, raw: np.ndarray, classes: list[str], feature: Any) -> Tensor:
    if getattr(feature, "names", None):
        return torch.from_numpy(raw.astype(np.int64))
    index = {value: k for k, value in enumerate(classes)} | {"-1": -1}
    values = [str(value) for value in raw.tolist()]
    unknown = next((value for value in values if value not in index), None)
    if unknown is not None:
        raise ValueError(f"{name}: class {unknown!r} is not among those of train")
    return torch.tensor([index[value] for value in values])
