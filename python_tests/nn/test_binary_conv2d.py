"""BinaryConv2d: constructor and the op behind it."""

import pytest
import torch
from inputs import bits_equal
from torch import nn

import bnn
from bnn import ops
from bnn.nn import BinaryConv2d, PackedBinaryConv2d


def test_forward_is_the_op():
    layer = BinaryConv2d(6, 8, (3, 1), (2, 1), (1, 0), (1, 2), 2, bias=True, pad_value=-1, shift=True,
                         surrogate="clip", scale="none")  # fmt: skip
    nn.init.normal_(layer.shift)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 6, 7, 5)
    y = ops.binary_conv2d_ste(x, layer.weight, layer.shift, "clip", "none", (2, 1), (1, 0), (1, 2), 2, -1)
    assert bits_equal(layer(x), y + layer.bias.view(1, -1, 1, 1))


def test_defaults_are_those_of_conv2d():
    ours, theirs = BinaryConv2d(3, 4, 3), nn.Conv2d(3, 4, 3, bias=False)
    assert ours.weight.shape == theirs.weight.shape and ours.bias is None and ours.shift is None
    x = torch.randn(2, 3, 9, 8)
    assert ours(x).shape == theirs(x).shape
    assert (ours.stride, ours.padding, ours.dilation, ours.groups) == ((1, 1), (0, 0), (1, 1), 1)
    assert (ours.pad_value, ours.surrogate, ours.scale) == (0, "polynomial", "mean")


def test_everything_learns():
    layer = BinaryConv2d(4, 6, 3, padding=1, bias=True, shift=True)
    layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias", "shift"}


def test_state_dict_round_trip():
    a, b = (BinaryConv2d(4, 6, 3, bias=True, shift=True) for _ in range(2))
    nn.init.normal_(a.shift)
    b.load_state_dict(a.state_dict())
    x = torch.randn(1, 4, 5, 5)
    assert bits_equal(a(x), b(x))


def test_bfloat16_and_autocast():
    layer = BinaryConv2d(4, 6, 3, bias=True, shift=True)
    x = torch.randn(1, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("argument", "args", "options"),
    [
        ("in_channels", (0, 4, 3), {}),
        ("out_channels", (4, 0, 3), {}),
        ("in_channels", (-4, 4, 3), {}),
        ("groups", (4, 4, 3), {"groups": 3}),
        ("groups", (4, 6, 3), {"groups": 4}),
        ("groups", (4, 4, 3), {"groups": 0}),
        ("groups", (4, 4, 3), {"groups": -2}),
        ("kernel_size", (4, 4, 0), {}),
        ("kernel_size", (4, 4, (3, 0)), {}),
        ("kernel_size", (4, 4, (3, 3, 3)), {}),
        ("stride", (4, 4, 3), {"stride": 0}),
        ("padding", (4, 4, 3), {"padding": (1, -1)}),
        ("dilation", (4, 4, 3), {"dilation": 0}),
        ("pad_value", (4, 4, 3), {"pad_value": 2}),
        ("surrogate", (4, 4, 3), {"surrogate": "tanh"}),
        ("scale", (4, 4, 3), {"scale": "max"}),
    ],
)
def test_constructor_refuses(argument, args, options):
    with pytest.raises(ValueError, match=argument):
        BinaryConv2d(*args, **options)


def test_forward_refuses_what_does_not_fit():
    with pytest.raises(RuntimeError, match="bnn::binary_conv2d_ste: "):
        BinaryConv2d(4, 6, 3)(torch.randn(1, 5, 5, 5))
    with pytest.raises(RuntimeError, match="bnn::binary_conv2d_ste: x"):
        BinaryConv2d(4, 6, 3)(torch.randn(1, 4, 2, 5))


def test_repr_names_the_options():
    text = repr(BinaryConv2d(4, 6, 3, pad_value=1, shift=True))
    assert "4, 6" in text and "pad_value=1" in text and "shift=True" in text


def test_packed_layer_reads_floats_or_words():
    layer = PackedBinaryConv2d(70, 5, 3, padding=1, has_shift=True, stream=True, words=True)
    layer.shift.normal_()
    layer.scale.normal_()
    layer.next_shift.normal_()
    x = torch.randn(2, 70, 4, 4)
    stream, words = layer(x)
    again = layer(ops.bitpack(x, layer.shift))
    assert bits_equal(stream, again[0]) and torch.equal(words, again[1])
    assert torch.equal(words, ops.bitpack(stream, layer.next_shift))
    assert not list(layer.parameters())


def test_packed_layer_needs_an_output():
    with pytest.raises(ValueError, match="stream and words"):
        bnn.nn.PackedBinaryConv2d(4, 4, 3, stream=False, words=False)
