"""Ten usual corruptions of pictures at five severities (after Hendrycks and Dietterich, ICLR 2019; values are our own).

Lengths are shares of the picture's side, so a severity means the same at every size. What is random is drawn from a
generator of (seed, corruption, position): the same picture is harmed alike in any batch and at every severity.
"""

from __future__ import annotations

import difflib
import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.data.hashing import hash64
from bnn.data.images import Images, require

SEVERITIES = (1, 2, 3, 4, 5)

Generators = list[torch.Generator]
Corruption = Callable[[Tensor, float, Generators], Tensor]  # [B, C, H, W] in [0, 1], strength -> about [0, 1]


def _each(generators: Generators, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    return torch.stack([draw(generator) for generator in generators])


def gaussian_noise(x: Tensor, sigma: float, generators: Generators) -> Tensor:
    """x + sigma e, e normal in every pixel and channel."""
    return x + sigma * _each(generators, lambda g: torch.randn(x.shape[1:], generator=g))


def shot_noise(x: Tensor, photons: float, generators: Generators) -> Tensor:
    """Poisson(photons x) / photons."""
    return torch.stack([torch.poisson(y * photons, generator=g) for y, g in zip(x, generators, strict=True)]) / photons


def impulse_noise(x: Tensor, share: float, generators: Generators) -> Tensor:
    """A share of the pixels and channels black or white."""
    u = _each(generators, lambda g: torch.rand(x.shape[1:], generator=g))
    return torch.where(u < share, (u < share / 2).to(x.dtype), x)


def gaussian_blur(x: Tensor, sigma: float, generators: Generators) -> Tensor:
    """Convolution with a Gaussian of `sigma` sides, the edge repeated."""
    sigma *= x.shape[-1]
    radius = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    padded = F.pad(x, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=x.shape[1]), kernel.mT, groups=x.shape[1])


def motion_blur(x: Tensor, length: float, generators: Generators) -> Tensor:
    """Mean of the picture moved along a line of `length` sides, at any angle."""
    angle = _each(generators, lambda g: math.pi * torch.rand((), generator=g))
    steps = torch.linspace(
        -length, length, 2 * math.ceil(length * x.shape[-1]) + 1
    )  # half sides, as affine_grid counts
    total = torch.zeros_like(x)
    for step in steps.tolist():
        moves = torch.eye(2, 3).repeat(len(x), 1, 1)
        moves[:, 0, 2], moves[:, 1, 2] = step * angle.cos(), step * angle.sin()
        grid = F.affine_grid(moves, list(x.shape), align_corners=False)
        total += F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return total / len(steps)


def contrast(x: Tensor, factor: float, generators: Generators) -> Tensor:
    """m + factor (x - m), m the picture's mean."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + factor * (x - mean)


def brightness(x: Tensor, shift: float, generators: Generators) -> Tensor:
    """x + shift."""
    return x + shift


def pixelate(x: Tensor, factor: float, generators: Generators) -> Tensor:
    """Averaged down to `factor` of the side, enlarged again in squares."""
    small = max(1, round(factor * x.shape[-2])), max(1, round(factor * x.shape[-1]))
    return F.interpolate(F.interpolate(x, small, mode="area"), tuple(x.shape[2:]), mode="nearest-exact")


def jpeg(x: Tensor, quality: float, generators: Generators) -> Tensor:
    """Saved by Pillow as JPEG of this quality and read again."""
    pil = require("PIL.Image")
    out = []
    for picture in (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        pil.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(
            file, "JPEG", quality=int(quality)
        )
        out.append(torch.from_numpy(np.array(pil.open(file))).view(*x.shape[2:], -1).permute(2, 0, 1))
    return torch.stack(out) / 255


def occlusion(x: Tensor, side: float, generators: Generators) -> Tensor:
    """A grey square of `side` sides anywhere in the picture."""
    height, width = (max(1, round(side * n)) for n in x.shape[2:])
    corner = _each(generators, lambda g: torch.rand(2, generator=g))
    room = torch.tensor([x.shape[2] - height + 1, x.shape[3] - width + 1])
    top, left = (corner * room).long().view(-1, 2, 1, 1, 1).unbind(1)
    rows, columns = torch.arange(x.shape[2]).view(-1, 1), torch.arange(x.shape[3])
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    return torch.where(inside, 0.5, x)


# Name -> the corruption and its strength at each severity
CORRUPTIONS: dict[str, tuple[Corruption, Sequence[float]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "shot_noise": (shot_noise, (200, 100, 50, 25, 12)),
    "impulse_noise": (impulse_noise, (0.01, 0.03, 0.06, 0.11, 0.18)),
    "gaussian_blur": (gaussian_blur, (0.02, 0.03, 0.04, 0.05, 0.065)),
    "motion_blur": (motion_blur, (0.06, 0.1, 0.14, 0.2, 0.26)),
    "contrast": (contrast, (0.75, 0.55, 0.4, 0.25, 0.15)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "pixelate": (pixelate, (0.5, 0.4, 0.33, 0.27, 0.2)),
    "jpeg": (jpeg, (65, 40, 25, 15, 8)),
    "occlusion": (occlusion, (0.2, 0.3, 0.4, 0.5, 0.6)),
}


def find(names: Sequence[str]) -> list[str]:
    """The names themselves, or all for "all". Raises ValueError for an unknown one, naming the nearest."""
    for name in names:
        if name not in (*CORRUPTIONS, "all"):
            close = difflib.get_close_matches(name, CORRUPTIONS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"corruptions: expected all or some of {', '.join(CORRUPTIONS)}; got {name!r}{hint}")
    return list(CORRUPTIONS) if "all" in names else list(dict.fromkeys(names))


def corrupt(batch: Tensor, index: Tensor, name: str, severity: int, *, seed: int = 0) -> Tensor:
    """A batch with one of CORRUPTIONS, a function of (seed, name, index) and the pixels.

    batch: uint8 [B, C, H, W], C 1 or 3. index: int64 [B], positions in the data set. severity: 1 to 5.
    Returns uint8 [B, C, H, W]. Raises ValueError for another name or severity.
    """
    (name,) = find([name])
    if severity not in SEVERITIES:
        raise ValueError(f"severity: expected 1 to 5; got {severity}")
    function, strengths = CORRUPTIONS[name]
    keys = hash64(seed, list(CORRUPTIONS).index(name), index.cpu().numpy()) >> np.uint64(1)
    generators = [torch.Generator().manual_seed(int(key)) for key in keys]
    harmed = function(batch.cpu().float() / 255, strengths[severity - 1], generators) if len(batch) else batch.float()
    return (harmed.clamp(0, 1) * 255).round().to(torch.uint8).to(batch.device)


class CorruptedImages(Images):
    """Images with a corruption; position i is harmed as `corrupt` harms index i."""

    def __init__(self, images: Images, name: str, severity: int, seed: int = 0) -> None:
        self.clean, self.name, self.severity, self.seed = images, name, severity, seed
        self.labels = images.labels

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        index = torch.as_tensor(indices, dtype=torch.int64)
        return corrupt(self.clean.images(index), index, self.name, self.severity, seed=self.seed)
