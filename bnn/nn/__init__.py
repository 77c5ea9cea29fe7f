"""Layers: one class per layer, whatever it runs on."""

from bnn.nn.activations import RPReLU, RSign
from bnn.nn.binary_conv2d import BinaryConv2d, PackedBinaryConv2d
from bnn.nn.binary_linear import BinaryLinear, PackedBinaryLinear
from bnn.nn.blend import Blend
from bnn.nn.cosine_linear import CosineLinear
from bnn.nn.gated_add import GatedAdd
from bnn.nn.int8_conv2d import Int8Conv2d, Int8Linear
from bnn.nn.multires_pool2d import MultiResPool2d
from bnn.nn.real_weights import use_real_weights
from bnn.nn.variational_head import VariationalHead

__all__ = [
    "BinaryConv2d",
    "BinaryLinear",
    "CosineLinear",
    "Blend",
    "GatedAdd",
    "Int8Conv2d",
    "Int8Linear",
    "MultiResPool2d",
    "PackedBinaryConv2d",
    "PackedBinaryLinear",
    "RPReLU",
    "RSign",
    "VariationalHead",
    "use_real_weights",
]
