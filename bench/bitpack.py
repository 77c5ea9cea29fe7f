"""Signs to words, against making +-1 floats of them."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from bench._harness import Call, Case, Work
from bnn import ops
from python_tests.shapes import Pack

_SHAPES = tuple(
    Pack(n, c, size, size, dtype)
    for n, c, size in ((1, 64, 56), (128, 32, 16), (128, 64, 8), (128, 128, 4))
    for dtype in ("float32", "bfloat16")
)
SHAPES = {"cpu": _SHAPES, "cuda": (*_SHAPES, *(replace(shape, n=64) for shape in _SHAPES[:2]))}


def signs(shape: Pack, device: str) -> torch.Tensor:
    x = torch.randn(shape.shape, device=device).to(getattr(torch, shape.dtype))
    return x.contiguous(memory_format=torch.channels_last) if shape.layout == "channels_last" and shape.h else x


def ours(x: torch.Tensor) -> Work:
    return Work(lambda: ops.bitpack(x), x.nbytes + ops.bitpack(x).nbytes)


def rival(x: torch.Tensor) -> Call:
    return lambda: torch.where(x < 0, -1.0, 1.0)


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES[device]:
        x = signs(shape, device)
        yield Case("bitpack", f"{list(shape.shape)} {shape.dtype}", ours(x), {"where": rival(x)})
