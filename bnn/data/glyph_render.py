"""From characters to images: a bank of drawn characters, then distortion, light and noise, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.data.fonts import coverage, ink, open_font
from bnn.data.hashing import normal, uniform

if TYPE_CHECKING:
    from PIL.Image import Image

CANVAS, POINTS, INK = 64, 40, 46  # pixels: canvas side, font size, largest ink side; twice that for 64x64 images


class Bank:
    """Every character in every font that draws it. canvas: uint8 [M, 3, S, S], channels thin, plain and bold.

    slots: for each character its rows of `canvas`, in the order of the fonts.
    Raises ValueError if no font draws a character.
    """

    def __init__(self, chars: Sequence[str], fonts: Sequence[Path], image_size: int) -> None:
        zoom = max(1, math.ceil(2 * image_size / CANVAS))
        self.slots: list[list[int]] = [[] for _ in chars]
        drawn: list[np.ndarray] = []
        for path in fonts:
            face, has = open_font(path, POINTS * zoom), coverage(path)
            for slots, char in zip(self.slots, chars, strict=True):
                image = ink(face, char) if ord(char) in has else None
                if image is not None:
                    slots.append(len(drawn))
                    drawn.append(_centered(image, CANVAS * zoom, INK * zoom))
        for slots, char in zip(self.slots, chars, strict=True):
            if not slots:
                raise ValueError(f"glyphs: no font here draws U+{ord(char):04X}; pip install -U matplotlib")
        plain = torch.from_numpy(np.stack(drawn))
        self.canvas = torch.stack([255 - _spread(255 - plain, zoom), plain, _spread(plain, zoom)], 1)


def _centered(image: Image, side: int, largest: int) -> np.ndarray:
    image.thumbnail((largest, largest))
    canvas = np.zeros((side, side), np.uint8)
    top, left = (side - image.height) // 2, (side - image.width) // 2
    canvas[top : top + image.height, left : left + image.width] = np.asarray(image)
    return canvas


def _spread(x: Tensor, radius: int) -> Tensor:
    """Largest value within `radius` pixels in rows and columns; uint8 [M, S, S] with a constant border."""
    for dim in (1, 2):
        shifted = [x.roll(s, dim) for s in range(-radius, radius + 1)]
        x = torch.stack(shifted).amax(0)
    return x


def _field(kind: int, keys: np.ndarray, size: int, channels: int = 1, knots: int = 5) -> Tensor:
    """A smooth random field of unit variance at its knots; float32 [B, channels, size, size]."""
    values = normal(keys[:, None], kind, np.arange(channels * knots * knots))
    coarse = torch.from_numpy(values).view(-1, channels, knots, knots)
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=True)


def _view(u: Tensor, keys: np.ndarray, size: int) -> Tensor:
    """Sampling grid [B, size, size, 2]: rotation +-15 degrees, shear +-0.3, sides 0.65-0.95, shift +-0.1, elastic 0.03.

    Lengths are in units of half the canvas.
    """
    angle = (2 * u[:, 0] - 1) * math.radians(15)
    shear = (2 * u[:, 1] - 1) * 0.3
    wide, high = 0.65 + 0.3 * u[:, 2], 0.65 + 0.3 * u[:, 3]
    cos, sin = angle.cos(), angle.sin()
    shift = (2 * u[:, 4:6] - 1) * 0.1
    top = torch.stack([cos * wide, (cos * shear - sin) * high, shift[:, 0]], 1)
    bottom = torch.stack([sin * wide, (sin * shear + cos) * high, shift[:, 1]], 1)
    grid = F.affine_grid(torch.stack([top, bottom], 1), [len(u), 1, size, size], align_corners=False)
    return grid + 0.03 * _field(1, keys, size, channels=2).permute(0, 2, 3, 1)


def _soften(x: Tensor) -> Tensor:
    """3x3 binomial blur with the edge repeated; [B, 1, H, W]."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    p = 0.25 * (p[..., :-2] + p[..., 2:]) + 0.5 * p[..., 1:-1]
    return 0.25 * (p[..., :-2, :] + p[..., 2:, :]) + 0.5 * p[..., 1:-1, :]


def render(bank: Bank, slots: Tensor, keys: np.ndarray, size: int) -> Tensor:
    """Images uint8 [B, 1, size, size] of the bank's rows `slots`; keys: uint64 [B], all that is random in an image.

    Stroke thinner or bolder, view (see `_view`), blur of up to two 3x3 binomials, contrast 0.35-0.7 over a ground of
    0.05 or more with a texture of 0.07, noise 0.01-0.06 (standard deviations), dark on light or light on dark.
    """
    u = torch.from_numpy(uniform(keys[:, None], 0, np.arange(16)))

    def column(i: int) -> Tensor:
        return u[:, i].view(-1, 1, 1, 1)

    weight = 1.5 * column(6) - 0.5  # at most half thinned: hairlines survive
    other = torch.where(u[:, 6] < 1 / 3, 0, 2)
    pair = torch.stack([bank.canvas[slots, 1], bank.canvas[slots, other]], 1).float().div_(255)
    seen = F.grid_sample(pair, _view(u, keys, size), align_corners=False)
    x = torch.lerp(seen[:, :1], seen[:, 1:], weight.abs())
    blur = 2 * column(7)
    x = torch.lerp(x, _soften(x), blur.clamp(max=1))
    x = torch.lerp(x, _soften(x), (blur - 1).clamp(min=0))
    contrast = 0.35 + 0.35 * column(8)
    x = 0.05 + (0.9 - contrast) * column(9) + contrast * x
    x = torch.where(column(10) < 0.5, x, 1 - x)
    x += 0.07 * _field(2, keys, size)
    noise = torch.from_numpy(normal(keys[:, None], 3, np.arange(size * size)))
    x += (0.01 + 0.05 * column(11)) * noise.view_as(x)
    return x.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
