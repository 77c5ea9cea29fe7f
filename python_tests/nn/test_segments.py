"""Steps of a packed network that one op runs: the same bits as layer by layer, and every change of a layer is seen."""

import copy
import pickle
import threading

import pytest
import torch
from networks import SHAPES, make
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import bnn
from bnn.nn import BinaryConv2d, Blend, GatedAdd, Int8Linear, PackedBinaryConv2d, _program
from bnn.nn._packed import PackedEpilogue
from bnn.nn._segments import Segment

FORMS = {"float32": {}, "bfloat16": {"dtype": torch.bfloat16}, "int8": {"dtype": torch.int8}, "exact": {"exact": True}}


def packed(name: str = "reactnet_tiny", form: str = "int8") -> bnn.PackedModel:
    return bnn.pack(make(name), **FORMS[form])


def image(name: str = "reactnet_tiny", count: int = 2) -> torch.Tensor:
    return torch.randn(count, *SHAPES[name])


def one_by_one(model: bnn.PackedModel, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return _program.run(model.links, model.layers, x)


def segments(model: bnn.PackedModel) -> list[Segment]:
    return [part for part in model._segments._parts if isinstance(part, Segment)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SHAPES)
def test_equals_one_by_one(name, form):
    model = packed(name, form)
    for count in (1, 3):
        for mode in (torch.no_grad, torch.inference_mode):
            x = image(name, count)
            with mode():
                assert torch.equal(model(x), one_by_one(model, x))


def test_what_runs_together():
    model = packed()
    model(image())
    [whole] = segments(model)
    assert len(whole.code) == len(model.steps) + 1 and len(whole.inputs) == len(whole.outputs) == 1
    for form, count in (("float32", 3), ("bfloat16", 3), ("exact", 12)):
        model = packed(form=form)
        model(image())
        assert len(segments(model)) == count


def test_gated_networks_run_together():
    """But for torch's functions that nothing replaces: a mean of another kind, a product, a batch norm."""
    model = packed("Gated")
    model(image("Gated"))
    kinds = [type(part) is Segment or part.step["kind"] for part in model._segments._parts]
    assert kinds == [True, "mean", True, "mul", "BatchNorm2d", True]
    whole = bnn.pack(bnn.models.build("bnext_t", 10, 3, 32), dtype=torch.int8)
    whole(torch.randn(1, 3, 32, 32))
    assert len(segments(whole)) == len(whole._segments._parts) == 1
    *inner, _ = [layer.stream_dtype for layer in whole.layers.values() if isinstance(layer, PackedEpilogue)]
    assert set(inner) == {torch.float16}


GATED_CHANGES = (
    (nn.PReLU, lambda layer: layer.weight.mul_(3)),
    (Blend, lambda layer: layer.share.sub_(2)),
    (Blend, lambda layer: layer._apply(torch.neg)),  # as conversions do: through `.data`
    (Blend, lambda layer: layer.train()),
    (GatedAdd, lambda layer: layer.scale.neg_()),
    (GatedAdd, lambda layer: setattr(layer, "multiply", not layer.multiply)),
    (nn.ReLU, lambda layer: setattr(layer, "__class__", nn.Sigmoid)),
    (nn.Sigmoid, lambda layer: setattr(layer, "forward", torch.zeros_like)),
)


def test_changes_of_gated_networks_are_seen():
    model, x = packed("Gated"), image("Gated")
    for kind, change in GATED_CHANGES:
        before = model(x)
        with torch.no_grad():
            change(next(layer for layer in model.layers.values() if type(layer) is kind))
        assert torch.equal(model(x), one_by_one(model, x)), kind
        assert not torch.equal(model(x), before), kind


def test_other_inputs_go_layer_by_layer():
    model, x = packed(), image()
    expected = model(x)
    assert torch.equal(model(x.double()), one_by_one(model, x.double()))
    assert torch.equal(model(x[:0]), expected[:0]) and torch.equal(model(nn.Parameter(x)), expected)
    with pytest.raises(RuntimeError, match="bnn::int8_conv2d: panels must be"):
        model(torch.randn(2, 5, 32, 32))
    assert torch.equal(torch.compile(model, backend="aot_eager")(x), expected)


@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8"])
def test_who_watches_sees_layers_and_leaves_nothing_behind(form):
    """Fake tensors, which have no values, made in the first call of all; and a counter of operations."""
    model, x = packed(form=form), image()
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = model(x)
    assert isinstance(fake, FakeTensor) and fake.shape == (len(x), 10)
    with FlopCounterMode(display=False):
        watched = model(x)
    assert torch.equal(model(x), watched)


def change_in_place(layer: PackedBinaryConv2d) -> None:
    layer.bias.add_(1)


def replace_a_buffer(layer: PackedBinaryConv2d) -> None:
    layer.scale = -2 * layer.scale


def convert(layer: PackedBinaryConv2d) -> None:
    layer._apply(lambda t: t if t.dtype == torch.int64 else t + 1)


def change_the_geometry(layer: PackedBinaryConv2d) -> None:
    layer.pad_value = 1


def change_weights(layer: PackedBinaryConv2d) -> None:
    layer.weight.bitwise_xor_(1)


def drop_the_activation(layer: PackedBinaryConv2d) -> None:
    layer.rprelu = None


def change_in_inference_mode(layer: PackedBinaryConv2d) -> None:
    with torch.inference_mode():
        layer.bias = layer.bias + 1


def restore_a_state(layer: PackedBinaryConv2d) -> None:
    layer.__setstate__(layer.__getstate__() | {"pad_value": 1})


def load_by_swapping(layer: PackedBinaryConv2d) -> None:
    state = {name: t + (t.dtype != torch.int64) for name, t in layer.state_dict().items()}
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer.load_state_dict(state, assign=True)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


CHANGES = (
    restore_a_state,
    load_by_swapping,
    change_in_place,
    replace_a_buffer,
    convert,
    change_the_geometry,
    change_weights,
    drop_the_activation,
    change_in_inference_mode,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_are_seen(change):
    model, x = packed(), image(count=8)
    before = model(x)
    change(next(layer for layer in model.layers.values() if isinstance(layer, PackedBinaryConv2d)))
    after = model(x)
    assert torch.equal(after, one_by_one(model, x)) and not torch.equal(after, before)


def test_changes_of_real_layers_are_seen():
    model, x = packed(), image()
    before = model(x)
    name, linear = list(model.layers.items())[-1]
    linear.bias.sub_(1)
    torch.testing.assert_close(model(x), before - 1)
    linear.weight.zero_()
    assert torch.equal(model(x), one_by_one(model, x)) and model(x).std(0).max() == 0
    model.layers[name] = Int8Linear(linear.in_features, 3, mean=True)
    assert torch.equal(model(x), torch.zeros(2, 3))
    pool = next(layer for layer in model.layers.values() if isinstance(layer, nn.AvgPool2d))
    pool.stride = 3
    with pytest.raises(RuntimeError, match="residual must be"):
        model(x)


def test_other_buffers_for_one_call():
    model, x = packed(), image()
    before, name = model(x), next(name for name, t in model.named_buffers() if name.endswith("bias"))
    buffers = {name: model.get_buffer(name) + 1}
    other = torch.func.functional_call(model, buffers, x)
    assert not torch.equal(other, before) and torch.equal(model(x), before)


def network_with(pool: nn.Module) -> nn.Module:
    layers = [BinaryConv2d(3, 8, 3, padding=1), pool, BinaryConv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 4)).eval()


@pytest.mark.parametrize("form", ["float32", "int8"])
@pytest.mark.parametrize("arguments", [{}, {"kernel_size": (2,)}, {"stride": (2,)}, {"padding": (0,)}, {"stride": 1},
                                       {"kernel_size": (3, 2), "padding": (1, 0), "ceil_mode": True},
                                       {"padding": 1, "count_include_pad": False}])  # fmt: skip
def test_poolings(arguments, form):
    model = bnn.pack(network_with(nn.AvgPool2d(**{"kernel_size": 2} | arguments)), **FORMS[form])
    x = torch.randn(2, 3, 9, 8)
    assert torch.equal(model(x), one_by_one(model, x))


def test_changes_of_poolings_are_seen():
    model, x = bnn.pack(network_with(nn.AvgPool2d(2)), dtype=torch.int8), torch.randn(2, 3, 8, 8)
    pool = next(layer for layer in model.layers.values() if isinstance(layer, nn.AvgPool2d))
    for name, value in (("divisor_override", 3), ("divisor_override", None), ("stride", 1), ("kernel_size", (1, 2))):
        setattr(pool, name, value)
        assert torch.equal(model(x), one_by_one(model, x)), name


@pytest.mark.parametrize("name", ["scale", "bias", "next_shift", "shift"])
def test_buffers_from_inference_mode(name):
    for form in ("float32", "int8"):
        model, x = packed("Plain", form), image("Plain")
        model(x)
        for layer in model.layers.values():
            if layer._buffers.get(name) is not None:
                with torch.inference_mode():
                    setattr(layer, name, getattr(layer, name) + 0.1)
        assert torch.equal(model(x), one_by_one(model, x))


def test_a_default_device_leaves_no_trace():
    model, x = packed(), image()
    expected = one_by_one(model, x)
    torch.set_default_device("meta")
    try:
        assert torch.equal(model(x), expected)
    finally:
        torch.set_default_device(None)
    assert torch.equal(model(x), expected)


def test_other_dtypes_are_named():
    model, x = packed(), image()
    model(x)
    next(iter(model.layers.values())).stream_dtype = torch.float64
    with pytest.raises(RuntimeError, match="stream_dtype must be None, float32"):
        model(x)


def test_copies_and_loaded_states():
    model, x = packed(), image()
    expected = model(x)
    for other in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert other._segments is None and torch.equal(other(x), expected)
    other = bnn.pack(make("reactnet_tiny", seed=1), dtype=torch.int8)
    assert not torch.equal(other(x), expected)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), expected)
    model.to(torch.float32)
    assert torch.equal(model(x), expected)


