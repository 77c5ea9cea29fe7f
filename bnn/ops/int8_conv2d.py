"""Real convolution in 8 bits, for the layers of a packed network that are not binary."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.ops import _epilogue
from bnn.ops._convolution import output_shape
from bnn.ops._library import check, check_device, check_float, define

_PANEL = 16  # filters side by side
_LEAST = 2.0**-100  # an image below it counts as 0
MOST_PRODUCTS = 2**17  # of an output: their sum stays in int32


def int8_conv2d(
    x: Tensor,
    panels: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    pool: Sequence[int],
    scale: Tensor,
    bias: Tensor,
    next_shift: Tensor | None = None,
    stream_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolution of 8-bit integers, inference only. Every image is rounded to multiples of a step of its own:

        step[n] = max |x[n]| / 127        (below 2^-100 the image counts as 0)
        q       = round(128 + x / step[n]) - 128, to nearest even, in float32
        acc     = conv2d(q, w)            (integers, exact)
        acc     = max_pool2d(acc, size, stride, padding), where pool is given
        y       = (scale[k] step[n]) acc + bias[k], in float32
        stream  = y in stream_dtype;  words = bits of y + next_shift[k] < 0

    No calibration: an image's result depends on itself alone. One with an infinite value or NaN gives NaN everywhere.

    Args:
        x: [N, C, H, W], float32, bfloat16 or float16, in any memory format.
        panels: the weights w, int8 [K, C, R, S], as `int8_panels` orders them.
        kernel_size, stride, padding: pairs; one group, no dilation, zero padding; R S C at most 2^17.
        pool: [] or [size, stride, padding] of square windows; for `max_pool2d` of y no scale may be negative.
        scale, bias: float32 [K]; what w stands for is scale w.
        next_shift: float32 [K], or None.
        stream_dtype: of the stream, or None for words alone.

    Returns:
        (stream [N, K, PH, PW] channels-last or [0], words [N, PH, PW, ceil(K / 64)] or [0]): words where there is a
        next_shift or no stream.

    Raises:
        RuntimeError: names the argument, what was expected and what came.

    Equivalent to (but for rounding x): `F.max_pool2d(F.conv2d(x, scale.view(-1, 1, 1, 1) * w, bias, ...), *pool)`
    """
    return torch.ops.bnn.int8_conv2d(
        x, panels, kernel_size, stride, padding, pool, scale, bias, next_shift, stream_dtype
    )


