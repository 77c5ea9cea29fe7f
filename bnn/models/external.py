"""Full-precision networks of torchvision and timm by name: "torchvision:resnet18", "timm:resnet18d"."""

import difflib
import os
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Body:
    """A network without its classifier: [N, C, H, W] -> [N, feature_dim]; what its published weights expect.

    head: prefix of the classifier's keys in a state dict of the whole network. size: side of the images, pixels.
    mean, std: of values in [0, 1].
    """

    network: nn.Module
    feature_dim: int
    head: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class External(nn.Module):
    """logits = classifier(body(x)), where body comes from another library."""

    def __init__(self, body: Body, num_classes: int) -> None:
        super().__init__()
        self.body = body.network
        self.feature_dim = body.feature_dim
        self.classifier = nn.Linear(body.feature_dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, feature_dim]."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def is_external(name: str) -> bool:
    """Whether `name` is LIBRARY:NETWORK."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def check(name: str) -> None:
    """Raise ValueError, naming the nearest, for a network that its library does not have; ImportError without it."""
    library, _, network = name.partition(":")
    module = _library(library)
    known = module.models.list_models(module.models) if library == "torchvision" else module.list_models()
    if network.split(".")[0] not in known:
        close = difflib.get_close_matches(network, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"{library} has no network {network!r}{hint}")


def body(name: str, in_channels: int = 3, pretrained: bool = False) -> Body:
    """The network `name` without its classifier, randomly initialized or with the weights that its library publishes.

    For other than 3 channels torchvision's first convolution is new; with weights and grey images it gets the sum over
    the colours, which is what it makes of a grey picture in colour.

    Raises:
        ImportError: the library is not installed. ValueError: it has no such network, the network has no linear
            classifier or several outputs, its weights can't be downloaded.
    """
    check(name)
    library, _, network = name.partition(":")
    try:
        return (_torchvision if library == "torchvision" else _timm)(network, in_channels, pretrained)
    except Exception as problem:
        if not pretrained or isinstance(problem, ValueError):
            raise
        why = " ".join(str(problem).split())[:200]  # whatever a download raises: each library has errors of its own
        raise ValueError(f"the weights of {name} can't be downloaded ({why}); without a network a teacher takes a file "
                         "(--teacher-weights), a model what the library keeps") from None  # fmt: skip


def load(body: Body, state: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Put a state dict of the whole network, with any number of classes, into its body.

    Raises:
        ValueError: a key is missing or unknown, or has another size; it is named.
    """
    wanted = body.network.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith(body.head)}
    for key in sorted(set(wanted) ^ set(state)):
        raise ValueError(f"{path} does not fit: {key!r} is {'missing' if key in wanted else 'not of this network'}")
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise ValueError(f"{path} does not fit: {key!r} is {list(value.shape)}, expected {list(wanted[key].shape)}")
    body.network.load_state_dict(state)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"networks of {name} need it: pip install 'bnn-torch[vision]'", name=name) from error


def _torchvision(name: str, in_channels: int, pretrained: bool) -> Body:
    models = _library("torchvision").models
    published = models.get_model_weights(name).DEFAULT
    network = models.get_model(name, weights=published if pretrained else None)
    linear = [key for key, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    several = any(key.lower().startswith("aux") for key, _ in network.named_children())
    if several or not linear or network.get_submodule(linear[-1]).out_features != 1000:
        raise ValueError(f"torchvision:{name} does not end in one linear classifier; choose another network")
    classifier = network.get_submodule(linear[-1])
    _replace(network, linear[-1], nn.Identity())
    if in_channels != 3:
        _recolour(network, in_channels, pretrained)
    like = published.transforms()
    return Body(network, classifier.in_features, linear[-1] + ".", like.crop_size[0], tuple(like.mean), tuple(like.std))


def _timm(name: str, in_channels: int, pretrained: bool) -> Body:
    network = _library("timm").create_model(name, pretrained=pretrained, in_chans=in_channels, num_classes=0)
    facts = network.pretrained_cfg
    width = getattr(network, "head_hidden_size", None) or network.num_features
    return Body(network, width, f"{facts['classifier']}.", facts["input_size"][-1], facts["mean"], facts["std"])


def _recolour(network: nn.Module, in_channels: int, pretrained: bool) -> None:
    name, old = next((key, layer) for key, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    if pretrained and in_channels != 1:
        raise ValueError(f"pretrained: the weights are for 3 channels or 1, got {in_channels}")
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation,  # type: ignore[arg-type]
                    bias=old.bias is not None)  # fmt: skip
    if pretrained:
        with torch.no_grad():
            new.weight.copy_(old.weight.sum(1, keepdim=True))
            if old.bias is not None:
                new.bias.copy_(old.bias)  # type: ignore[union-attr]
    _replace(network, name, new)


def _replace(network: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, new)
