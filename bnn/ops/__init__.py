"""The ops, one file a concept. The only place that names `torch.ops.bnn`."""

from bnn import _extension  # noqa: F401  registers the compiled kernels, where there are any
from bnn.ops.binary_conv2d import binary_conv2d, binary_conv2d_fused, binary_conv2d_route, binary_conv2d_ste
from bnn.ops.binary_linear import binary_linear, binary_linear_fused, binary_linear_route, binary_linear_ste
from bnn.ops.bitpack import bitpack, bitunpack
from bnn.ops.gated_add import gated_add
from bnn.ops.int8_conv2d import int8_conv2d, int8_panels
from bnn.ops.multires_pool2d import multires_pool2d
from bnn.ops.prepared_conv2d import binary_conv2d_prepare, binary_conv2d_prepared
from bnn.ops.sign_ste import sign_ste

__all__ = [
    "binary_conv2d",
    "binary_conv2d_fused",
    "binary_conv2d_prepare",
    "binary_conv2d_prepared",
    "binary_conv2d_route",
    "binary_conv2d_ste",
    "binary_linear",
    "binary_linear_fused",
    "binary_linear_route",
    "binary_linear_ste",
    "bitpack",
    "bitunpack",
    "gated_add",
    "int8_conv2d",
    "int8_panels",
    "multires_pool2d",
    "sign_ste",
]
