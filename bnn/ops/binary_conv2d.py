"""Binary 2-D convolution: on words, fused for inference, and with straight-through gradients for training."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.ops import _epilogue
from bnn.ops._convolution import convolve, output_shape
from bnn.ops._library import (
    SCALES,
    SURROGATES,
    autocast,
    channels_last_empty,
    check,
    check_channels,
    check_choice,
    check_device,
    check_float,
    define,
    define_composite,
    pair,
    register_autograd,
)
from bnn.ops._training import binarize_weight, restore_weight, weight_gradient
from bnn.ops.bitpack import bitunpack, check_words, word_count
from bnn.ops.sign_ste import channel_sum

Int2 = int | tuple[int, int] | list[int]

_GEOMETRY = "int[2] stride, int[2] padding, int[2] dilation, int groups, int pad_value"


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    in_channels: int,
    stride: Int2 = 1,
    padding: Int2 = 0,
    dilation: Int2 = 1,
    groups: int = 1,
    pad_value: int = 0,
) -> Tensor:
    """Sum of products of the +-1 values that two tensors of packed bits stand for.

    Args:
        x: int64 words [N, H, W, ceil(C / 64)], in plain channel order also where groups > 1.
        weight: int64 words [K, R, S, ceil((C / G) / 64)].
        in_channels: C.
        stride, padding, dilation: one int or (vertical, horizontal).
        groups: G; divides C and K. G = C is a depthwise convolution.
        pad_value: what pixels outside the image count as: 0 (exact zero padding), -1 or +1.

    Returns:
        int32 [N, K, OH, OW] with channels-last strides, in [-R S C/G, R S C/G].

    Raises:
        RuntimeError: names the argument, what was expected and what came.

    Equivalent to: `F.conv2d(F.pad(bitunpack(x, C), ..., value=pad_value), bitunpack(weight), ...)`
    """
    return torch.ops.bnn.binary_conv2d(
        x, weight, in_channels, pair(stride), pair(padding), pair(dilation), groups, pad_value
    )


def binary_conv2d_fused(
    x: Tensor,
    weight: Tensor,
    in_channels: int,
    stride: Int2,
    padding: Int2,
    dilation: Int2,
    groups: int,
    pad_value: int,
    scale: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    rprelu: Tensor | None = None,
    next_shift: Tensor | None = None,
    stream_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """`binary_conv2d` with what follows it in a binary network, for inference. No gradient.

    y = scale[k] * acc + bias[k] (+ residual); with rprelu = (a, b, c): y = prelu(y + a[k], b[k]) + c[k]. All in
    float32, in this order, nothing contracted.

    Args:
        x, weight, in_channels, stride, padding, dilation, groups, pad_value: as for `binary_conv2d`.
        scale, bias: float32 [K].
        residual: [N, K, OH, OW], float32, bfloat16 or float16.
        rprelu: float32 [3, K]: shift, slope, shift (Liu et al. 2020, ReActNet, eq. 5).
        next_shift: float32 [K], the shift of the layer that reads the words.
        stream_dtype: float32, bfloat16 or float16.

    Returns:
        (stream, words). stream = y [N, K, OH, OW], channels-last, where stream_dtype is given.
        words = bitpack(y, next_shift) [N, OH, OW, ceil(K / 64)], where next_shift is given or stream_dtype is not.
        What is not asked for has shape [0].
    """
    geometry = (pair(stride), pair(padding), pair(dilation), groups, pad_value)
    return torch.ops.bnn.binary_conv2d_fused(
        x, weight, in_channels, *geometry, scale, bias, residual, rprelu, next_shift, stream_dtype
    )


def binary_conv2d_route(
    x: Tensor,
    weight: Tensor,
    in_channels: int,
    stride: Int2 = 1,
    padding: Int2 = 0,
    dilation: Int2 = 1,
    groups: int = 1,
    pad_value: int = 0,
    words: bool = False,
) -> str:
    """Name of what `binary_conv2d` runs on for these arguments: "reference", an instruction set or a CUDA kernel.

    With words=True, of what `binary_conv2d_fused` runs on when it writes words.
    """
    geometry = (pair(stride), pair(padding), pair(dilation), groups, pad_value)
    return torch.ops.bnn.binary_conv2d_route(x, weight, in_channels, *geometry, words)


def binary_conv2d_ste(
    x: Tensor,
    weight: Tensor,
    shift: Tensor | None = None,
    surrogate: str = "polynomial",
    scale: str = "mean",
    stride: Int2 = 1,
    padding: Int2 = 0,
    dilation: Int2 = 1,
    groups: int = 1,
    pad_value: int = 0,
) -> Tensor:
    """Training form: y = alpha[k] * conv2d(sign(x + shift), sign(w)), gradients straight through both signs.

    x and shift get the gradient of `sign_ste` with `surrogate` ("polynomial": its factor in 8 bits, off by at most
    0.2 % of the peak); w gets alpha[k] * grad where |w| <= 1. The gradient convolutions run in the dtype of x.
    Between forward and backward only bits are kept: the packed signs, 1 (clip) or 8 (polynomial) bits an element
    of x, and 2 bits an element of w.

    Args:
        x: [N, C, H, W], float32, bfloat16 or float16; under autocast, cast to its type.
        weight: latent weights [K, C / G, R, S].
        shift: [C] or None.
        surrogate: "clip" or "polynomial".
        scale: "mean": alpha[k] = mean |w| of filter k, not part of the gradient; "none": alpha = 1.
        stride, padding, dilation, groups, pad_value: as for `binary_conv2d`.

    Returns:
        [N, K, OH, OW] in the dtype of x, channels-last strides.

    Equivalent to (forward): `alpha * F.conv2d(sign_ste(x, shift), sign_ste(weight), ...)`

    Source: Rastegari et al. 2016 (XNOR-Net), eq. 6; Liu et al. 2018 (Bi-Real net), §3.3.
    """
    return torch.ops.bnn.binary_conv2d_ste(
        x, weight, shift, surrogate, scale, pair(stride), pair(padding), pair(dilation), groups, pad_value
    )


def _check(op: str, x: Tensor, weight: Tensor, in_channels: int, *geometry) -> tuple[int, int, int, int]:
    check_words(op, "x", x, in_channels, (4,))
    check(weight.dim() == 4, op, "weight", "words [K, R, S, L]", list(weight.shape))
    check_device(op, "weight", weight, x)
    shape = output_shape(op, tuple(x.shape[:3]), tuple(weight.shape[:3]), in_channels, *geometry)
    check_words(op, "weight", weight, in_channels // geometry[3], (4,))
    return shape


def _reference(x: Tensor, weight: Tensor, in_channels: int, stride=(1, 1), padding=(0, 0), dilation=(1, 1),
               groups: int = 1, pad_value: int = 0) -> Tensor:  # fmt: skip
    _check("binary_conv2d", x, weight, in_channels, stride, padding, dilation, groups, pad_value)
    signs = bitunpack(weight, in_channels // groups).contiguous()
    return convolve(bitunpack(x, in_channels), signs, stride, padding, dilation, groups, pad_value).to(torch.int32)


def _fake(x: Tensor, weight: Tensor, in_channels: int, stride=(1, 1), padding=(0, 0), dilation=(1, 1),
          groups: int = 1, pad_value: int = 0) -> Tensor:  # fmt: skip
    shape = _check("binary_conv2d", x, weight, in_channels, stride, padding, dilation, groups, pad_value)
    return channels_last_empty(x, shape, torch.int32)


define(
    "binary_conv2d(Tensor x, Tensor weight, int in_channels, int[2] stride=1, int[2] padding=0, int[2] dilation=1, "
    "int groups=1, int pad_value=0) -> Tensor",
    _reference,
    _fake,
)


def _fused_reference(x: Tensor, weight: Tensor, in_channels: int, stride, padding, dilation, groups: int,
                     pad_value: int, *epilogue) -> tuple[Tensor, Tensor]:  # fmt: skip
    acc = _reference(x, weight, in_channels, stride, padding, dilation, groups, pad_value)
    return _epilogue.reference("binary_conv2d_fused", acc, *epilogue)


def _fused_fake(x: Tensor, weight: Tensor, in_channels: int, stride, padding, dilation, groups: int,
                pad_value: int, *epilogue) -> tuple[Tensor, Tensor]:  # fmt: skip
    acc = _fake(x, weight, in_channels, stride, padding, dilation, groups, pad_value)
    return _epilogue.fake("binary_conv2d_fused", acc, *epilogue)


define(
    f"binary_conv2d_fused(Tensor x, Tensor weight, int in_channels, {_GEOMETRY}, {_epilogue.SCHEMA}) "
    "-> (Tensor, Tensor)",
    _fused_reference,
    _fused_fake,
)


def _route(*arguments) -> str:
    return "reference"


define(
    f"binary_conv2d_route(Tensor x, Tensor weight, int in_channels, {_GEOMETRY}, bool words=False) -> str",
    _route,
    _route,
)


def _check_ste(x: Tensor, weight: Tensor, shift: Tensor | None, surrogate: str, scale: str, *geometry):
    op = "binary_conv2d_ste"
    check(x.dim() == 4, op, "x", "[N, C, H, W]", list(x.shape))
    check_float(op, "x", x)
    check(weight.dim() == 4, op, "weight", "[K, C / G, R, S]", list(weight.shape))
    check_float(op, "weight", weight)
    check_device(op, "weight", weight, x)
    check_channels(op, "shift", shift, x.shape[1], x)
    check_choice(op, "surrogate", surrogate, SURROGATES)
    check_choice(op, "scale", scale, SCALES)
    n, c, h, w = x.shape
    k, cg, r, s = weight.shape
    shape = output_shape(op, (n, h, w), (k, r, s), c, *geometry)
    groups = geometry[3]
    check(cg * groups == c, op, "weight", f"of {c // groups} channels a group ({c} / {groups})", cg)
    return shape


def _ste_reference(x: Tensor, weight: Tensor, shift: Tensor | None, surrogate: str, scale: str, *geometry):
    _check_ste(x, weight, shift, surrogate, scale, *geometry)
    words, residue = torch.ops.bnn.ste_residue(x, shift, surrogate)
    weight_words, weight_mask, alpha = binarize_weight(weight, scale)
    signs = bitunpack(weight_words, weight.shape[1]).contiguous()
    y = convolve(bitunpack(words, x.shape[1]), signs, *geometry)
    if scale == "mean":
        y = y * alpha.view(1, -1, 1, 1)
    return y.to(x.dtype), words, residue, weight_words, weight_mask, alpha


def _ste_fake(x: Tensor, weight: Tensor, shift: Tensor | None, surrogate: str, scale: str, *geometry):
    shape = _check_ste(x, weight, shift, surrogate, scale, *geometry)
    words, residue = torch.ops.bnn.ste_residue(x, shift, surrogate)
    k, cg, r, s = weight.shape
    weight_words = weight.new_empty((k, r, s, word_count(cg)), dtype=torch.int64)
    alpha = weight.new_empty((k if scale == "mean" else 0,), dtype=torch.float32)
    y = channels_last_empty(x, shape, x.dtype)
    return y, words, residue, weight_words, torch.empty_like(weight_words), alpha


define(
    f"binary_conv2d_ste_forward(Tensor x, Tensor weight, Tensor? shift, str surrogate, str scale, {_GEOMETRY}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _ste_reference,
    _ste_fake,
)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, shift, ctx.surrogate, _, *ctx.geometry = inputs
    ctx.set_materialize_grads(False)
    ctx.channels, ctx.weight_dtype, ctx.shift_like = x.shape[1], weight.dtype, None if shift is None else shift[:0]
    ctx.save_for_backward(*output[1:])


def _backward(ctx, grad: Tensor | None, *_):
    if grad is None:
        return (None,) * 10
    words, residue, weight_words, weight_mask, alpha = ctx.saved_tensors
    stride, padding, dilation, groups, pad_value = ctx.geometry
    x = bitunpack(words, ctx.channels, grad.dtype)  # +-1: exact in every float type
    h, w = x.shape[2:]
    top, left = padding
    if pad_value:
        x, padding = F.pad(x, (left, left, top, top), value=pad_value), [0, 0]
    weight = restore_weight(weight_words, ctx.channels // groups, alpha, grad.dtype)
    needed = [ctx.needs_input_grad[0] or ctx.needs_input_grad[2], ctx.needs_input_grad[1], False]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, [0, 0], groups, needed
    )
    grad_shift = None
    if needed[0]:
        if pad_value:
            grad_x = grad_x[:, :, top : top + h, left : left + w]
        grad_x = torch.ops.bnn.ste_residue_backward(grad_x, residue, ctx.surrogate)
        grad_shift = channel_sum(grad_x, ctx.shift_like) if ctx.needs_input_grad[2] else None
    if needed[1]:
        grad_weight = weight_gradient(grad_weight, weight_mask, alpha, ctx.weight_dtype)
    return grad_x, grad_weight, grad_shift, *(None,) * 7


register_autograd("binary_conv2d_ste_forward", _backward, _setup_context)


def _ste(x: Tensor, weight: Tensor, shift: Tensor | None = None, surrogate: str = "polynomial", scale: str = "mean",
         stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups: int = 1, pad_value: int = 0) -> Tensor:  # fmt: skip
    return torch.ops.bnn.binary_conv2d_ste_forward(
        autocast(x), weight, shift, surrogate, scale, stride, padding, dilation, groups, pad_value
    )[0]


define_composite(
    "binary_conv2d_ste(Tensor x, Tensor weight, Tensor? shift=None, str surrogate='polynomial', str scale='mean', "
    "int[2] stride=1, int[2] padding=0, int[2] dilation=1, int groups=1, int pad_value=0) -> Tensor",
    _ste,
)
