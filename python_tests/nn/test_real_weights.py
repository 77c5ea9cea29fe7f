"""Binary layers that use their latent weights as they are, against plain torch."""

import pytest
import torch
from inputs import bits_equal
from networks import make
from torch import nn
from torch.nn import functional as F

import bnn
from bnn.nn import BinaryConv2d, BinaryLinear, use_real_weights
from bnn.nn.split_masks import extract_slim, kels


def sign(v, surrogate):
    """Sign of v whose gradient is that of a smooth function with the surrogate as derivative."""
    inside = v.clamp(-1, 1)
    smooth = inside if surrogate == "clip" else 2 * inside - inside * inside.abs()
    return smooth + (torch.where(v < 0, -1.0, 1.0) - smooth).detach()


def gradients(y, tensors):
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((y * weights).sum(), tensors)


def check(layer, x, plain):
    nn.init.normal_(layer.weight, std=2.0)  # also beyond 1, where binary weights have no gradient
    for vector in (layer.shift, layer.bias):
        if vector is not None:
            nn.init.normal_(vector)
    tensors = [x.requires_grad_(), *layer.parameters()]
    y, wanted = layer(x), plain(sign(x if layer.shift is None else x + layer.shift.view(-1, *(1,) * (x.dim() - 2)),
                                     layer.surrogate))  # fmt: skip
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(gradients(y, tensors), gradients(wanted, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
@pytest.mark.parametrize(
    "channels, filters, geometry, options",
    [
        (6, 8, (3, 1, 1), {"shift": True}),
        (6, 8, ((3, 1), (2, 1), (1, 0), (1, 2), 2), {"shift": True, "bias": True, "surrogate": "clip"}),
        (5, 5, (3, 2, 2, 2, 5), {"scale": "none"}),  # depthwise, dilated
        (1, 3, (3, (1, 2), 1), {"shift": True}),
        (4, 7, (1,), {"bias": True}),
    ],
)
def test_convolution_is_that_of_plain_torch(channels, filters, geometry, options, pad_value):
    layer = BinaryConv2d(channels, filters, *geometry, pad_value=pad_value, **options)
    layer.real_weight = True

    def plain(signs):
        (top, left), rest = layer.padding, (layer.stride, 0, layer.dilation, layer.groups)
        padded = F.pad(signs, (left, left, top, top), value=pad_value)
        return F.conv2d(padded, layer.weight, layer.bias, *rest)

    check(layer, torch.randn(3, channels, 9, 8).to(memory_format=torch.channels_last), plain)


@pytest.mark.parametrize("options", [{}, {"shift": True, "bias": True, "surrogate": "clip"}])
def test_matrix_product_is_that_of_plain_torch(options):
    layer = BinaryLinear(70, 8, **options)
    layer.real_weight = True
    check(layer, torch.randn(5, 70), lambda signs: F.linear(signs, layer.weight, layer.bias))


@pytest.mark.parametrize(
    "layer, shape", [(BinaryConv2d(4, 6, 3, shift=True), (2, 4, 5, 5)), (BinaryLinear(4, 6), (2, 4))]
)
def test_types_are_those_of_binary_weights(layer, shape):
    x = torch.randn(shape)
    for real in (False, True):
        layer.real_weight = real
        assert layer(x).dtype == torch.float32 and layer(x.bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


def test_a_whole_model_is_switched_and_nothing_else_changes():
    model, x = make("reactnet_tiny"), torch.randn(2, 3, 32, 32)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    binary = model(x)
    use_real_weights(model)
    assert not torch.allclose(model(x), binary)
    assert model.state_dict().keys() == state.keys() and "real_weight=True" in repr(model)
    use_real_weights(model, False)
    assert bits_equal(model(x), binary) and "real_weight" not in repr(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_model_without_binary_layers_is_refused():
    with pytest.raises(ValueError, match="use_real_weights: model must have binary layers"):
        use_real_weights(nn.Sequential(nn.Conv2d(3, 4, 3)))


@pytest.mark.parametrize("name, kind", [("reactnet_tiny", "BinaryConv2d"), ("Matrices", "BinaryLinear")])
def test_packing_is_refused_by_name(name, kind):
    model = make(name)
    use_real_weights(model)
    with pytest.raises(
        ValueError, match=rf"pack: layer '.+' has real_weight=True; a packed network's {kind} has False"
    ):
        bnn.pack(model)
    use_real_weights(model, False)
    bnn.pack(model)


def test_a_slim_network_keeps_real_weights_as_they_are():
    model = make("reactnet_tiny")
    use_real_weights(model)
    slim, split = extract_slim(model, kels(model, 0.5)), kels(model, 0.5)
    for (name, layer), small in zip(model.named_modules(), slim.modules(), strict=True):
        if isinstance(layer, BinaryConv2d):
            assert small.real_weight and torch.equal(small.weight.flatten(), layer.weight[split[f"{name}.weight"]])
