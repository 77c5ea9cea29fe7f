"""The dispatcher namespace `bnn`: how an op of this package is declared.

A schema, a pure-torch reference that serves every device, and a fake that serves `torch.compile` and meta tensors.
Compiled kernels are registered for CPU or CUDA by `bnn._C` and win over the reference wherever there is one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SURROGATES = ("clip", "polynomial")
SCALES = ("none", "mean")

library = torch.library.Library("bnn", "FRAGMENT")
references: dict[str, Callable] = {}


def define(schema: str, reference: Callable, fake: Callable) -> None:
    """Declare `bnn::schema` with the implementation for every device and its shape function."""
    name = schema.partition("(")[0]
    library.define(schema, tags=torch.Tag.pt2_compliant_tag)
    library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"bnn::{name}", fake, lib=library)
    references[name] = reference


def register_autograd(name: str, backward: Callable, setup_context: Callable) -> None:
    torch.library.register_autograd(f"bnn::{name}", backward, setup_context=setup_context, lib=library)


def define_composite(schema: str, function: Callable) -> None:
    """Declare an op that is written in terms of other ops of this namespace, gradient included."""
    library.define(schema, tags=torch.Tag.pt2_compliant_tag)
    library.impl(schema.partition("(")[0], function, "CompositeImplicitAutograd")


def check(condition: bool, op: str, argument: str, expected: str, got: object) -> None:
    """RuntimeError in the same words as the compiled kernels: op, argument, what was expected, what came."""
    if not condition:
        raise RuntimeError(f"bnn::{op}: {argument} must be {expected}, got {got}")


def check_float(op: str, argument: str, x: Tensor) -> None:
    check(x.dtype in FLOATS, op, argument, "float32, bfloat16 or float16", x.dtype)


def check_choice(op: str, argument: str, value: str, choices: tuple[str, ...]) -> None:
    check(value in choices, op, argument, f"one of {list(choices)}", repr(value))


def check_channels(op: str, argument: str, vector: Tensor | None, channels: int, like: Tensor) -> None:
    """A per-channel float vector on the device of `like`, or None."""
    if vector is not None:
        check(tuple(vector.shape) == (channels,), op, argument, f"of shape [{channels}]", list(vector.shape))
        check_float(op, argument, vector)
        check_device(op, argument, vector, like)


def check_device(op: str, argument: str, tensor: Tensor, like: Tensor) -> None:
    check(tensor.device == like.device, op, argument, f"on {like.device}, where x is", tensor.device)


def channel_view(vector: Tensor, dim: int) -> Tensor:
    """[C] -> [1, C, 1, 1] (dim 4) or [1, C] (dim 2), float32."""
    return vector.float().reshape(1, -1, *(1,) * (dim - 2))


def channels_last_empty(x: Tensor, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    """Empty [N, C, H, W] on x's device whose memory is [N, H, W, C]."""
    n, c, h, w = shape
    return x.new_empty((n, h, w, c), dtype=dtype).permute(0, 3, 1, 2)


def autocast(x: Tensor) -> Tensor:
    """x in the autocast type of its device, where autocast is on."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return x.to(torch.get_autocast_dtype(device))
    return x


def pair(value: int | list[int] | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
