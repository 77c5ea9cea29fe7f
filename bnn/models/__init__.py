"""Network layouts by name: a plain function `name(num_classes, in_channels, image_size)` per variant."""

from typing import Any

from torch import nn

from bnn.models import external
from bnn.models.binarize import binarize
from bnn.models.birealnet import birealnet18
from bnn.models.bnext import bnext_t
from bnn.models.checkpoints import load_published
from bnn.models.pretrained import pretrained
from bnn.models.reactnet import reactnet18, reactnet_a, reactnet_tiny
from bnn.models.resnet import resnet18, resnet34, resnet_tiny
from bnn.models.summary import summary
from bnn.nn import CosineLinear
from bnn.nn.variational_head import two_stage_head

_BUILDERS = (reactnet_tiny, reactnet18, reactnet_a, birealnet18, bnext_t, resnet_tiny, resnet18, resnet34)

__all__ = ["build", "check_name", "load_published", "names", "pretrained", "summary", *(b.__name__ for b in _BUILDERS)]


def names() -> list[str]:
    """The names that `build` knows."""
    return [builder.__name__ for builder in _BUILDERS]


def check_name(name: str) -> None:
    """Raise ValueError for a network that `build` does not know, ImportError where its library is not installed."""
    if external.is_external(name):
        external.check(name)
    elif name not in names():
        libraries = " or ".join(f"{library}:NETWORK" for library in external.LIBRARIES)
        raise ValueError(f"model {name!r} is unknown, expected one of {names()}, {libraries}")


def build(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 224,
    head: dict | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """The network `name`, randomly initialized: forward [N, in_channels, H, W] -> logits [N, num_classes].

    Args:
        name: one of `names()`, or "torchvision:NETWORK" or "timm:NETWORK": that network made binary by `bnn.binarize`.
        num_classes: at least 2.
        in_channels: of the images.
        image_size: edge in pixels; up to 64 the stem keeps more of the resolution.
        pretrained: the binary layers of another library's network start from the weights that it publishes.
        head: another classifier: {"kind": "cosine"} with arguments of `bnn.nn.CosineLinear` after the first two, or
            without a kind the arguments of `bnn.nn.variational_head.two_stage_head` after the first two.

    Returns:
        A module with `features(x) -> [N, feature_dim]`, `classifier` (Linear, or the head) and `feature_dim`.

    Raises:
        ValueError: an unknown name (the known ones are listed), fewer than two classes, images below 8 pixels,
            `pretrained` for one of `names()`, weights that can't be downloaded. ImportError: a library is missing.
    """
    check_name(name)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if image_size < 8:
        raise ValueError(f"image_size must be at least 8 pixels, got {image_size}")
    model: Any
    if external.is_external(name):
        model = binarize(external.External(external.body(name, in_channels, pretrained), num_classes))
    elif pretrained:
        raise ValueError(f"pretrained: only networks of torchvision and timm have published weights here, not {name}")
    else:
        model = next(b for b in _BUILDERS if b.__name__ == name)(num_classes, in_channels, image_size)
    if head is not None:
        model.classifier = _head(model.feature_dim, num_classes, **head)
    return model


def _head(in_features: int, out_features: int, kind: str = "two_stage", **arguments: Any) -> nn.Module:
    kinds: dict[str, Any] = {"two_stage": two_stage_head, "cosine": CosineLinear}
    if kind not in kinds:
        raise ValueError(f"head: kind {kind!r} is unknown, expected one of {list(kinds)}")
    return kinds[kind](in_features, out_features, **arguments)
