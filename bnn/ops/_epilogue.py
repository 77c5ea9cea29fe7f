"""What the fused inference ops do with the integer sums: y = scale acc + bias (+ residual), RPReLU, stream, words."""

import torch
from torch import Tensor

from bnn.ops._library import FLOATS, channel_view, check, check_device, check_float
from bnn.ops.bitpack import negative, pack_bits, word_count

SCHEMA = (
    "Tensor scale, Tensor bias, Tensor? residual=None, Tensor? rprelu=None, Tensor? next_shift=None, "
    "ScalarType? stream_dtype=None"
)


def check_factors(op: str, x: Tensor, k: int, scale: Tensor, bias: Tensor, rprelu: Tensor | None,
                  next_shift: Tensor | None) -> None:  # fmt: skip
    """Factors of k channels, beside x."""
    for name, tensor, shape in (
        ("scale", scale, [k]),
        ("bias", bias, [k]),
        ("rprelu", rprelu, [3, k]),
        ("next_shift", next_shift, [k]),
    ):
        if tensor is not None:
            check(list(tensor.shape) == shape, op, name, f"of shape {shape}", list(tensor.shape))
            check(tensor.dtype == torch.float32, op, name, "float32", tensor.dtype)
            check_device(op, name, tensor, x)


def _check(op: str, acc: Tensor, scale: Tensor, bias: Tensor, residual: Tensor | None, rprelu: Tensor | None,
           next_shift: Tensor | None, stream_dtype: torch.dtype | None) -> None:  # fmt: skip
    check_factors(op, acc, acc.shape[1], scale, bias, rprelu, next_shift)
    if residual is not None:
        check(residual.shape == acc.shape, op, "residual", f"of shape {list(acc.shape)}", list(residual.shape))
        check_float(op, "residual", residual)
        check_device(op, "residual", residual, acc)
    check(stream_dtype is None or stream_dtype in FLOATS, op, "stream_dtype", f"None or one of {FLOATS}", stream_dtype)


def reference(op: str, acc: Tensor, scale: Tensor, bias: Tensor, residual: Tensor | None = None,
              rprelu: Tensor | None = None, next_shift: Tensor | None = None,
              stream_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """acc: int32 [N, K, OH, OW] or [M, K] -> (stream or [0], words or [0])."""
    _check(op, acc, scale, bias, residual, rprelu, next_shift, stream_dtype)
    y = channel_view(scale, acc.dim()) * acc.float() + channel_view(bias, acc.dim())
    if residual is not None:
        y = y + residual.float()
    if rprelu is not None:
        before, slope, after = (channel_view(row, acc.dim()) for row in rprelu)
        y = y + before
        y = torch.where(y > 0, y, slope * y) + after
    return outputs(y, next_shift, stream_dtype)


def outputs(y: Tensor, next_shift: Tensor | None, stream_dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """What leaves, of float32 y [N, K, OH, OW] or [M, K]: (stream or [0], words or [0])."""
    stream, words = y.new_empty(0), y.new_empty(0, dtype=torch.int64)
    if next_shift is not None or stream_dtype is None:
        words = pack_bits(negative(y, next_shift))
    if stream_dtype is not None:
        stream = y.to(stream_dtype).movedim(1, -1).contiguous().movedim(-1, 1)
    return stream, words


def fake(op: str, acc: Tensor, scale: Tensor, bias: Tensor, residual: Tensor | None = None,
         rprelu: Tensor | None = None, next_shift: Tensor | None = None,
         stream_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    _check(op, acc, scale, bias, residual, rprelu, next_shift, stream_dtype)
    n, k, *space = acc.shape
    stream, words = acc.new_empty(0, dtype=torch.float32), acc.new_empty(0, dtype=torch.int64)
    if next_shift is not None or stream_dtype is None:
        words = acc.new_empty((n, *space, word_count(k)), dtype=torch.int64)
    if stream_dtype is not None:
        stream = acc.new_empty((n, *space, k), dtype=stream_dtype).movedim(-1, 1)
    return stream, words
