"""The full-precision network that a binary one is compared with."""

from torch import nn

from bnn.nn import BinaryConv2d, BinaryLinear, RPReLU

# binary network -> the full-precision one with its layout; networks that are not here keep theirs, with real layers
TWINS = {"reactnet_tiny": "resnet_tiny", "reactnet18": "resnet18", "birealnet18": "resnet18"}


def twin(name: str, num_classes: int, in_channels: int, image_size: int) -> tuple[str, nn.Module]:
    """What the binary network `name` competes with, in words and as a module with random weights.

    Raises:
        ValueError: as `bnn.models.build`.
    """
    from bnn.models import build

    if name in TWINS:
        return TWINS[name], build(TWINS[name], num_classes, in_channels, image_size)
    model = with_real_layers(build(name, num_classes, in_channels, image_size))
    return f"{name} with Conv2d and ReLU for its binary layers and RPReLU", model


def with_real_layers(model: nn.Module) -> nn.Module:
    """Replace, in place, every binary layer by a real one of the same shape and every RPReLU by ReLU; returns `model`.

    The weights are new: this is for what depends on shapes alone, such as time and size.
    """
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            real = _real(layer)
            if real is not None:
                setattr(parent, name, real)
    return model


def _real(layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, BinaryConv2d):
        return nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                         layer.dilation, layer.groups, layer.bias is not None)  # fmt: skip
    if isinstance(layer, BinaryLinear):
        return nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    return nn.ReLU() if isinstance(layer, RPReLU) else None
