"""A shortcut beside a branch whose channels have gates, as squeeze-and-excitation blocks have them."""

import torch
from torch import Tensor

from bnn.ops import _epilogue
from bnn.ops._library import channel_view, check, check_device, check_float, define


def gated_add(
    x: Tensor,
    residual: Tensor,
    gate: Tensor,
    scale: Tensor,
    bias: Tensor,
    multiply: bool = False,
    next_shift: Tensor | None = None,
    stream_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Gate, batch norm and shortcut in one pass, inference only. In float32, every operation rounded by itself:

        t       = (gate[n, c] scale[c]) x
        t       = t residual                    with `multiply`: element attention
        t       = (t + bias[c]) + residual
        stream  = t in stream_dtype;  words = bits of t + next_shift[c] < 0

    Args:
        x, residual: [N, C, H, W], float32, bfloat16 or float16, in any memory format.
        gate: [N, C, 1, 1], float32, bfloat16 or float16.
        scale, bias: float32 [C].
        multiply: see above.
        next_shift: float32 [C], or None.
        stream_dtype: of the stream, or None for words alone.

    Returns:
        (stream [N, C, H, W] channels-last or [0], words [N, H, W, ceil(C / 64)] or [0]): words where there is a
        next_shift or no stream.

    Raises:
        RuntimeError: names the argument, what was expected and what came.

    Equivalent to: `scale.view(-1, 1, 1) * gate * x + bias.view(-1, 1, 1) + residual`
    """
    return torch.ops.bnn.gated_add(x, residual, gate, scale, bias, multiply, next_shift, stream_dtype)


def _reference(
    x: Tensor,
    residual: Tensor,
    gate: Tensor,
    scale: Tensor,
    bias: Tensor,
    multiply: bool = False,
    next_shift: Tensor | None = None,
    stream_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    _fake(x, residual, gate, scale, bias, multiply, next_shift, stream_dtype)  # checks all
    t = gate.float() * channel_view(scale, 4) * x.float()
    t = t * residual.float() if multiply else t
    return _epilogue.outputs(t + channel_view(bias, 4) + residual.float(), next_shift, stream_dtype)


def _fake(
    x: Tensor,
    residual: Tensor,
    gate: Tensor,
    scale: Tensor,
    bias: Tensor,
    multiply: bool = False,
    next_shift: Tensor | None = None,
    stream_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    op = "gated_add"
    check(x.dim() == 4, op, "x", "[N, C, H, W]", list(x.shape))
    check_float(op, "x", x)
    check(gate.shape == (*x.shape[:2], 1, 1), op, "gate", f"of shape {[*x.shape[:2], 1, 1]}", list(gate.shape))
    check_float(op, "gate", gate)
    check_device(op, "gate", gate, x)
    return _epilogue.fake(op, x, scale, bias, residual, None, next_shift, stream_dtype)


define(
    "gated_add(Tensor x, Tensor residual, Tensor gate, Tensor scale, Tensor bias, bool multiply=False, "
    "Tensor? next_shift=None, ScalarType? stream_dtype=None) -> (Tensor, Tensor)",
    _reference,
    _fake,
)
