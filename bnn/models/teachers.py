"""Frozen full-precision encoders by name, for images that were prepared for another network."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnn.models import external
from bnn.models.checkpoints import read_state


class Encoder(nn.Module):
    """network(images in its own colours, size and normalization); frozen, and in eval mode whatever is asked.

    Args:
        body: the network and what it expects.
        mean, std: with which the images come normalized, one number a channel (1 or 3).
        scale: their sides are multiplied by it (bilinear), and rounded.
    """

    def __init__(self, body: external.Body, mean: Sequence[float], std: Sequence[float], scale: float = 1.0) -> None:
        super().__init__()
        self.network = body.network.requires_grad_(False)
        self.feature_dim, self.scale = body.feature_dim, scale
        ours = torch.tensor([list(mean), list(std)])
        theirs = torch.tensor([list(body.mean), list(body.std)])
        # ((x std + mean) - mean') / std'; a single channel becomes three
        self.register_buffer("factor", (ours[1] / theirs[1]).view(-1, 1, 1), persistent=False)
        self.register_buffer("offset", ((ours[0] - theirs[0]) / theirs[1]).view(-1, 1, 1), persistent=False)
        self.train(False)

    factor: Tensor
    offset: Tensor

    def train(self, mode: bool = True) -> "Encoder":
        return super().train(False)

    def prepare(self, x: Tensor) -> Tensor:
        """[N, 1 or 3, H, W] -> [N, 3, H scale, W scale], normalized as the network expects."""
        if self.scale != 1.0:
            size = [max(1, round(side * self.scale)) for side in x.shape[-2:]]
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=self.scale < 1)
        return x * self.factor + self.offset

    def features(self, x: Tensor) -> Tensor:
        """[N, 1 or 3, H, W] -> [N, feature_dim]."""
        return self.network(self.prepare(x))

    forward = features


def teacher(
    name: str,
    weights: str | os.PathLike | None,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int,
    teacher_size: int | None = None,
) -> Encoder:
    """The encoder `name` for images of side `image_size` that are normalized by `mean` and `std`.

    Args:
        name: "torchvision:NETWORK" or "timm:NETWORK".
        weights: a checkpoint of the whole network (safetensors or torch.save, read with weights_only), whatever its
            number of classes; None: the weights that the library publishes, which it downloads or has downloaded.
        teacher_size: side to which images of side `image_size` are enlarged, others in proportion; None: the one that
            the published weights were made for; 0: images stay as they are.

    Raises:
        ValueError: no such network, weights that don't fit or can't be downloaded, neither 1 nor 3 channels.
        FileNotFoundError: no such file. ImportError: the library is missing.
    """
    if not external.is_external(name):
        raise ValueError(f"teacher: expected torchvision:NETWORK or timm:NETWORK, got {name!r}")
    if len(mean) not in (1, 3):
        raise ValueError(f"teacher: {name} sees 3 channels, or 1 as grey; the images have {len(mean)}")
    state: dict[str, Any] | None = None if weights is None else read_state(Path(weights))
    body = external.body(name, 3, pretrained=state is None)
    if state is not None and weights is not None:
        external.load(body, state, weights)
    size = body.size if teacher_size is None else teacher_size or image_size
    return Encoder(body, mean, std, size / image_size)
