"""Binary activations with real weights: the first of the two steps in which ReActNet is trained (Liu et al. 2020)."""

from torch import nn

from bnn.nn.binary_conv2d import BinaryConv2d
from bnn.nn.binary_linear import BinaryLinear


def binary_layers(model: nn.Module) -> list[BinaryConv2d | BinaryLinear]:
    """The binary layers of a network in training, in the order of `model.modules()`."""
    return [layer for layer in model.modules() if isinstance(layer, BinaryConv2d | BinaryLinear)]


def use_real_weights(model: nn.Module, on: bool = True) -> None:
    """Let every binary layer of `model` multiply by its latent weights as they are, or by their signs again (False).

    Sets the attribute `real_weight` of `BinaryConv2d` and `BinaryLinear`. It is no part of the state dict, and
    `bnn.pack` refuses a network in this mode.

    Raises:
        ValueError: `model` has no binary layer.
    """
    layers = binary_layers(model)
    if not layers:
        raise ValueError("use_real_weights: model must have binary layers (BinaryConv2d or BinaryLinear), got none")
    for layer in layers:
        layer.real_weight = on
