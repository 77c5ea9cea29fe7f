"""A learned mixture of two streams, channel by channel (BNext's information recoupling, Guo et al. 2022)."""

import torch
from torch import Tensor, nn

from bnn.nn.activations import require


class Blend(nn.Module):
    """share[c] * a + (1 - share[c]) * b; in training the share is first put back into [0, 1].

    Args:
        channels: C of the inputs a and b, [N, C, H, W] or [M, C].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require(channels > 0, "channels", "positive", channels)
        self.channels = channels
        self.share = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.share.clamp_(0, 1)
        dtype = torch.promote_types(a.dtype, b.dtype)
        share = self.share.to(dtype).view(1, -1, *(1,) * (a.dim() - 2))
        return torch.lerp(b.to(dtype), a.to(dtype), share)

    def extra_repr(self) -> str:
        return f"{self.channels}"
