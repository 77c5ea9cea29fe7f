"""Network layouts by name: a plain function `name(num_classes, in_channels, image_size)` per variant."""

from typing import Any

from torch import nn

from bnn.models.birealnet import birealnet18
from bnn.models.bnext import bnext_t
from bnn.models.pretrained import pretrained
from bnn.models.reactnet import reactnet18, reactnet_a, reactnet_tiny
from bnn.models.resnet import resnet18, resnet34, resnet_tiny
from bnn.models.summary import summary
from bnn.nn import CosineLinear
from bnn.nn.variational_head import two_stage_head

_BUILDERS = (reactnet_tiny, reactnet18, reactnet_a, birealnet18, bnext_t, resnet_tiny, resnet18, resnet34)

__all__ = ["build", "names", "pretrained", "summary", *(builder.__name__ for builder in _BUILDERS)]


def names() -> list[str]:
    """The names that `build` knows."""
    return [builder.__name__ for builder in _BUILDERS]


def build(
    name: str, num_classes: int, in_channels: int = 3, image_size: int = 224, head: dict | None = None
) -> nn.Module:
    """The network `name`, randomly initialized: forward [N, in_channels, H, W] -> logits [N, num_classes].

    Args:
        name: one of `names()`.
        num_classes: at least 2.
        in_channels: of the images.
        image_size: edge in pixels; up to 64 the stem keeps more of the resolution.
        head: another classifier: {"kind": "cosine"} with arguments of `bnn.nn.CosineLinear` after the first two, or
            without a kind the arguments of `bnn.nn.variational_head.two_stage_head` after the first two.

    Returns:
        A module with `features(x) -> [N, feature_dim]`, `classifier` (Linear, or the head) and `feature_dim`.

    Raises:
        ValueError: an unknown name (the known ones are listed), fewer than two classes, images below 8 pixels.
    """
    builders = {builder.__name__: builder for builder in _BUILDERS}
    if name not in builders:
        raise ValueError(f"model {name!r} is unknown, expected one of {names()}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if image_size < 8:
        raise ValueError(f"image_size must be at least 8 pixels, got {image_size}")
    model: Any = builders[name](num_classes, in_channels, image_size)
    if head is not None:
        model.classifier = _head(model.feature_dim, num_classes, **head)
    return model


def _head(in_features: int, out_features: int, kind: str = "two_stage", **arguments: Any) -> nn.Module:
    kinds: dict[str, Any] = {"two_stage": two_stage_head, "cosine": CosineLinear}
    if kind not in kinds:
        raise ValueError(f"head: kind {kind!r} is unknown, expected one of {list(kinds)}")
    return kinds[kind](in_features, out_features, **arguments)
