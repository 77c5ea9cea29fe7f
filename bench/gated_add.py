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


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES[device]:
        c, last = shape.c, torch.channels_last
        x, residual = (torch.randn(shape.shape, device=device).half().contiguous(memory_format=last) for _ in range(2))
        gate = torch.rand(shape.n, c, 1, 1, device=device).half()
        scale, bias, shift, mean = torch.randn(4, c, device=device)
        one = torch.ones(c, device=device)

        def ours(multiply: bool, x=x, residual=residual, gate=gate, scale=scale, bias=bias, shift=shift) -> object:
            return ops.gated_add(x, residual, gate, scale, bias, multiply, shift, torch.float16)

        def each(multiply: bool, x=x, residual=residual, gate=gate, scale=scale, bias=bias, shift=shift, mean=mean,
                 one=one) -> object:  # fmt: skip
            t = gate * x
            t = F.batch_norm(t * residual if multiply else t, mean, one, scale, bias) + residual
            return t, ops.bitpack(t, shift)

        moved = 3 * x.nbytes + x.numel() // 8
        for multiply in (False, True):
            text = f"{list(shape.shape)} {shape.dtype}" + (" element attention" if multiply else "")
            work = Work(lambda multiply=multiply, ours=ours: ours(multiply), moved)
            yield Case("gated_add", text, work, {"torch": lambda multiply=multiply, each=each: each(multiply)})
