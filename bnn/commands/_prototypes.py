"""Prototypes of classes in the features of a network, and which pictures lie at the right distance from one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import bnn
from bnn.data import Images
from bnn.training.predict import predict

Normalize = Callable[[Tensor], Tensor]

LOW, HIGH = 0.7, 0.98  # of the cosine: below, nothing in common; above, a near-duplicate (arXiv 2410.15980)


def features_of(network: Any) -> Callable[[Tensor], Tensor]:
    """[N, C, H, W] -> [N, D]: what the classifier of a network, packed or not, in eval mode gets."""
    if isinstance(network, bnn.PackedModel):
        body = bnn.PackedModel(network.steps[:-1], dict(network.layers.items()))
        return lambda images: _mean_over_pixels(body(images))
    return network.eval().features


def _mean_over_pixels(x: Tensor) -> Tensor:
    """Of images, which an 8-bit classifier averages itself; features stay as they are."""
    return x.float().mean((2, 3)) if x.dim() == 4 else x


def unit_features(features: Callable[[Tensor], Tensor], images: Images, normalize: Normalize) -> Tensor:
    """float32 [N, D] of length 1."""
    return F.normalize(predict(features, images, normalize)[0], dim=1)


def prototypes(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """[K, D] of length 1: the direction of the mean feature of every class; each class needs an image."""
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    return F.normalize(sums, dim=1)


def distances(features: Tensor, labels: Tensor, near: Tensor, prototype: Tensor) -> Tensor:
    """cos [N] of every picture with the nearest prototype among the targets of its class.

    features [N, D] and prototype [K, D] of length 1; labels int64 [N] in 0..M-1; near bool [K, M].
    """
    return (features @ prototype.T).masked_fill(~near.T[labels], -torch.inf).amax(1)
