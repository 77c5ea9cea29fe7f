"""Binary convolution on words, against F.conv2d on +-1 floats; on CUDA, cuDNN in half and int8 matrix products."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from bench._harness import Call, Case, Work
from bench.binary_linear import int8_product
from bnn import ops
from python_tests.shapes import CONVS, Conv

DTYPES = {"cpu": torch.float32, "cuda": torch.float16}  # of the rivals, and of what the fused form reads and writes

_RESNET18 = tuple(layer for name, layer in CONVS.items() if name.startswith("resnet18/"))
_GLYPHS = tuple(replace(CONVS[name], n=128) for name in ("glyphs/32x16", "glyphs/64x8", "glyphs/128x4"))
_LAYERS = (*_RESNET18, CONVS["mobilenet/1x1/512x14"], CONVS["mobilenet/depthwise/512x14"])
SHAPES: dict[str, tuple[Conv, ...]] = {
    "cpu": (*_LAYERS, *_GLYPHS),
    "cuda": (*_LAYERS, *(replace(layer, n=64) for layer in _LAYERS), *_GLYPHS),
}
FUSED: dict[str, tuple[Conv, ...]] = {
    "cpu": _RESNET18,
    "cuda": (*_RESNET18, *(replace(layer, n=64) for layer in _RESNET18)),
}


def floats(layer: Conv, device: str) -> tuple[Tensor, Tensor]:
    """Image and filters of +-1, channels-last."""
    x = torch.randn(layer.n, layer.c, layer.h, layer.w, device=device)
    w = torch.randn(layer.k, layer.c // layer.groups, layer.r, layer.s, device=device)
    x, w = (t.sign().to(DTYPES[device]).contiguous(memory_format=torch.channels_last) for t in (x, w))
    return x, w


def ours(layer: Conv, device: str) -> Work:
    x, w = (ops.bitpack(t) for t in floats(layer, device))

    def call() -> Tensor:
        return ops.binary_conv2d(x, w, layer.c, *layer.geometry)

    return Work(call, x.nbytes + w.nbytes + call().nbytes, layer.macs, binary=layer.groups < layer.c)


def rivals(layer: Conv, device: str) -> dict[str, Call]:
    """The int8 matrix product of the same size gathers no pixels: it is the least that an int8 convolution costs."""
    x, w = floats(layer, device)
    found: dict[str, Call] = {str(x.dtype)[6:]: lambda: F.conv2d(x, w, None, *layer.geometry[:4])}
    rows, depth = layer.n * layer.output[0] * layer.output[1], layer.c * layer.r * layer.s
    if device == "cuda" and layer.groups == 1:
        found |= int8_product(rows, depth, layer.k, device)
    return found


def fused(layer: Conv, device: str) -> tuple[Work, Call]:
    """Convolution, scale, bias, shortcut, RPReLU, stream and next words; the same in eager torch, without the words."""
    x, w = floats(layer, device)
    words, filters = ops.bitpack(x), ops.bitpack(w)
    scale, bias, shift, *rprelu = torch.randn(6, layer.k, device=device).unbind()
    table = torch.stack(rprelu)
    shortcut = torch.randn(layer.n, layer.k, *layer.output, device=device).to(x.dtype)
    shortcut = shortcut.contiguous(memory_format=torch.channels_last)
    rows = [t.to(x.dtype).view(1, -1, 1, 1) for t in (scale, bias, *rprelu)]
    slope = rprelu[1].to(x.dtype)

    def call() -> tuple[Tensor, Tensor]:
        return ops.binary_conv2d_fused(
            words, filters, layer.c, *layer.geometry, scale, bias, shortcut, table, shift, x.dtype
        )

    def eager() -> Tensor:
        y = F.conv2d(x, w, None, *layer.geometry[:4]) * rows[0] + rows[1] + shortcut
        return F.prelu(y + rows[2], slope) + rows[4]

    moved = sum(t.nbytes for t in (words, filters, shortcut, *call()))
    return Work(call, moved, layer.macs, binary=layer.groups < layer.c), eager


def text(layer: Conv) -> str:
    size = f"N{layer.n} C{layer.c} K{layer.k} {layer.h}x{layer.w} {layer.r}x{layer.s}/{layer.stride[0]}"
    return size + (f" G{layer.groups}" if layer.groups > 1 else "")


def cases(device: str) -> Iterator[Case]:
    for layer in SHAPES[device]:
        yield Case("binary_conv2d", text(layer), ours(layer, device), rivals(layer, device))
    for layer in FUSED[device]:
        work, eager = fused(layer, device)
        yield Case("binary_conv2d_fused", text(layer), work, {"eager": eager})
