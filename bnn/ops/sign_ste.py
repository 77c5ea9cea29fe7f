"""Sign with a straight-through gradient, and what a fused op saves of it."""

import torch
from torch import Tensor

from bnn.ops._library import (
    SURROGATES,
    channel_view,
    check,
    check_channels,
    check_choice,
    check_device,
    check_float,
    define,
    register_autograd,
)
from bnn.ops.bitpack import negative, pack_bits, unpack_bits, word_count


def sign_ste(x: Tensor, shift: Tensor | None = None, surrogate: str = "polynomial") -> Tensor:
    """sign(v), v = x + shift[c], with the gradient of a surrogate; sign(0) = sign(-0.0) = sign(NaN) = +1.

    The gradient with respect to x is grad * f(v) and with respect to shift its sum over everything but channels:
    "clip": f(v) = 1 where |v| <= 1 (Hubara et al. 2016, eq. 4); "polynomial": f(v) = max(0, 2 - 2 |v|)
    (Liu et al. 2018, Bi-Real net, eq. 5). NaN has gradient 0.

    Args:
        x: [N, C, H, W] or [M, C]; float32, bfloat16 or float16.
        shift: [C] or None; v is taken in float32.
        surrogate: "clip" or "polynomial".

    Returns:
        -1 or +1, shape and dtype of x.

    Equivalent to (forward): `torch.where(x + shift < 0, -1.0, 1.0)`
    """
    return torch.ops.bnn.sign_ste(x, shift, surrogate)


def surrogate_factor(v: Tensor, surrogate: str) -> Tensor:
    """d sign(v) / dv by the surrogate, float32; NaN -> 0."""
    if surrogate == "clip":
        return (v.abs() <= 1).float()
    return (2 - 2 * v.abs()).clamp_min(0).nan_to_num(0.0)


def _value(x: Tensor, shift: Tensor | None) -> Tensor:
    return x.float() if shift is None else x.float() + channel_view(shift, x.dim())


def _check(op: str, x: Tensor, shift: Tensor | None, surrogate: str) -> None:
    check(x.dim() in (2, 4), op, "x", "[N, C, H, W] or [M, C]", list(x.shape))
    check_float(op, "x", x)
    check_channels(op, "shift", shift, x.shape[1], x)
    check_choice(op, "surrogate", surrogate, SURROGATES)


def _sign_reference(x: Tensor, shift: Tensor | None = None, surrogate: str = "polynomial") -> Tensor:
    _check("sign_ste", x, shift, surrogate)
    return torch.where(_value(x, shift) < 0, -1.0, 1.0).to(x.dtype)


def _sign_fake(x: Tensor, shift: Tensor | None = None, surrogate: str = "polynomial") -> Tensor:
    _check("sign_ste", x, shift, surrogate)
    return torch.empty_like(x)


def _backward_reference(grad: Tensor, x: Tensor, shift: Tensor | None, surrogate: str) -> Tensor:
    _check("sign_ste_backward", x, shift, surrogate)
    check(grad.shape == x.shape, "sign_ste_backward", "grad", f"of x's shape {list(x.shape)}", list(grad.shape))
    result = torch.empty_like(x)
    return result.copy_(grad.float() * surrogate_factor(_value(x, shift), surrogate))


def _backward_fake(grad: Tensor, x: Tensor, shift: Tensor | None, surrogate: str) -> Tensor:
    return torch.empty_like(x)


define(
    "sign_ste(Tensor x, Tensor? shift=None, str surrogate='polynomial') -> Tensor",
    _sign_reference,
    _sign_fake,
)
define(
    "sign_ste_backward(Tensor grad, Tensor x, Tensor? shift, str surrogate) -> Tensor",
    _backward_reference,
    _backward_fake,
)


def channel_sum(grad: Tensor, like: Tensor) -> Tensor:
    """Sum over all but channels, in float32, returned in the dtype of `like`."""
    return grad.sum([d for d in range(grad.dim()) if d != 1], dtype=torch.float32).to(like.dtype)


def _setup_context(ctx, inputs, output) -> None:
    x, shift, ctx.surrogate = inputs
    ctx.save_for_backward(x, shift)


def _backward(ctx, grad: Tensor):
    x, shift = ctx.saved_tensors
    grad_x = torch.ops.bnn.sign_ste_backward(grad, x, shift, ctx.surrogate)
    wants_shift = shift is not None and ctx.needs_input_grad[1]  # trailing defaults are not among the inputs
    return grad_x, channel_sum(grad_x, shift) if wants_shift else None, None


register_autograd("sign_ste", _backward, _setup_context)


# What a fused training op keeps of x: its signs as words, and the surrogate's factor in 1 bit (clip) or in 8 bits
# (polynomial: q = round(255 max(0, 1 - |v|)), factor = 2 q / 255, off by at most 1/255 of a peak of 2).


def _residue_reference(x: Tensor, shift: Tensor | None, surrogate: str) -> tuple[Tensor, Tensor]:
    _check("ste_residue", x, shift, surrogate)
    words = pack_bits(negative(x, shift))
    value = _value(x, shift).movedim(1, -1)
    if surrogate == "clip":
        return words, pack_bits(value.abs() <= 1)
    return words, (255 * (1 - value.abs()).clamp_min(0).nan_to_num(0.0)).round().to(torch.uint8).contiguous()


def _residue_fake(x: Tensor, shift: Tensor | None, surrogate: str) -> tuple[Tensor, Tensor]:
    _check("ste_residue", x, shift, surrogate)
    n, c, *space = x.shape
    words = x.new_empty((n, *space, word_count(c)), dtype=torch.int64)
    return words, torch.empty_like(words) if surrogate == "clip" else x.new_empty((n, *space, c), dtype=torch.uint8)


def _check_residue(grad: Tensor, residue: Tensor, surrogate: str) -> None:
    op = "ste_residue_backward"
    check(grad.dim() in (2, 4), op, "grad", "[N, C, H, W] or [M, C]", list(grad.shape))
    check_float(op, "grad", grad)
    check_choice(op, "surrogate", surrogate, SURROGATES)
    check_device(op, "residue", residue, grad)
    n, c, *space = grad.shape
    expected = (n, *space, word_count(c) if surrogate == "clip" else c)
    check(tuple(residue.shape) == expected, op, "residue", f"of shape {list(expected)}", list(residue.shape))
    dtype = torch.int64 if surrogate == "clip" else torch.uint8
    check(residue.dtype == dtype, op, "residue", f"{dtype} for {surrogate!r}", residue.dtype)


def _residue_backward_reference(grad: Tensor, residue: Tensor, surrogate: str) -> Tensor:
    _check_residue(grad, residue, surrogate)
    factor = unpack_bits(residue, grad.shape[1]).float() if surrogate == "clip" else residue.float() * (2 / 255)
    return (grad.float().movedim(1, -1) * factor).to(grad.dtype).contiguous().movedim(-1, 1)


def _residue_backward_fake(grad: Tensor, residue: Tensor, surrogate: str) -> Tensor:
    _check_residue(grad, residue, surrogate)
    n, c, *space = grad.shape
    return grad.new_empty((n, *space, c)).movedim(-1, 1)


define(
    "ste_residue(Tensor x, Tensor? shift, str surrogate) -> (Tensor, Tensor)",
    _residue_reference,
    _residue_fake,
)
define(
    "ste_residue_backward(Tensor grad, Tensor residue, str surrogate) -> Tensor",
    _residue_backward_reference,
    _residue_backward_fake,
)
