"""Binary matrix product on words, against F.linear on +-1 floats; on CUDA, in half and int8."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from bench._harness import Call, Case, Work
from bnn import ops
from python_tests.shapes import Linear

_SHAPES = (Linear(1, 1024, 1000), Linear(1, 4096, 4096), Linear(64, 1024, 1000), Linear(128, 512, 512))
SHAPES = {"cpu": _SHAPES, "cuda": (*_SHAPES, Linear(128, 768, 3072), Linear(4096, 4096, 4096))}


def ours(layer: Linear, device: str) -> Work:
    x = ops.bitpack(torch.randn(layer.m, layer.c, device=device))
    w = ops.bitpack(torch.randn(layer.k, layer.c, device=device))

    def call() -> torch.Tensor:
        return ops.binary_linear(x, w, layer.c)

    return Work(call, x.nbytes + w.nbytes + call().nbytes, layer.m * layer.c * layer.k, binary=True)


def int8_product(m: int, c: int, k: int, device: str) -> dict[str, Call]:
    """[m, c] times [c, k] in int8, by cuBLAS; nothing where it refuses: 16 rows or fewer, odd columns."""
    if m <= 16 or c % 8 or k % 8:
        return {}
    x = torch.randint(0, 2, (m, c), device=device, dtype=torch.int8) * 2 - 1
    w = torch.randint(0, 2, (k, c), device=device, dtype=torch.int8) * 2 - 1
    return {"_int_mm int8": lambda: torch._int_mm(x, w.t())}


def rivals(layer: Linear, device: str) -> dict[str, Call]:
    dtype = torch.float16 if device == "cuda" else torch.float32
    x, w = (torch.randn(rows, layer.c, device=device).sign().to(dtype) for rows in (layer.m, layer.k))
    found: dict[str, Call] = {str(dtype)[6:]: lambda: F.linear(x, w)}
    return found | (int8_product(layer.m, layer.c, layer.k, device) if device == "cuda" else {})


def cases(device: str) -> Iterator[Case]:
    for layer in SHAPES[device]:
        shape = f"M{layer.m} C{layer.c} K{layer.k}"
        yield Case("binary_linear", shape, ours(layer, device), rivals(layer, device))
