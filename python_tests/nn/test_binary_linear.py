"""BinaryLinear: constructor and the op behind it."""

import pytest
import torch
from inputs import bits_equal
from torch import nn

from bnn import ops
from bnn.nn import BinaryLinear, PackedBinaryLinear


def test_forward_is_the_op():
    layer = BinaryLinear(70, 8, bias=True, shift=True, surrogate="clip", scale="none")
    nn.init.normal_(layer.shift)
    nn.init.normal_(layer.bias)
    x = torch.randn(3, 70)
    assert bits_equal(layer(x), ops.binary_linear_ste(x, layer.weight, layer.shift, "clip", "none") + layer.bias)


def test_defaults_and_gradients():
    layer = BinaryLinear(70, 8)
    assert layer.bias is None and layer.shift is None and layer.weight.shape == (8, 70)
    layer = BinaryLinear(70, 8, True, shift=True)
    layer(torch.randn(4, 70)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.parametrize(
    ("argument", "args", "options"),
    [
        ("in_features", (0, 4), {}),
        ("out_features", (4, -1), {}),
        ("surrogate", (4, 4), {"surrogate": "tanh"}),
        ("scale", (4, 4), {"scale": "max"}),
    ],
)
def test_constructor_refuses(argument, args, options):
    with pytest.raises(ValueError, match=argument):
        BinaryLinear(*args, **options)


def test_forward_refuses_what_does_not_fit():
    with pytest.raises(RuntimeError, match="bnn::binary_linear_ste: weight"):
        BinaryLinear(4, 6)(torch.randn(1, 5))


def test_packed_layer_reads_floats_or_words():
    layer = PackedBinaryLinear(70, 5, has_shift=True, has_rprelu=True)
    for buffer in (layer.shift, layer.scale, layer.bias, layer.rprelu):
        buffer.normal_()
    x, residual = torch.randn(3, 70), torch.randn(3, 5)
    assert bits_equal(layer(x, residual), layer(ops.bitpack(x, layer.shift), residual))
