"""Tensors for the cases of shapes.py, made without the package under test."""

import numpy as np
import torch
from torch import Tensor

SPECIAL = (0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1.0, -1.0, 1e-30, -1e-30, 0.5, -0.5)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(shape: tuple[int, ...], channels: int, generator: torch.Generator) -> Tensor:
    """Random int64 words [*shape, ceil(channels / 64)], tail bits 0."""
    count = -(-channels // 64)
    result = torch.randint(-(2**63), 2**63 - 1, (*shape, count), generator=generator)
    if channels % 64:
        result[..., -1] &= (1 << channels % 64) - 1
    return result


def relayout(x: Tensor, layout: str) -> Tensor:
    """The same values with other strides; "expanded" repeats the first image."""
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":  # every second element of a larger tensor, the last dimension offset by one
        large = x.new_empty([2 * s + 1 for s in x.shape])
        view = large[tuple(slice(1, None, 2) for _ in x.shape)]
        return view.copy_(x)
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "expanded":
        return x[:1].expand_as(x) if x.shape[0] else x
    return x.contiguous()


def floats(shape: tuple[int, ...], dtype: str, generator: torch.Generator, special: float = 0.2) -> Tensor:
    """Normal numbers, a share of which is replaced by zeros of both signs, NaN, infinities and ties."""
    x = torch.randn(shape, generator=generator)
    chosen = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=generator)]
    x = torch.where(torch.rand(shape, generator=generator) < special, chosen, x)
    return x.to(getattr(torch, dtype))


def shift_for(x: Tensor, generator: torch.Generator) -> Tensor:
    """Per-channel float32 shift [C]; some cancel the first pixel exactly, some are zeros of both signs."""
    shift = torch.randn(x.shape[1], generator=generator) * 0.5
    pick = torch.randint(4, (x.shape[1],), generator=generator)
    if x.numel():
        first = x.movedim(1, -1).reshape(-1, x.shape[1])[0].float()
        shift = torch.where((pick == 0) & first.isfinite(), -first, shift)
    return torch.where(pick == 1, torch.tensor(-0.0), shift)


def bits_equal(a: Tensor, b: Tensor) -> bool:
    """Same shape, dtype and bits; any NaN equals any NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    integer = {4: torch.int32, 2: torch.int16, 8: torch.int64}[a.element_size()]
    same = a.contiguous().view(integer) == b.contiguous().view(integer)
    return bool((same | (a.isnan() & b.isnan())).all())


def as_numpy(x: Tensor) -> np.ndarray:
    """float32 (exact for bfloat16 and float16) or integer array, contiguous."""
    return (x.detach().float() if x.is_floating_point() else x).contiguous().numpy()
