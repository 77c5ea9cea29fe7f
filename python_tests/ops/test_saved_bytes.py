"""What training keeps between forward and backward: bits, never the float input."""

from collections.abc import Callable

import oracles
import pytest
import torch
from torch import Tensor, nn

import bnn


def saved(forward: Callable[[], Tensor], parameters: list[Tensor]) -> list[Tensor]:
    """Tensors that autograd keeps for backward, one a storage, parameters not counted."""
    kept: dict[int, Tensor] = {}
    known = {p.untyped_storage().data_ptr() for p in parameters}

    def pack(t: Tensor) -> Tensor:
        pointer = t.untyped_storage().data_ptr()
        if t.numel() and pointer not in known:
            kept[pointer] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = forward()
    assert y.requires_grad
    return list(kept.values())


def size(tensors: list[Tensor]) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors)


def layer_inputs(model: nn.Module, x: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Every binary convolution of a network with its input."""
    found, hooks = [], []
    for module in model.modules():
        if isinstance(module, bnn.nn.BinaryConv2d):
            hooks.append(module.register_forward_hook(lambda m, i, o: found.append((m, i[0].detach()))))
    model(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(("surrogate", "share"), [("clip", 1 / 8), ("polynomial", 3 / 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layers_of_reactnet_tiny(endpoint_isa, surrogate, share, dtype):
    model = bnn.models.build("reactnet_tiny", 10, 1, 32)
    layers = layer_inputs(model, torch.randn(16, 1, 32, 32))
    assert len(layers) == 10
    for layer, x in layers:
        x = x.to(dtype).requires_grad_()
        geometry = (layer.stride, layer.padding, layer.dilation, layer.groups, layer.pad_value)
        operands, options = (x, layer.weight, layer.shift), (surrogate, layer.scale, *geometry)
        own = saved(lambda o=operands, p=options: bnn.ops.binary_conv2d_ste(*o, *p), [layer.weight, layer.shift])
        eager = saved(lambda o=operands, p=options: oracles.eager_conv2d(*o, *p), [layer.weight, layer.shift])
        bound = share if dtype == torch.float32 else 2 * share  # half as many bytes to begin with
        assert size(own) <= bound * size(eager), f"{size(own)} bytes against {size(eager)} of the eager form"
        assert not any(t.is_floating_point() and t.numel() >= x.numel() for t in own), "an activation is kept as floats"
        bits = 2 if surrogate == "clip" else 9
        weight_bits = 2 * 64 * (-(-layer.in_channels // 64)) / layer.in_channels
        padding = 64 * (-(-layer.in_channels // 64)) / layer.in_channels  # tail bits
        allowed = (bits if surrogate == "polynomial" else bits * padding) * x.numel() / 8
        allowed += padding * x.numel() / 8 + weight_bits * layer.weight.numel() / 8 + 4 * layer.out_channels
        assert size(own) <= allowed


@pytest.mark.parametrize(("surrogate", "share"), [("clip", 1 / 8), ("polynomial", 3 / 8)])
def test_linear(endpoint_isa, surrogate, share):
    x, weight = torch.randn(256, 512, requires_grad=True), torch.randn(128, 512, requires_grad=True)
    own = saved(lambda: bnn.ops.binary_linear_ste(x, weight, None, surrogate), [weight])
    eager = saved(lambda: oracles.eager_linear(x, weight, None, surrogate, "mean"), [weight])
    assert size(own) <= share * size(eager)


def test_nothing_is_kept_without_gradients(endpoint_isa):
    """Packed inference makes no autograd node."""
    model = bnn.pack(bnn.models.build("reactnet_tiny", 10, 1, 32))
    y = model(torch.randn(2, 1, 32, 32, requires_grad=True))
    assert not y.requires_grad and y.grad_fn is None
