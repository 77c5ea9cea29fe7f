"""What every network here is: a body, global average pooling, a linear classifier."""

from torch import Tensor, nn
from torch.nn import functional as F

SMALL_IMAGE = 64  # pixels: up to here the stem neither strides by 4 nor pools


class Classifier(nn.Module):
    """logits = classifier(mean over pixels of body(x))."""

    def __init__(self, body: nn.Sequential, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.feature_dim = feature_dim
        self.classifier = nn.Linear(feature_dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, feature_dim]."""
        return F.adaptive_avg_pool2d(self.body(x), 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def stem(in_channels: int, channels: int, image_size: int, small_stride: int = 1) -> list[nn.Module]:
    """Full-precision first layers: 7x7 stride 2 and max pooling, or 3x3 with `small_stride` for small images."""
    if image_size > SMALL_IMAGE:
        conv = nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False)
        return [conv, nn.BatchNorm2d(channels), nn.MaxPool2d(3, 2, 1)]
    conv = nn.Conv2d(in_channels, channels, 3, small_stride, 1, bias=False)
    return [conv, nn.BatchNorm2d(channels)]
