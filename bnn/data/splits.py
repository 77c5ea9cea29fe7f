"""From labelled images to a `Data`: what a data set lacks of train, val and test, and the long tail of its train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bnn.data import Data, longtail
from bnn.data.hashing import hash64
from bnn.data.images import Images, Preprocess, statistics

VAL_SHARE, TEST_SHARE = 0.1, 0.2
STATISTICS_FROM = 256  # images


@dataclass(frozen=True)
class Tail:
    """How train is cut: the fields of `bnn.data.load`. draw: seed of all that is chosen. imbalance None: as it is."""

    draw: int
    profile: str
    imbalance: float | None
    n_max: int | None


def hold_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Indices of `share` of each class, ascending: at least one of a class of three or more, none of a smaller one.

    labels: int64 [N]. Images rank by a hash of (seed, index), as in `longtail.subsample`.
    """
    available = torch.bincount(labels)
    counts = (share * available).round().long().clamp_(min=1)
    return longtail.subsample(labels, torch.where(available < 3, 0, counts), seed)


def complete(splits: Mapping[str, Images], draw: int) -> dict[str, Images]:
    """With "train", "val" and "test". What is missing is cut from train: 20 % of each class for test, 10 % for val."""
    done, keys = dict(splits), {"test": int(hash64(draw, 1)[0]), "val": draw}
    for name, share in (("test", TEST_SHARE), ("val", VAL_SHARE)):
        if name not in done:
            train = done["train"]
            held_out = hold_out(train.labels, share, keys[name])
            rest = torch.ones(len(train), dtype=torch.bool)
            rest[held_out] = False
            done[name], done["train"] = train.subset(held_out), train.subset(torch.nonzero(rest).flatten())
    return done


def finish(
    name: str,
    classes: Sequence[str],
    splits: Mapping[str, Images],
    size: tuple[int, int],
    mode: str,
    tail: Tail,
    flip: bool = True,
) -> Data:
    """The splits as `Data`: train made long-tailed if `imbalance` is given, mean and deviation from its images.

    Raises ValueError for labels that are not classes, a class without training images, an n_max beyond the images.
    """
    for split, images in splits.items():
        _check_labels(name, split, images.labels, classes)
    train = splits["train"]
    if tail.imbalance is not None:
        train = train.subset(long_tail(train.labels, tail.profile, tail.imbalance, tail.n_max, tail.draw))
    sample = torch.linspace(0, len(train) - 1, min(len(train), STATISTICS_FROM)).round().long()
    preprocess = Preprocess(size, *statistics(train.images(sample)), mode)
    counts = torch.bincount(train.labels, minlength=len(classes))
    return Data(name, tuple(classes), {**splits, "train": train}, preprocess, counts, flip=flip)


def _check_labels(name: str, split: str, labels: Tensor, classes: Sequence[str]) -> None:
    if not len(labels):
        raise ValueError(f"{name}: no image is in {split}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise ValueError(f"{name}: labels of {split} run from {low} to {high}; it has {len(classes)} classes")
    if split == "train" and len(empty := np.flatnonzero(np.bincount(labels.numpy(), minlength=len(classes)) == 0)):
        raise ValueError(f"{name}: class {int(empty[0])} ({classes[int(empty[0])]}) has no training image")


def long_tail(labels: Tensor, profile: str, imbalance: float, n_max: int | None, seed: int) -> Tensor:
    """Indices of a long-tailed part; the class with the most images becomes the largest, the first of equal ones."""
    available = torch.bincount(labels)
    order = torch.argsort(available, descending=True, stable=True)
    largest = longtail.largest_n_max(profile, available[order], imbalance)
    if n_max is not None and n_max > largest:
        raise ValueError(f"n_max: there are enough images for {largest} at imbalance {imbalance:g}; got {n_max}")
    counts = torch.empty_like(available)
    counts[order] = longtail.class_counts(profile, len(available), largest if n_max is None else n_max, imbalance)
    return longtail.subsample(labels, counts, seed)
