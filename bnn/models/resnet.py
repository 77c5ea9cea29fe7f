"""Full-precision residual networks (He et al. 2016): the teachers."""

from torch import Tensor, nn
from torch.nn import functional as F

from bnn.models._classifier import Classifier, stem


class Block(nn.Module):
    """relu(shortcut(x) + BN(conv(relu(BN(conv(x))))))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        shortcut: list[nn.Module] = []
        if stride > 1 or in_channels != out_channels:
            shortcut = [nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def _resnet(first: list[nn.Module], widths: tuple[int, ...], depths: tuple[int, ...], num_classes: int) -> nn.Module:
    body = [*first[:2], nn.ReLU(), *first[2:]]
    channels = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for i in range(depth):
            body.append(Block(channels, width, 2 if stage and i == 0 else 1))
            channels = width
    return Classifier(nn.Sequential(*body), channels, num_classes)


def resnet_tiny(num_classes: int, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """48-96-192 channels, 10 3x3 convolutions after a stem of stride 2: the glyph teacher, 1.5 M parameters."""
    return _resnet(stem(in_channels, 48, image_size, small_stride=2), (48, 96, 192), (1, 2, 2), num_classes)


def resnet18(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """ResNet-18; a 3x3 stem without pooling for images up to 64 pixels."""
    return _resnet(stem(in_channels, 64, image_size), (64, 128, 256, 512), (2, 2, 2, 2), num_classes)


def resnet34(num_classes: int, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """ResNet-34; a 3x3 stem without pooling for images up to 64 pixels."""
    return _resnet(stem(in_channels, 64, image_size), (64, 128, 256, 512), (3, 4, 6, 3), num_classes)
