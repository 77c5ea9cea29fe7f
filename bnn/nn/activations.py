"""Activations of ReActNet (Liu et al. 2020): sign and PReLU with learned shifts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnn import ops
from bnn.ops._library import SURROGATES


def require(condition: bool, argument: str, expected: str, got: object) -> None:
    """ValueError that names a constructor's argument."""
    if not condition:
        raise ValueError(f"{argument} must be {expected}, got {got!r}")


class RSign(nn.Module):
    """sign(x + shift[c]) with a straight-through gradient; see `bnn.ops.sign_ste`.

    A binary layer with `shift=True` has it built in and never stores the signs as floats: prefer that.

    Args:
        channels: C of the input [N, C, H, W] or [M, C].
        surrogate: "clip" or "polynomial".
    """

    def __init__(self, channels: int, surrogate: str = "polynomial") -> None:
        super().__init__()
        require(channels > 0, "channels", "positive", channels)
        require(surrogate in SURROGATES, "surrogate", f"one of {SURROGATES}", surrogate)
        self.channels, self.surrogate = channels, surrogate
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return ops.sign_ste(x, self.shift, self.surrogate)

    def extra_repr(self) -> str:
        return f"{self.channels}, surrogate={self.surrogate!r}"


class RPReLU(nn.Module):
    """prelu(x + before[c], slope[c]) + after[c], all three learned per channel.

    Args:
        channels: C of the input [N, C, H, W] or [M, C].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require(channels > 0, "channels", "positive", channels)
        self.channels = channels
        self.before = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.after = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *(1,) * (x.dim() - 2))
        # a float32 shift would promote bfloat16 activations, and everything after them, to float32
        before, after = (p.to(x.dtype).view(shape) for p in (self.before, self.after))
        return F.prelu(x + before, self.slope.to(x.dtype)) + after

    def extra_repr(self) -> str:
        return f"{self.channels}"
