"""BNext (Guo et al. 2022, arXiv 2211.12933): binary convolutions whose outputs are gated by what they read.

Where the paper's text leaves a choice, this follows the authors' public code (hpi-xnor/BNext): no scale of the filters,
thresholds learned per channel, gates of a squeeze to an eighth of the channels, alternating kinds of spatial units.
"""

import torch
from torch import Tensor, nn

from bnn.models._classifier import SMALL_IMAGE, Classifier
from bnn.nn import BinaryConv2d, Blend

SQUEEZE = 8  # the gate's hidden channels are 1 / 8


class Unit(nn.Module):
    """Binary convolution C -> C, recoupled with its input, and a shortcut.

        y = PReLU(BN(binary conv(sign(x + shift))))
        y = gate(blend(pool(x), y)) * y,       gate = sigmoid(conv1x1(relu(conv1x1(global mean))))
        out = BN(y) + s,                       s = pool(x)
        with element attention (ELM):          s = pool(PReLU(x)), out = BN(y * s) + s

    pool: 2x2 average where the stride is 2. The published sign passes gradients for |x| < 1.5, this one for |x| <= 1.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1, attention: bool = False) -> None:
        super().__init__()
        self.conv = BinaryConv2d(channels, channels, kernel_size, stride, kernel_size // 2, shift=True,
                                 surrogate="clip", scale="none")  # fmt: skip
        self.norm = nn.BatchNorm2d(channels)
        self.activation = nn.PReLU(channels)
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if stride > 1 else nn.Identity()
        self.entrance = nn.PReLU(channels) if attention else None
        self.blend = Blend(channels)
        hidden = channels // SQUEEZE
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )
        self.last_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.conv(x)))
        pooled = self.pool(x)
        y = self.gate(self.blend(pooled, y)) * y
        if self.entrance is None:
            return self.last_norm(y) + pooled
        shortcut = self.pool(self.entrance(x))
        return self.last_norm(y * shortcut) + shortcut


class Block(nn.Module):
    """A 3x3 unit, then a 1x1 unit, or two side by side whose outputs are concatenated: twice the channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, attention: bool) -> None:
        super().__init__()
        self.spatial = Unit(in_channels, 3, stride, attention)
        self.points = nn.ModuleList(Unit(in_channels, 1) for _ in range(out_channels // in_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.spatial(x)
        parts = [point(x) for point in self.points]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def bnext_t(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """BNext-Tiny: 13 blocks, 32 to 1024 channels, every second one with element attention; 72.4 % on ImageNet.

    Small images: stem of stride 1, as the authors' for data sets other than ImageNet.
    """
    stride = 1 if image_size <= SMALL_IMAGE else 2
    body: list[nn.Module] = [nn.Conv2d(in_channels, 32, 3, stride, 1, bias=False), nn.BatchNorm2d(32)]
    channels = 32
    for i, width in enumerate((64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024), start=1):
        body.append(Block(channels, width, 2 if width > max(channels, 64) else 1, attention=i % 2 == 0))
        channels = width
    return Classifier(nn.Sequential(*body, nn.PReLU(channels)), channels, num_classes)
