"""Bi-Real net (Liu et al. 2018, arXiv 1808.00278): a real shortcut around every binary convolution."""

from torch import Tensor, nn

from bnn.models._classifier import Classifier, stem
from bnn.nn import BinaryConv2d


class Block(nn.Module):
    """shortcut(x) + BN(binary conv(sign(x))); no activation but the sign."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = BinaryConv2d(in_channels, out_channels, 3, stride, 1)
        self.norm = nn.BatchNorm2d(out_channels)
        shortcut: list[nn.Module] = []
        if stride > 1 or in_channels != out_channels:
            shortcut = [
                nn.AvgPool2d(stride, ceil_mode=True),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            ]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.shortcut(x)


def birealnet18(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """ResNet-18 layout, 16 binary 3x3 convolutions."""
    body = stem(in_channels, 64, image_size)
    channels = 64
    for width in (64, 128, 256, 512):
        body += [Block(channels, width, 2 if width > 64 else 1)]
        body += [Block(width, width) for _ in range(3)]
        channels = width
    return Classifier(nn.Sequential(*body), 512, num_classes)
