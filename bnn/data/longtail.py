"""Long-tailed class sizes and the three groups that results are reported in, for any labelled data set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bnn.data.hashing import hash64

PROFILES = ("exponential", "step")
MANY_ABOVE = 100
FEW_BELOW = 20


def _shares(profile: str, num_classes: int, imbalance: float) -> list[float]:
    """Size of each class relative to the largest, in class order."""
    if profile not in PROFILES:
        raise ValueError(f"profile: expected one of {', '.join(PROFILES)}; got {profile!r}")
    if num_classes < 2:
        raise ValueError(f"num_classes: a long tail needs at least 2 classes; got {num_classes}")
    if not imbalance >= 1:
        raise ValueError(f"imbalance: the largest class over the smallest, at least 1 (1 is balanced); got {imbalance}")
    mu = 1.0 / imbalance
    if profile == "exponential":
        return [mu ** (k / (num_classes - 1)) for k in range(num_classes)]
    return [1.0 if k < num_classes // 2 else mu for k in range(num_classes)]


def class_counts(profile: str, num_classes: int, n_max: int, imbalance: float) -> Tensor:
    """Training images of each class, class 0 the largest; int64 [K].

    exponential: n_k = int(n_max * mu^(k/(K-1))), mu = 1/imbalance (Cui et al. 2019, CIFAR-LT);
    step: the first K//2 classes have n_max, the others int(mu * n_max) (Buda et al. 2018).

    Raises ValueError for an unknown profile, imbalance < 1, fewer than 2 classes, or a smallest class without images.
    """
    # 1e-9: 49 * (1/49) is 0.999... in float64 and would lose an image to truncation.
    counts = [int(n_max * share + 1e-9) for share in _shares(profile, num_classes, imbalance)]
    if min(counts) < 1:
        raise ValueError(
            f"n_max: {n_max} images at imbalance {imbalance:g} leave the smallest class empty; "
            f"use n_max >= {int(np.ceil(imbalance))} or a smaller imbalance"
        )
    return torch.tensor(counts, dtype=torch.int64)


def largest_n_max(profile: str, available: Tensor, imbalance: float) -> int:
    """Largest n_max whose `class_counts` every class can supply; available: int [K], images of each class."""
    shares = _shares(profile, len(available), imbalance)
    n_max = int(available[0])
    while n_max > 0 and any(int(n_max * s + 1e-9) > int(a) for s, a in zip(shares, available, strict=True)):
        n_max -= 1
    return n_max


def subsample(labels: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Indices of `counts[k]` images of each class k; int64 [sum(counts)], ascending.

    Images rank by a hash of (seed, index): the choice depends on nothing else, and smaller counts choose a subset of
    what larger ones choose.

    labels: int [N] in [0, K). counts: int [K].
    Raises ValueError for a label outside [0, K) or a class with fewer images than wanted.
    """
    labels = torch.as_tensor(labels)
    if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < len(counts)):
        raise ValueError(
            f"labels: expected 0 to {len(counts) - 1} for {len(counts)} counts; "
            f"got {int(labels.min())} to {int(labels.max())}"
        )
    chosen = []
    for k, wanted in enumerate(counts.tolist()):
        members = torch.nonzero(labels == k).flatten()
        if len(members) < wanted:
            raise ValueError(f"counts: class {k} has {len(members)} images, {wanted} are wanted; lower n_max")
        order = np.argsort(hash64(seed, members.numpy()), kind="stable")[:wanted]
        chosen.append(members[torch.from_numpy(order)])
    return torch.cat(chosen).sort().values


def groups(counts: Tensor) -> dict[str, Tensor]:
    """Masks bool [K] by training count: many > 100, few < 20, medium 20 to 100 (Liu et al. 2019, ImageNet-LT)."""
    many, few = counts > MANY_ABOVE, counts < FEW_BELOW
    return {"many": many, "medium": ~(many | few), "few": few}
