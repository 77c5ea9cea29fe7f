"""Gate, batch norm, shortcut and the next layer's bits in one pass, against torch's functions and bitpack: branches of
BNext-Tiny."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from bench._harness import Case, Work
from bnn import ops
from python_tests.shapes import Pack

_SHAPES = tuple(
    Pack(n, c, size, size, "float16") for n, c, size in ((1, 32, 112), (1, 128, 56), (1, 512, 14), (16, 512, 14))
)
SHAPES = {"cpu": _SHAPES, "cuda": _SHAPES}


def case(shape: Pack, multiply: bool, device: str) -> Case:
    x, residual = torch.randn(2, *shape.shape, device=device).half().unbind()
    x, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, residual))
    gate = torch.rand(shape.n, shape.c, 1, 1, device=device).half()
    scale, bias, shift, mean = torch.randn(4, shape.c, device=device)
    variance = torch.ones(shape.c, device=device)

    def each() -> tuple[torch.Tensor, torch.Tensor]:
        t = gate * x * residual if multiply else gate * x
        t = F.batch_norm(t, mean, variance, scale, bias) + residual
        return t, ops.bitpack(t, shift)

    ours = Work(
        lambda: ops.gated_add(x, residual, gate, scale, bias, multiply, shift, torch.float16),
        3 * x.nbytes + x.numel() // 8,
    )
    text = f"{list(shape.shape)} {shape.dtype}" + (" element attention" if multiply else "")
    return Case("gated_add", text, ours, {"torch": each})


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES[device]:
        for multiply in (False, True):
            yield case(shape, multiply, device)
