"""Per-layer facts of a network: shapes, parameters, multiplications."""

import math
from typing import Any

import torch
from torch import nn

from bnn.nn import (
    BinaryConv2d,
    BinaryLinear,
    CosineLinear,
    GatedAdd,
    Int8Conv2d,
    Int8Linear,
    PackedBinaryConv2d,
    PackedBinaryLinear,
)

_BINARY = (BinaryConv2d, BinaryLinear, PackedBinaryConv2d, PackedBinaryLinear)
_INT8 = (Int8Conv2d, Int8Linear)
_ROUTED = (*_BINARY, *_INT8, GatedAdd)
_REAL = (nn.Conv2d, nn.Linear, CosineLinear, *_INT8)


def summary(model: nn.Module, image_size: int, in_channels: int) -> list[dict]:
    """One row a layer that holds parameters or buffers, in the order of execution, for one image.

    Returns:
        Rows with name, kind, output (shape without N), binary_macs, real_macs, binary_bits, real_parameters (of the
        shipped model: latent weights count as one bit), kernel ("torch", or what the layer runs on once packed, which
        on a CPU with a matrix unit depends on its shape).
    """
    rows: list[dict] = []
    hooks = []
    for name, module in model.named_modules():
        if any(True for _ in module.children()) or not any(True for _ in [*module.parameters(), *module.buffers()]):
            continue
        hooks.append(module.register_forward_hook(_recorder(rows, name)))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, in_channels, image_size, image_size))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return rows


def _recorder(rows: list[dict], name: str):
    def record(module: Any, inputs, output) -> None:
        shape = _output_shape(module, output)
        binary = isinstance(module, _BINARY)
        weights = module.weight.numel() if hasattr(module, "weight") else 0
        if isinstance(module, PackedBinaryConv2d):
            r, s = module.kernel_size
            weights = module.out_channels * (module.in_channels // module.groups) * r * s
        elif isinstance(module, PackedBinaryLinear):
            weights = module.out_features * module.in_features
        pixels = shape[1] * shape[2] if len(shape) == 3 else 1
        if isinstance(module, Int8Conv2d):
            pixels = _pixels_before_pooling(module, inputs[0])
        macs = weights * pixels if isinstance(module, _BINARY + _REAL) else 0
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        real = sum(t.numel() for t in tensors if t.is_floating_point() or t.dtype == torch.int8) - (
            weights if _latent(module) else 0
        )
        rows.append(
            {
                "name": name,
                "kind": type(module).__name__,
                "output": shape,
                "binary_macs": macs if binary else 0,
                "real_macs": 0 if binary else macs,
                "binary_bits": weights if binary else 0,
                "real_parameters": real,
                "kernel": _kernel(module, inputs[0]) if isinstance(module, _ROUTED) else "torch",
            }
        )

    return record


def _kernel(module: Any, x: torch.Tensor) -> str:
    """What a binary layer, in its packed form, or another packed one runs on for the input x."""
    if isinstance(module, BinaryConv2d):
        geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups, module.pad_value)
        module = PackedBinaryConv2d(module.in_channels, module.out_channels, *geometry)
    elif isinstance(module, BinaryLinear):
        module = PackedBinaryLinear(module.in_features, module.out_features)
    return module.route(x)


def _pixels_before_pooling(layer: Int8Conv2d, x: torch.Tensor) -> int:
    sizes = zip(x.shape[2:], layer.kernel_size, layer.stride, layer.padding, strict=True)
    return math.prod((size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in sizes)


def _latent(module: nn.Module) -> bool:
    return isinstance(module, BinaryConv2d | BinaryLinear)


def _output_shape(module: Any, output) -> list[int]:
    if isinstance(output, tuple):
        output = output[0]
    if output.dtype == torch.int64 and output.dim() == 4:  # words [N, OH, OW, L]
        return [len(module.scale), *output.shape[1:3]]
    if output.dtype == torch.int64:
        return [len(module.scale)]
    return list(output.shape[1:])
