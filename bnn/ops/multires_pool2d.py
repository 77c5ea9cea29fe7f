"""Adaptive average pooling to several sizes in one read of the input."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.ops._library import check, check_float, define, register_autograd


def multires_pool2d(x: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Average x over the bins of every size: bin i of h spans rows floor(i H / h) to ceil((i + 1) H / h) - 1.

    Args:
        x: [N, C, H, W] in any memory format; float32, bfloat16 or float16; sums are taken in float32.
        sizes: (h, w) pairs, 1 <= h <= H and 1 <= w <= W.

    Returns:
        One [N, C, h, w] a size, in the dtype and memory format of x.

    Raises:
        RuntimeError: no size, a size larger than the input (enlarging is refused), wrong shape or dtype.

    Equivalent to: `[F.adaptive_avg_pool2d(x, size) for size in sizes]`
    """
    return torch.ops.bnn.multires_pool2d(x, [int(edge) for size in sizes for edge in size])


def _pairs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(sizes[::2], sizes[1::2], strict=True))


def _check(x: Tensor, sizes: Sequence[int]) -> None:
    op = "multires_pool2d"
    check(x.dim() == 4, op, "x", "[N, C, H, W]", list(x.shape))
    check_float(op, "x", x)
    check(len(sizes) > 0 and len(sizes) % 2 == 0, op, "sizes", "at least one (h, w) pair", list(sizes))
    for h, w in _pairs(sizes):
        fits = 1 <= h <= x.shape[2] and 1 <= w <= x.shape[3]
        check(fits, op, "sizes", f"between (1, 1) and the input's {tuple(x.shape[2:])}", (h, w))


def _format(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _reference(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    _check(x, sizes)
    wide, layout = x.float(), _format(x)
    if x.numel() == 0:  # torch refuses to pool nothing
        return _fake(x, sizes)
    return [F.adaptive_avg_pool2d(wide, p).to(x.dtype).contiguous(memory_format=layout) for p in _pairs(sizes)]


def _fake(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    _check(x, sizes)
    shapes = [(*x.shape[:2], h, w) for h, w in _pairs(sizes)]
    return [torch.empty(s, dtype=x.dtype, device=x.device, memory_format=_format(x)) for s in shapes]


def _bin_sums(size: int, extent: int, device: torch.device) -> Tensor:
    """[size, extent]: 1 / length where bin i covers position p, else 0."""
    i, p = torch.arange(size, device=device).view(-1, 1), torch.arange(extent, device=device)
    start, end = (i * extent) // size, -((-(i + 1) * extent) // size)
    return ((p >= start) & (p < end)).float() / (end - start)


def _backward_reference(grads: Sequence[Tensor], height: int, width: int) -> Tensor:
    total: Tensor | float = 0.0
    for grad in grads:
        rows = _bin_sums(grad.shape[2], height, grad.device)
        columns = _bin_sums(grad.shape[3], width, grad.device)
        spread = torch.einsum("nchw,hy,wx->ncyx", grad.float(), rows, columns)
        total = total + spread
    assert isinstance(total, Tensor)
    return total.to(grads[0].dtype).contiguous(memory_format=_format(grads[0]))


def _backward_fake(grads: Sequence[Tensor], height: int, width: int) -> Tensor:
    first = grads[0]
    shape = (*first.shape[:2], height, width)
    return torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=_format(first))


define("multires_pool2d(Tensor x, int[] sizes) -> Tensor[]", _reference, _fake)
define("multires_pool2d_backward(Tensor[] grads, int H, int W) -> Tensor", _backward_reference, _backward_fake)


def _setup_context(ctx, inputs, output) -> None:
    ctx.size = inputs[0].shape[2:]


def _backward(ctx, grads: list[Tensor]):
    return torch.ops.bnn.multires_pool2d_backward(grads, *ctx.size), None


register_autograd("multires_pool2d", _backward, _setup_context)
