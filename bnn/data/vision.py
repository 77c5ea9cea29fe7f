"""`torchvision:NAME`: the data sets that torchvision knows how to fetch and to read, with a val split and a long tail.

Arrays (CIFAR, STL10, SVHN) are held in memory; pictures in files are decoded when first asked for.
Test is the official test split, val the official one; where there is none, it is cut from train (`splits.complete`).
Of Places365, whose test labels are secret, the official val is test, and the pictures are those of 256 pixels.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.data import Data
from bnn.data.images import FolderImages, Images, TensorImages, require
from bnn.data.splits import Tail, complete, finish

_ALL: dict[str, dict[str, Any]] = {"train": {}}
_BOOL: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}


def _named(**splits: str) -> dict[str, dict[str, Any]]:
    return {split: {"split": name} for split, name in splits.items()}


# Our splits -> what torchvision's class is given for each
SETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "CIFAR10": _BOOL,
    "CIFAR100": _BOOL,
    "Caltech101": _ALL,
    "DTD": _named(train="train", val="val", test="test"),
    "EuroSAT": _ALL,
    "FGVCAircraft": _named(train="train", val="val", test="test"),
    "Flowers102": _named(train="train", val="val", test="test"),
    "Food101": _named(train="train", test="test"),
    "GTSRB": _named(train="train", test="test"),
    "OxfordIIITPet": _named(train="trainval", test="test"),
    "Places365": {"train": {"split": "train-standard", "small": True}, "test": {"split": "val", "small": True}},
    "STL10": _named(train="train", test="test"),
    "StanfordCars": _named(train="train", test="test"),
    "SUN397": _ALL,
    "SVHN": _named(train="train", test="test"),
}
MIRRORED_IS_ANOTHER = ("GTSRB", "SVHN")  # signs and digits
NOT_FETCHED = ("StanfordCars",)  # its publisher has withdrawn the files


class ScaledImages(TensorImages):
    """Images in memory, resized when asked for to size = (H, W), bilinear with antialiasing as `read_image` does."""

    def __init__(self, images: Tensor, labels: Tensor, size: tuple[int, int]) -> None:
        super().__init__(images, labels)
        self.size = size

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        pixels = super().images(indices)
        if tuple(pixels.shape[2:]) == self.size:
            return pixels
        return F.interpolate(pixels, self.size, mode="bilinear", align_corners=False, antialias=True)

    def subset(self, indices: Tensor | Sequence[int]) -> ScaledImages:
        part = super().subset(indices)
        return ScaledImages(part.tensor, part.labels, self.size)


def find(name: str) -> str:
    """The name as torchvision spells it. Raises ValueError naming the nearest ones."""
    known = {each.lower(): each for each in SETS}
    if name.lower() not in known:
        close = [known[each] for each in difflib.get_close_matches(name.lower(), known, n=3)]
        hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(SETS)}"
        raise ValueError(f"data: torchvision:{name} is not known; {hint}")
    return known[name.lower()]


def load(name: str, image_size: int, tail: Tail, root: Path, download: bool) -> Data:
    """See `bnn.data.load`. name: one of SETS in any case. root: where torchvision keeps the files of its data sets.

    Raises ValueError for an unknown name, FileNotFoundError if the files are not there and can't be fetched.
    """
    name, size = find(name), (image_size, image_size)
    sets = {split: _open(name, root, download, arguments) for split, arguments in SETS[name].items()}
    train = sets["train"]
    splits = {split: _images(name, each, size) for split, each in sets.items()}
    count = int(splits["train"].labels.max()) + 1
    classes = getattr(train, "classes", None) or getattr(train, "categories", None) or list(map(str, range(count)))
    flip = name not in MIRRORED_IS_ANOTHER
    return finish(f"torchvision:{name}", list(map(str, classes)), complete(splits, tail.draw), size, "RGB", tail, flip)


def _open(name: str, root: Path, download: bool, arguments: Mapping[str, Any]) -> Any:
    """torchvision's data set, without transforms; pictures in files are replaced by their paths where it lets us."""
    factory = getattr(require("torchvision.datasets", "vision"), name)
    paths = {"loader": _path} if "loader" in inspect.signature(factory).parameters else {}
    if not root.is_dir():
        if not download:
            raise FileNotFoundError(_absent(name, root, "no such directory"))
        root.mkdir(parents=True)
    try:
        return factory(root, download=download and name not in NOT_FETCHED, **arguments, **paths)
    except ImportError:
        raise
    except Exception as problem:  # each class reports files that are absent, cut short or changed in a way of its own
        reason = f"{type(problem).__name__}: {str(problem).split(' You can')[0]}"
        raise FileNotFoundError(_absent(name, root, reason)) from problem


def _path(path: Any) -> Any:
    return path


def _absent(name: str, root: Path, reason: str) -> str:
    fetch = "" if name in NOT_FETCHED else "add --download to fetch it, or "
    return f"torchvision:{name} is not whole in {root} ({reason}); {fetch}give --data-root, the directory it lies in"


def _images(name: str, opened: Any, size: tuple[int, int]) -> Images:
    if isinstance(getattr(opened, "data", None), np.ndarray):
        pixels = torch.from_numpy(np.ascontiguousarray(opened.data))
        if pixels.shape[-1] == 3 and pixels.shape[1] != 3:
            pixels = pixels.permute(0, 3, 1, 2)
        labels = opened.targets if hasattr(opened, "targets") else opened.labels
        return ScaledImages(pixels.contiguous(), torch.from_numpy(np.array(labels, np.int64)), size)
    files = _files(opened)
    missing = [path for path, _ in files if not path.is_file()]
    if missing or not files:
        reason = f"{len(missing)} of {len(files)} pictures are missing: {missing[0]}" if files else "it has no pictures"
        raise FileNotFoundError(_absent(name, Path(opened.root), reason))
    paths, labels = zip(*files, strict=True)
    return FolderImages(paths, torch.tensor(labels), size, "RGB")


def _files(opened: Any) -> list[tuple[Path, int]]:
    """Path and label of every picture; none is decoded."""
    if hasattr(opened, "loader"):
        return [(Path(path), int(label)) for path, label in (opened[i] for i in range(len(opened)))]
    if hasattr(opened, "_samples"):  # GTSRB
        return [(Path(path), int(label)) for path, label in opened._samples]
    if hasattr(opened, "_images"):  # OxfordIIITPet
        return [(Path(path), int(label)) for path, label in zip(opened._images, opened._labels, strict=True)]
    folder = Path(opened.root, "101_ObjectCategories")  # Caltech101
    return [
        (folder / opened.categories[label] / f"image_{number:04d}.jpg", label)
        for number, label in zip(opened.index, opened.y, strict=True)
    ]
