"""ReActNet (Liu et al. 2020, arXiv 2003.03488): binary networks with learned shifts around sign and PReLU."""

import torch
from torch import Tensor, nn

from bnn.models._classifier import SMALL_IMAGE, Classifier, stem
from bnn.nn import BinaryConv2d, RPReLU


class Block(nn.Module):
    """RPReLU(shortcut(x) + BN(binary conv(sign(x + shift)))), the unit of the ResNet layouts.

    Where the shape changes, the shortcut is 2x2 average pooling (stride 2), a real 1x1 convolution and BN.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = BinaryConv2d(in_channels, out_channels, 3, stride, 1, shift=True)
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = RPReLU(out_channels)
        shortcut: list[nn.Module] = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
        if stride > 1 or in_channels != out_channels:
            shortcut += [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)) + self.shortcut(x))


def _stages(widths: tuple[int, ...], depths: tuple[int, ...]) -> list[nn.Module]:
    """Blocks of each stage; every stage but the first starts with stride 2."""
    blocks: list[nn.Module] = []
    channels = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for i in range(depth):
            blocks.append(Block(channels, width, 2 if stage and i == 0 else 1))
            channels = width
    return blocks


def reactnet_tiny(num_classes: int, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """32-64-128 channels, 10 binary 3x3 convolutions, stem of stride 2: 0.66 M parameters at 100 classes."""
    body = [*stem(in_channels, 32, image_size, small_stride=2), *_stages((32, 64, 128), (3, 3, 4))]
    return Classifier(nn.Sequential(*body), 128, num_classes)


def reactnet18(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """ResNet-18 layout, each of its 16 3x3 convolutions binary with its own shortcut."""
    body = [*stem(in_channels, 64, image_size), *_stages((64, 128, 256, 512), (4, 4, 4, 4))]
    return Classifier(nn.Sequential(*body), 512, num_classes)


class MobileBlock(nn.Module):
    """Binary 3x3 (stride 1 or 2) then binary 1x1, each with shortcut and RPReLU; the 1x1 may double the channels.

    Doubling repeats the shortcut over both halves, which is the paper's two parallel 1x1 convolutions in one.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.spatial = BinaryConv2d(in_channels, in_channels, 3, stride, 1, shift=True)
        self.spatial_norm = nn.BatchNorm2d(in_channels)
        self.spatial_activation = RPReLU(in_channels)
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if stride > 1 else nn.Identity()
        self.point = BinaryConv2d(in_channels, out_channels, 1, shift=True)
        self.point_norm = nn.BatchNorm2d(out_channels)
        self.point_activation = RPReLU(out_channels)
        self.doubles = out_channels == 2 * in_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.spatial_activation(self.spatial_norm(self.spatial(x)) + self.pool(x))
        shortcut = torch.cat([y, y], dim=1) if self.doubles else y
        return self.point_activation(self.point_norm(self.point(y)) + shortcut)


def reactnet_a(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """MobileNet-v1 layout of the paper: 13 blocks, 32 to 1024 channels; small images stride once less (twice: stem)."""
    small = image_size <= SMALL_IMAGE
    body: list[nn.Module] = [
        nn.Conv2d(in_channels, 32, 3, 1 if small else 2, 1, bias=False),
        nn.BatchNorm2d(32),
        MobileBlock(32, 64),
    ]
    channels = 64
    for i, width in enumerate((128, 256, 512, 1024)):
        body.append(MobileBlock(channels, width, 1 if small and i == 0 else 2))
        body += [MobileBlock(width, width) for _ in range((1, 1, 5, 1)[i])]
        channels = width
    return Classifier(nn.Sequential(*body), 1024, num_classes)