def _planes(c: int, s: int) -> int:
    """Channels if images are read one by one of them, else 1."""
    return c if c <= 4 and c * -(-s // 4) == -(-s * c // 4) else 1


POOL = "[], or size and stride of 1 to 64 and a padding of at most half the size"


def is_pool(pool: Sequence[int]) -> bool:
    """Whether size, stride and padding are those of a pooling."""
    whole = len(pool) == 3 and all(type(v) is int for v in pool)
    return whole and 1 <= pool[0] <= 64 and 1 <= pool[1] <= 64 and 0 <= 2 * pool[2] <= pool[0]


def int8_panels(weight: Tensor) -> Tensor:
    """int8 [K, C, R, S] in the order of the kernels: [ceil(K / 16), 1 + R T, 64].

    A panel holds 16 filters. Its rows of 64 bytes are 4 weights of each: of a row of taps, channels innermost, filled
    up to a multiple of 4, then of the next; where a few channels need no more rows so, of one channel of a row of taps
    after the other. In front of them stands what sums begin with, int32 [16]: pixels are multiplied as q + 128, so
    that is -128 sum w.
    """
    k, c, r, s = weight.shape
    planes = _planes(c, s)
    taps = weight.permute(0, 2, 1, 3) if planes > 1 else weight.permute(0, 2, 3, 1)
    taps = taps.reshape(k, r * planes, s * c // planes)
    taps = F.pad(taps, (0, -taps.shape[2] % 4, 0, 0, 0, -k % _PANEL))
    quads = taps.reshape(-1, _PANEL, taps.shape[1] * taps.shape[2] // 4, 4).transpose(1, 2)
    start = -128 * taps.sum((1, 2), dtype=torch.int32).view(-1, 1, _PANEL)
    return torch.cat([start.view(torch.int8), quads.reshape(len(quads), -1, 4 * _PANEL)], 1)


def _weight(panels: Tensor, k: int, c: int, r: int, s: int) -> Tensor:
    """The inverse of `int8_panels`."""
    planes = _planes(c, s)
    quads = panels[:, 1:].reshape(len(panels), -1, _PANEL, 4).transpose(1, 2)
    taps = quads.reshape(len(panels) * _PANEL, r * planes, -1)[:k, :, : s * c // planes]
    return taps.reshape(k, r, c, s).transpose(1, 2) if planes > 1 else taps.reshape(k, r, s, c).permute(0, 3, 1, 2)


def _shape(x: Tensor, panels: Tensor, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int],
           pool: Sequence[int], scale: Tensor) -> tuple[int, int, int, int]:  # fmt: skip
    """[N, K, PH, PW], after checking every argument but the factors."""
    op = "int8_conv2d"
    check(x.dim() == 4, op, "x", "[N, C, H, W]", list(x.shape))
    check_float(op, "x", x)
    whole = len(kernel_size) == 2 and min(kernel_size) >= 1
    check(whole, op, "kernel_size", "two integers of at least 1", list(kernel_size))
    check(scale.dim() == 1, op, "scale", "[K]", list(scale.shape))
    n, c, *size = x.shape
    check(min(size) >= 1, op, "x", "of at least one pixel", list(x.shape))
    (r, s), k = kernel_size, len(scale)
    n, k, *size = output_shape(op, (n, *size), (k, r, s), c, stride, padding, (1, 1), 1, 0)
    expected = f"of at most {MOST_PRODUCTS} products an output"
    check(r * s * c <= MOST_PRODUCTS, op, "x and kernel_size", expected, r * s * c)
    planes = _planes(c, s)
    layout = [-(-k // _PANEL), 1 + r * planes * -(-s * c // planes // 4), 4 * _PANEL]
    check(list(panels.shape) == layout, op, "panels", f"of shape {layout}", list(panels.shape))
    check(panels.dtype == torch.int8, op, "panels", "int8", panels.dtype)
    check_device(op, "panels", panels, x)
    if len(pool):
        check(is_pool(pool), op, "pool", POOL, list(pool))
        for edge in size:
            fits = edge + 2 * pool[2] >= pool[0]
            check(fits, op, "pool", f"of a size that fits into {edge} rows or columns", pool[0])
        size = [(edge + 2 * pool[2] - pool[0]) // pool[1] + 1 for edge in size]
    return n, k, size[0], size[1]


def _reference(
    x: Tensor,
    panels: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    pool: Sequence[int],
    scale: Tensor,
    bias: Tensor,
    next_shift: Tensor | None = None,
    stream_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    empty = _fake(x, panels, kernel_size, stride, padding, pool, scale, bias, next_shift, stream_dtype)  # checks all
    if x.shape[0] == 0:
        return empty
    wide = x.float()
    largest = torch.where(wide.isnan(), torch.inf, wide.abs()).amax((1, 2, 3), keepdim=True)
    step = torch.where(largest >= _LEAST, largest / 127, 0.0)
    inverse = torch.where((step > 0) & step.isfinite(), 1 / step, 0.0)
    product = wide * inverse
    q = (torch.where(product.abs() <= 127.5, product, 0.0) + 128).round() - 128
    acc = F.conv2d(q.double(), _weight(panels, len(scale), x.shape[1], *kernel_size).double(), None, stride, padding)
    if len(pool):
        acc = F.max_pool2d(acc, pool[0], pool[1], pool[2])
    y = acc.float() * (scale.view(1, -1, 1, 1) * step) + bias.view(1, -1, 1, 1)
    return _epilogue.outputs(y, next_shift, stream_dtype)


def _fake(
    x: Tensor,
    panels: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    pool: Sequence[int],
    scale: Tensor,
    bias: Tensor,
    next_shift: Tensor | None = None,
    stream_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    shape = _shape(x, panels, kernel_size, stride, padding, pool, scale)
    return _epilogue.fake("int8_conv2d", x.new_empty(shape), scale, bias, None, None, next_shift, stream_dtype)


define(
    "int8_conv2d(Tensor x, Tensor panels, int[] kernel_size, int[] stride, int[] padding, int[] pool, Tensor scale, "
    "Tensor bias, Tensor? next_shift=None, ScalarType? stream_dtype=None) -> (Tensor, Tensor)",
    _reference,
    _fake,
)
