"""Binary matrix product: on words, fused for inference, and with straight-through gradients for training."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.ops import _epilogue
from bnn.ops._library import (
    SCALES,
    SURROGATES,
    autocast,
    check,
    check_channels,
    check_choice,
    check_device,
    check_float,
    define,
    define_composite,
    register_autograd,
)
from bnn.ops._training import binarize_weight, restore_weight, weight_gradient
from bnn.ops.bitpack import bitunpack, check_words, word_count
from bnn.ops.sign_ste import channel_sum


def binary_linear(x: Tensor, weight: Tensor, in_features: int) -> Tensor:
    """Products of rows of +-1 values: y[m, k] = sum_c x[m, c] w[k, c].

    Args:
        x: int64 words [M, ceil(C / 64)].
        weight: int64 words [K, ceil(C / 64)].
        in_features: C.

    Returns:
        int32 [M, K], in [-C, C].

    Raises:
        RuntimeError: names the argument, what was expected and what came.

    Equivalent to: `bitunpack(x, C) @ bitunpack(weight, C).T`
    """
    return torch.ops.bnn.binary_linear(x, weight, in_features)


def binary_linear_fused(
    x: Tensor,
    weight: Tensor,
    in_features: int,
    scale: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    rprelu: Tensor | None = None,
    next_shift: Tensor | None = None,
    stream_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """`binary_linear` with the epilogue of `binary_conv2d_fused`, for inference. No gradient.

    Args:
        x, weight, in_features: as for `binary_linear`.
        scale, bias, residual [M, K], rprelu, next_shift, stream_dtype: as for `binary_conv2d_fused`.

    Returns:
        (stream [M, K] or [0], words [M, ceil(K / 64)] or [0]).
    """
    return torch.ops.bnn.binary_linear_fused(
        x, weight, in_features, scale, bias, residual, rprelu, next_shift, stream_dtype
    )


def binary_linear_route(x: Tensor, weight: Tensor, in_features: int, words: bool = False) -> str:
    """Name of what `binary_linear` runs on for these arguments; as `bnn.ops.binary_conv2d_route`."""
    return torch.ops.bnn.binary_linear_route(x, weight, in_features, words)


def binary_linear_ste(
    x: Tensor, weight: Tensor, shift: Tensor | None = None, surrogate: str = "polynomial", scale: str = "mean"
) -> Tensor:
    """Training form: y = alpha[k] * sign(x + shift) @ sign(w).T, gradients as in `binary_conv2d_ste`.

    Args:
        x: [M, C], float32, bfloat16 or float16; under autocast, cast to its type.
        weight: latent weights [K, C].
        shift: [C] or None.
        surrogate: "clip" or "polynomial".
        scale: "mean": alpha[k] = mean |w| of row k, not part of the gradient; "none": alpha = 1.

    Returns:
        [M, K] in the dtype of x.

    Equivalent to (forward): `alpha * F.linear(sign_ste(x, shift), sign_ste(weight))`
    """
    return torch.ops.bnn.binary_linear_ste(x, weight, shift, surrogate, scale)


def _check(op: str, x: Tensor, weight: Tensor, in_features: int) -> None:
    check_words(op, "x", x, in_features, (2,))
    check_words(op, "weight", weight, in_features, (2,))
    check_device(op, "weight", weight, x)


def _reference(x: Tensor, weight: Tensor, in_features: int) -> Tensor:
    _check("binary_linear", x, weight, in_features)
    return F.linear(bitunpack(x, in_features), bitunpack(weight, in_features)).to(torch.int32)


def _fake(x: Tensor, weight: Tensor, in_features: int) -> Tensor:
    _check("binary_linear", x, weight, in_features)
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.int32)


def _fused_reference(x: Tensor, weight: Tensor, in_features: int, *epilogue) -> tuple[Tensor, Tensor]:
    return _epilogue.reference("binary_linear_fused", _reference(x, weight, in_features), *epilogue)


def _fused_fake(x: Tensor, weight: Tensor, in_features: int, *epilogue) -> tuple[Tensor, Tensor]:
    return _epilogue.fake("binary_linear_fused", _fake(x, weight, in_features), *epilogue)


define("binary_linear(Tensor x, Tensor weight, int in_features) -> Tensor", _reference, _fake)
define(
    f"binary_linear_fused(Tensor x, Tensor weight, int in_features, {_epilogue.SCHEMA}) -> (Tensor, Tensor)",
    _fused_reference,
    _fused_fake,
)


def _route(*arguments) -> str:
    return "reference"


define("binary_linear_route(Tensor x, Tensor weight, int in_features, bool words=False) -> str", _route, _route)


def _check_ste(x: Tensor, weight: Tensor, shift: Tensor | None, surrogate: str, scale: str) -> None:
    op = "binary_linear_ste"
    check(x.dim() == 2, op, "x", "[M, C]", list(x.shape))
    check_float(op, "x", x)
    expected = f"[K, {x.shape[1]}], as many columns as x"
    check(weight.dim() == 2 and weight.shape[1] == x.shape[1], op, "weight", expected, list(weight.shape))
    check_float(op, "weight", weight)
    check_device(op, "weight", weight, x)
    check_channels(op, "shift", shift, x.shape[1], x)
    check_choice(op, "surrogate", surrogate, SURROGATES)
    check_choice(op, "scale", scale, SCALES)


def _ste_reference(x: Tensor, weight: Tensor, shift: Tensor | None, surrogate: str, scale: str):
    _check_ste(x, weight, shift, surrogate, scale)
    words, residue = torch.ops.bnn.ste_residue(x, shift, surrogate)
    weight_words, weight_mask, alpha = binarize_weight(weight, scale)
    y = F.linear(bitunpack(words, x.shape[1]), bitunpack(weight_words, x.shape[1]))
    y = y * alpha if scale == "mean" else y
    return y.to(x.dtype), words, residue, weight_words, weight_mask, alpha


def _ste_fake(x: Tensor, weight: Tensor, shift: Tensor | None, surrogate: str, scale: str):
    _check_ste(x, weight, shift, surrogate, scale)
    words, residue = torch.ops.bnn.ste_residue(x, shift, surrogate)
    k, c = weight.shape
    weight_words = weight.new_empty((k, word_count(c)), dtype=torch.int64)
    alpha = weight.new_empty((k if scale == "mean" else 0,), dtype=torch.float32)
    return x.new_empty((x.shape[0], k)), words, residue, weight_words, torch.empty_like(weight_words), alpha


define(
    "binary_linear_ste_forward(Tensor x, Tensor weight, Tensor? shift, str surrogate, str scale) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _ste_reference,
    _ste_fake,
)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, shift, ctx.surrogate, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.channels, ctx.weight_dtype, ctx.shift_like = x.shape[1], weight.dtype, None if shift is None else shift[:0]
    ctx.save_for_backward(*output[1:])


def _backward(ctx, grad: Tensor | None, *_):
    if grad is None:
        return (None,) * 5
    words, residue, weight_words, weight_mask, alpha = ctx.saved_tensors
    grad_x = grad_weight = grad_shift = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        grad_x = grad @ restore_weight(weight_words, ctx.channels, alpha, grad.dtype)
        grad_x = torch.ops.bnn.ste_residue_backward(grad_x, residue, ctx.surrogate)
        grad_shift = channel_sum(grad_x, ctx.shift_like) if ctx.needs_input_grad[2] else None
    if ctx.needs_input_grad[1]:
        grad_weight = grad.T @ bitunpack(words, ctx.channels, grad.dtype)
        grad_weight = weight_gradient(grad_weight, weight_mask, alpha, ctx.weight_dtype)
    return grad_x, grad_weight, grad_shift, None, None


register_autograd("binary_linear_ste_forward", _backward, _setup_context)


def _ste(x: Tensor, weight: Tensor, shift: Tensor | None = None, surrogate: str = "polynomial", scale: str = "mean"):
    return torch.ops.bnn.binary_linear_ste_forward(autocast(x), weight, shift, surrogate, scale)[0]


define_composite(
    "binary_linear_ste(Tensor x, Tensor weight, Tensor? shift=None, str surrogate='polynomial', str scale='mean') "
    "-> Tensor",
    _ste,
)
