"""`binary_conv2d_fused` in two steps: everything but the input once, then a call of few arguments."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bnn.ops._convolution import output_shape
from bnn.ops._epilogue import check_factors
from bnn.ops._library import check, define, pair
from bnn.ops.binary_conv2d import _GEOMETRY, Int2
from bnn.ops.bitpack import check_words, word_count

MAGIC = 0x32706572706E6E62  # bnnprep2
HEADER = 16  # magic, C, K, R, S, stride, padding, dilation, groups, pad_value, rprelu?, next_shift?, order of filters


def binary_conv2d_prepare(
    weight: Tensor,
    in_channels: int,
    stride: Int2,
    padding: Int2,
    dilation: Int2,
    groups: int,
    pad_value: int,
    scale: Tensor,
    bias: Tensor,
    rprelu: Tensor | None = None,
    next_shift: Tensor | None = None,
) -> Tensor:
    """Everything about a `binary_conv2d_fused` but its input, for `binary_conv2d_prepared`. On the CPU.

    Filters are held twice, as they are and in the order in which this CPU reads them (1 bit a weight, 2 for the matrix
    unit). The tensor is good for this process, not for a file: another CPU may want another order.

    Args: those of `binary_conv2d_fused`.

    Returns:
        int64 [n].
    """
    geometry = (pair(stride), pair(padding), pair(dilation), groups, pad_value)
    return torch.ops.bnn.binary_conv2d_prepare(weight, in_channels, *geometry, scale, bias, rprelu, next_shift)


def binary_conv2d_prepared(
    x: Tensor,
    prepared: Tensor,
    shape: Sequence[int] = (),
    residual: Tensor | None = None,
    stream_dtype: torch.dtype | None = None,
    words: bool = True,
) -> tuple[Tensor, Tensor]:
    """The rest of `binary_conv2d_fused`: the same results, with no filters to pack and few arguments to hand over.

    Args:
        x: int64 words [N, H, W, ceil(C / 64)].
        prepared: what `binary_conv2d_prepare` returned.
        shape: K, OH, OW, the output's, or (): only meta tensors need to be told.
        residual: [N, K, OH, OW], float32, bfloat16 or float16.
        stream_dtype: float32, bfloat16 or float16.
        words: whether words are asked for.

    Returns:
        (stream, words); what is not asked for has shape [0].
    """
    return torch.ops.bnn.binary_conv2d_prepared(x, prepared, shape, residual, stream_dtype, words)


def _prepare_reference(weight: Tensor, in_channels: int, stride, padding, dilation, groups: int, pad_value: int,
                       scale: Tensor, bias: Tensor, rprelu: Tensor | None = None,
                       next_shift: Tensor | None = None) -> Tensor:  # fmt: skip
    op = "binary_conv2d_prepare"
    check(weight.dim() == 4, op, "weight", "words [K, R, S, L]", list(weight.shape))
    k, r, s, _ = weight.shape
    reach = [dilation[i] * (size - 1) + 1 for i, size in enumerate((r, s))]
    output_shape(op, (1, *reach), (k, r, s), in_channels, stride, padding, dilation, groups, pad_value)
    check_words(op, "weight", weight, in_channels // groups, (4,))
    check_factors(op, weight, k, scale, bias, rprelu, next_shift)
    there = [int(rprelu is not None), int(next_shift is not None)]
    header = [MAGIC, in_channels, k, r, s, *stride, *padding, *dilation, groups, pad_value, *there, 0]
    factors = torch.cat([t.reshape(-1) for t in (scale, bias, rprelu, next_shift) if t is not None])
    factors = torch.cat([factors, factors.new_zeros(len(factors) % 2)]).view(torch.int64)
    words = torch.cat([weight.new_tensor(header), weight.reshape(-1), factors])
    return torch.cat([words, words.new_zeros(-len(words) % 8)])


def _prepare_fake(weight: Tensor, *_) -> Tensor:
    return weight.new_empty(torch.library.get_ctx().new_dynamic_size())


define(
    f"binary_conv2d_prepare(Tensor weight, int in_channels, {_GEOMETRY}, Tensor scale, Tensor bias, "
    "Tensor? rprelu=None, Tensor? next_shift=None) -> Tensor",
    _prepare_reference,
    _prepare_fake,
)


def _prepared_reference(
    x: Tensor,
    prepared: Tensor,
    shape: list[int],
    residual: Tensor | None = None,
    stream_dtype: torch.dtype | None = None,
    words: bool = True,
) -> tuple[Tensor, Tensor]:
    op = "binary_conv2d_prepared"
    check(words or stream_dtype is not None, op, "words", "true where no stream is asked for", words)
    what = "what binary_conv2d_prepare returns"
    vector = prepared.dtype == torch.int64 and prepared.dim() == 1 and len(prepared) >= HEADER
    check(vector, op, "prepared", what, list(prepared.shape))
    magic, c, k, r, s, *geometry, has_rprelu, has_shift, _ = prepared[:HEADER].tolist()
    check(magic == MAGIC, op, "prepared", what, "another tensor")
    stride, padding, dilation, (groups, pad_value) = geometry[:2], geometry[2:4], geometry[4:6], geometry[6:]
    lengths = [k * r * s * word_count(c // groups), ((2 + 3 * has_rprelu + has_shift) * k + 1) // 2]
    check(len(prepared) >= HEADER + sum(lengths), op, "prepared", what, list(prepared.shape))
    weight, factors = prepared[HEADER : HEADER + sum(lengths)].split(lengths)
    parts = list(factors.view(torch.float32)[: (2 + 3 * has_rprelu + has_shift) * k].split(k))
    next_shift = parts.pop() if has_shift else None
    rprelu = torch.stack(parts[2:]) if has_rprelu else None
    if words and next_shift is None:
        next_shift = parts[0].new_zeros(k)
    stream, packed = torch.ops.bnn.binary_conv2d_fused(
        x, weight.view(k, r, s, -1), c, stride, padding, dilation, groups, pad_value,
        *parts[:2], residual, rprelu, next_shift, stream_dtype,
    )  # fmt: skip
    packed = packed if words else packed.new_empty(0)
    got = stream.shape[1:] if stream_dtype else [k, *packed.shape[1:3]]
    check(not shape or list(got) == list(shape), op, "shape", f"{list(got)}", list(shape))
    return stream, packed


def _prepared_fake(x: Tensor, prepared: Tensor, shape: list[int], residual: Tensor | None = None,
                   stream_dtype: torch.dtype | None = None, words: bool = True) -> tuple[Tensor, Tensor]:  # fmt: skip
    check(len(shape) == 3, "binary_conv2d_prepared", "shape", "[K, OH, OW] for meta tensors", list(shape))
    k, *space = shape
    stream, packed = x.new_empty(0, dtype=torch.float32), x.new_empty(0)
    if words:
        packed = x.new_empty((x.shape[0], *space, word_count(k)))
    if stream_dtype is not None:
        stream = x.new_empty((x.shape[0], *space, k), dtype=stream_dtype).movedim(-1, 1)
    return stream, packed


define(
    "binary_conv2d_prepared(Tensor x, Tensor prepared, int[] shape, Tensor? residual=None, "
    "ScalarType? stream_dtype=None, bool words=True) -> (Tensor, Tensor)",
    _prepared_reference,
    _prepared_fake,
)
