"""`digits`: the 1797 scanned handwritten digits that scikit-learn ships (8x8, UCI optical recognition set)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from bnn.data import Data, longtail
from bnn.data.hashing import hash64
from bnn.data.images import Preprocess, TensorImages, require, statistics

VAL_PER_CLASS, TEST_PER_CLASS = 15, 40


def load(draw: int, image_size: int, profile: str, imbalance: float, n_max: int | None) -> Data:
    """See `bnn.data.load`. `draw` chooses the order of the classes (the first is the largest) and the splits."""
    bunch = require("sklearn.datasets").load_digits()
    pixels = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    size = (image_size, image_size)
    images = F.interpolate(pixels, size, mode="bilinear", align_corners=False).round().to(torch.uint8)
    order = np.argsort(hash64(draw, np.arange(10)), kind="stable")
    labels = torch.from_numpy(np.argsort(order)[bunch.target])
    everything = TensorImages(images, labels)

    ones = torch.ones(10, dtype=torch.int64)
    test = longtail.subsample(labels, TEST_PER_CLASS * ones, draw)
    held_out = longtail.subsample(labels, (TEST_PER_CLASS + VAL_PER_CLASS) * ones, draw)  # a superset of test
    val = held_out[~torch.isin(held_out, test)]
    rest = torch.nonzero(~torch.isin(torch.arange(len(labels)), held_out)).flatten()
    available = torch.bincount(labels[rest], minlength=10)
    if n_max is None:
        n_max = longtail.largest_n_max(profile, available, imbalance)
    counts = longtail.class_counts(profile, 10, n_max, imbalance)
    train = rest[longtail.subsample(labels[rest], counts, draw)]

    splits = {name: everything.subset(index) for name, index in (("train", train), ("val", val), ("test", test))}
    preprocess = Preprocess(size, *statistics(images), "L")
    return Data("digits", tuple(str(d) for d in order), splits, preprocess, counts)