def test_hooks_see_every_layer():
    model, x = packed(), image()
    expected, seen = model(x), []
    layer = list(model.layers.values())[3]
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook,
                     nn.modules.module.register_module_forward_hook,
                     nn.modules.module.register_module_forward_pre_hook):  # fmt: skip
        hook = register(lambda module, *_: seen.append(module))
        assert torch.equal(model(x), expected)
        hook.remove()
        assert layer in seen
        seen.clear()
        model(x)
        assert seen == []


def test_a_layer_of_ones_own():
    class Louder(PackedBinaryConv2d):
        def forward(self, x, residual=None):
            stream, words = super().forward(x, residual)
            return 2 * stream, words

    model, x = packed(), image()
    before = model(x)
    layer = next(layer for layer in model.layers.values() if isinstance(layer, PackedBinaryConv2d))
    layer.__class__ = Louder
    louder = model(x)
    assert not torch.equal(louder, before) and torch.equal(louder, one_by_one(model, x))
    layer.__class__ = PackedBinaryConv2d
    layer.forward = lambda *inputs: Louder.forward(layer, *inputs)
    with pytest.raises(TypeError):  # super() of another class: it was called
        model(x)
    del layer.forward
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("name, form", [("reactnet_tiny", "int8"), ("Branches", "exact")])
def test_under_vmap(name, form):
    model, x = packed(name, form), image(name, 6)
    expected = model(x)
    pairs = x.unflatten(0, (3, 2)).movedim(0, 2)
    for got in (torch.vmap(lambda t: model(t[None])[0])(x), torch.vmap(model, in_dims=2)(pairs).flatten(0, 1)):
        torch.testing.assert_close(got, expected)  # torch's own layers multiply in another order


def test_threads_share_a_network():
    model = packed()
    inputs = [image() for _ in range(8)]
    expected = [one_by_one(model, x) for x in inputs]
    right = []

    def run(x, y):
        right.append(all(torch.equal(model(x), y) for _ in range(20)))

    threads = [threading.Thread(target=run, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 8
