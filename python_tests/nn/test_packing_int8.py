"""`bnn.pack(dtype=torch.int8)`: which real layers get 8 bits, what that changes, and what stays."""

import copy
import pickle

import backends
import pytest
import torch
from networks import SHAPES, make, randomize
from torch import nn

import bnn
from bnn.models import build
from bnn.nn import BinaryConv2d, BinaryLinear, CosineLinear, Int8Conv2d, Int8Linear, PackedBinaryConv2d, _program

NAMES = ("Plain", "Matrices", "reactnet_tiny", "reactnet18", "reactnet_a", "birealnet18")


def image(name: str, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *SHAPES[name])


@pytest.mark.parametrize("name", NAMES)
def test_files_and_instruction_sets_agree(name, tmp_path):
    packed, x = bnn.pack(make(name), dtype=torch.int8), image(name)
    logits = packed(x)
    assert logits.dtype == torch.float32 and torch.isfinite(logits).all()
    kinds = {step["kind"] for step in packed.steps}
    assert not kinds & {"Conv2d", "Linear"} and kinds & {"Int8Conv2d", "Int8Linear"}
    path = bnn.save(packed, tmp_path / "int8.safetensors")
    loaded = bnn.load(path)
    assert path.stat().st_size < bnn.save(bnn.pack(make(name), dtype=torch.bfloat16), tmp_path / "f").stat().st_size
    for isa in bnn.isa.available():
        with backends.using(isa):
            assert torch.equal(packed(x), logits) and torch.equal(loaded(x), logits), isa


@pytest.mark.parametrize("name", ["Plain", "Matrices", "reactnet_tiny", "birealnet18"])
def test_real_layers_move_by_rounding_alone(name):
    """Without binary layers, whose signs near zero flip, logits differ by what 8 bits round away."""
    from bnn.models.twins import twin

    channels, side, _ = SHAPES[name]
    model = twin(name, 10, channels, side)[1] if name in bnn.models.names() else real_network(SHAPES[name])
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1), layer.running_var.uniform_(0.5, 2), layer.weight.data.normal_()
    x = image(name, 8)
    expected = bnn.pack(model.eval())(x)
    error = (bnn.pack(model, dtype=torch.int8)(x) - expected).std() / expected.std()
    rounded = (bnn.pack(model, dtype=torch.bfloat16)(x) - expected).std() / expected.std()
    assert 0 < error < 0.1 and error < 8 * rounded + 0.02


def real_network(shape) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], 24, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(96, 40), nn.ReLU(), nn.Linear(40, 10))  # fmt: skip


def test_the_stem_pools_and_hands_over_words():
    packed = bnn.pack(randomize(build("reactnet18", 10, 3, 224)), dtype=torch.int8)
    first, second, *_, last = packed.steps
    stem = packed.layers[first["name"]]
    assert [step["kind"] for step in (first, second, last)] == ["Int8Conv2d", "PackedBinaryConv2d", "Int8Linear"]
    assert first["inputs"] == ["input"] and not {step["kind"] for step in packed.steps} & {"cast", "flatten"}
    assert stem.pool == (3, 2, 1) and stem.words and stem.stream and stem.stream_dtype == torch.float16
    assert second["inputs"][0].endswith("#words")
    dtypes = {name: layer.stream_dtype for name, layer in packed.layers.items() if hasattr(layer, "stream_dtype")}
    assert dtypes.pop(last["name"]) == torch.float32 and set(dtypes.values()) == {torch.float16}
    rows = {row["name"]: row["kernel"] for row in packed.backend_report(torch.randn(1, 3, 224, 224))}
    current = bnn.isa.current()
    assert rows[first["name"]] == rows[last["name"]] == ("avx512" if current == "amx" else current)


def test_what_has_no_8_bit_form_stays():
    layers = [
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, (3, 1), (1, 2), (1, 0)),
        nn.MaxPool2d((2, 1)),
        nn.Conv2d(8, 8, 3),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.MaxPool2d(2),
        nn.Flatten(),
    ]
    model = nn.Sequential(*layers).eval()
    packed = bnn.pack(model, dtype=torch.int8)
    kinds = [step["kind"] for step in packed.steps]
    assert kinds == ["channels_last", "cast", "Conv2d", "Conv2d", "Int8Conv2d", "MaxPool2d", "Int8Conv2d", "MaxPool2d",
                     "Int8Conv2d", "cast", "Flatten"]  # fmt: skip
    rounded, grouped = packed.layers[packed.steps[8]["name"]], packed.layers[packed.steps[2]["name"]]
    assert rounded.pool == (2, 2, 0) and rounded.stream_dtype == grouped.weight.dtype == torch.bfloat16
    x = torch.randn(2, 4, 20, 30)
    expected = model(x)
    assert (packed(x) - expected).std() < 0.05 * expected.std()


def test_norms_beyond_float16_stay_in_range(tmp_path):
    """A batch norm of pictures with 10 bits has variances of 10^5: beside real layers with weights it is bfloat16."""
    binary = [BinaryConv2d(3, 64, 3, padding=1, shift=True), nn.BatchNorm2d(64), BinaryConv2d(64, 64, 3, padding=1)]
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)]
    model = nn.Sequential(nn.BatchNorm2d(3), *binary, *ends)
    x = torch.randint(0, 1024, (16, 3, 12, 12)).float()
    for _ in range(50):
        model(x)
    assert model.eval()[0].running_var.min() > 66_000
    packed = bnn.pack(model, dtype=torch.int8)
    [first] = [layer for layer in packed.layers.values() if isinstance(layer, PackedBinaryConv2d) and layer.stream][:1]
    assert first.stream_dtype == torch.bfloat16
    y = packed(x)
    assert (y - bnn.pack(model, dtype=torch.bfloat16)(x)).abs().max() < 0.05 * y.abs().max()
    assert torch.equal(bnn.load(bnn.save(packed, tmp_path / "f.safetensors"))(x), y)


def test_the_cast_of_a_file_decides():
    """A network packed when streams beside 8-bit layers had bfloat16"""
    model = nn.Sequential(BinaryConv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    packed = bnn.pack(model.eval(), dtype=torch.int8)
    [layer] = [layer for layer in packed.layers.values() if isinstance(layer, PackedBinaryConv2d)]
    assert layer.stream_dtype == torch.float16
    [first] = [step for step in packed.steps if step["kind"] == "cast" and step["args"]["dtype"] != "float32"]
    first["args"]["dtype"] = "bfloat16"
    _program.set_dtype(packed.steps, dict(packed.layers))
    assert layer.stream_dtype == torch.bfloat16


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


@pytest.mark.parametrize("flat", [nn.Identity(), nn.Flatten(2)])
def test_linear_acts_on_the_last_dimension(flat):
    """Also where there are as many columns as channels, and a mean over pixels would fit, too."""
    features = 8 if isinstance(flat, nn.Identity) else 64
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), flat, nn.Linear(features, 4)).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    y = bnn.pack(model, dtype=torch.int8)(x)
    assert y.shape == expected.shape and (y - expected).std() < 0.05 * expected.std()


def test_broken_numbers_stay_visible():
    """As in float32, where binary layers alone take NaN for +1."""
    model, x = real_network((3, 8, 8)).eval(), torch.randn(2, 3, 8, 8)
    packed = bnn.pack(model, dtype=torch.int8)
    for value in (float("nan"), float("inf"), -float("inf")):
        broken = x.clone()
        broken[0, 1, 2, 3] = value
        y = packed(broken)
        assert y[0].isnan().all() and torch.equal(y[1], packed(x)[1])
    with torch.no_grad():
        model[0].weight[3, 0, 1, 1] = float("nan")
    assert bnn.pack(model, dtype=torch.int8)(x).isnan().all()


def test_images_of_any_float_type():
    packed, x = bnn.pack(make("Plain"), dtype=torch.int8), image("Plain")
    assert torch.equal(packed(x.double()), packed(x))
    assert Int8Linear(3, 2, mean=True)(torch.randn(2, 3, 4, 4).double()).shape == (2, 2)
    assert Int8Linear(3, 2)(torch.randn(2, 3).double()).dtype == torch.float32


@pytest.mark.parametrize("tail", ["relu", "pool", "binary", "cosine"])
def test_networks_with_other_ends(tail, tmp_path):
    ends = {
        "relu": lambda: [nn.Conv2d(8, 4, 1), nn.ReLU()],
        "pool": lambda: [nn.Conv2d(8, 4, 1), nn.MaxPool2d((2, 2), 2, (0, 0))],
        "binary": lambda: [nn.Flatten(), nn.Linear(512, 16), BinaryLinear(16, 4)],
        "cosine": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), CosineLinear(8, 4)],
    }
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), *ends[tail]()).eval()
    packed, x = bnn.pack(model, dtype=torch.int8), torch.randn(2, 3, 8, 8)
    loaded = bnn.load(bnn.save(packed, tmp_path / "f.safetensors"))
    assert torch.equal(loaded(x), packed(x))

    def dtypes(network):
        return [getattr(layer, "stream_dtype", None) for layer in network.layers.values()]

    assert dtypes(loaded) == dtypes(packed) and dtypes(packed)[0] == torch.float16
    if tail != "binary":
        assert (packed(x) - model(x)).std() < 0.05 * model(x).std()


def test_a_mean_that_something_else_reads_stays():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.flat = nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x):
            y = self.flat(self.pool(x))
            return self.a(y) + self.b(y)

    one = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(6, 4))
    wide = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))
    kinds = [[step["kind"] for step in bnn.pack(model, dtype=torch.int8).steps if "Int8" not in step["kind"]]
             for model in (one, wide, Two())]  # fmt: skip
    averaging = nn.Sequential(Mean(), nn.Linear(6, 4))
    assert [step["kind"] for step in bnn.pack(averaging, dtype=torch.int8).steps] == ["Int8Linear"]
    assert kinds[0] == [] and "AdaptiveAvgPool2d" in kinds[1] and "AdaptiveAvgPool2d" in kinds[2]
    x = torch.randn(3, 6, 5, 5)
    for model in (one, wide, averaging, Two()):
        assert (bnn.pack(model, dtype=torch.int8)(x) - model(x)).abs().max() < 0.02


def test_features_of_a_network_that_averages_in_its_classifier():
    from bnn.commands._prototypes import features_of

    model, x = make("reactnet_tiny"), image("reactnet_tiny", 3)
    features = features_of(bnn.pack(model, dtype=torch.int8))(x)
    assert features.shape == model.features(x).shape == features_of(bnn.pack(model))(x).shape


def test_weights_are_rounded_to_the_nearest():
    layer = nn.Conv2d(3, 5, 3)
    layer.weight.data[4] = 0
    int8 = Int8Conv2d.of(layer)
    error = (int8.weight * int8.scale.view(-1, 1, 1, 1) - layer.weight).abs().amax((1, 2, 3))
    assert bool((error <= 0.5001 * int8.scale).all()) and int8.weight.abs().amax() == 127
    assert torch.equal(int8.scale[4], torch.tensor(1.0)) and not int8.weight[4].any()
    linear = Int8Linear.of(nn.Linear(7, 3, bias=False))
    assert linear.weight.shape == (3, 7, 1, 1) and not linear.bias.any()


def test_copies_and_changed_weights():
    layer, x = Int8Conv2d.of(nn.Conv2d(3, 8, 3)), torch.randn(1, 3, 6, 6)
    y = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other._kept is None and torch.equal(other(x), y)
    for other in (copy.copy(layer), layer._replicate_for_data_parallel()):
        other._buffers = {name: None if t is None else -t for name, t in layer._buffers.items() if name != "scale"}
        other._buffers["scale"] = layer.scale
        assert torch.equal(other(x), -y) and torch.equal(layer(x), y)
    layer.weight.mul_(-1)
    layer.bias.mul_(-1)
    assert torch.equal(layer(x), -y)
    layer.weight = -layer.weight
    layer.bias.mul_(-1)
    assert torch.equal(layer(x), y)
    with torch.inference_mode():
        layer.weight = -layer.weight
        layer.bias = -layer.bias
        assert torch.equal(layer(x), -y)


def test_a_first_layer_under_compile():
    packed, x = bnn.pack(make("Plain"), dtype=torch.int8), image("Plain")
    layer = packed.layers[packed.steps[0]["name"]]
    assert torch.equal(torch.compile(layer, backend="aot_eager")(x), layer(x))


def test_refusals():
    with pytest.raises(ValueError, match="dtype must be torch.float32 with exact=True"):
        bnn.pack(make("Plain"), exact=True, dtype=torch.int8)
    for arguments in ((0, 3, 1), (3, 0, 1), (3, 3, 0), (3, 3, 1, 0), (3, 3, 1, 1, -1), (3, 3, 1, 1, 0, (3, 2))):
        with pytest.raises(ValueError, match="must be"):
            Int8Conv2d(*arguments)
    with pytest.raises(ValueError, match="must be"):
        Int8Linear(3, 0)


def test_int8_layers_in_a_summary():
    from bnn.models.summary import summary

    model = randomize(build("reactnet18", 10, 3, 224)).eval()
    real = {row["name"]: row for row in summary(model, 224, 3)}
    rows = summary(bnn.pack(model, dtype=torch.int8), 224, 3)
    for kind in ("real_macs", "binary_macs"):
        assert sum(row[kind] for row in rows) == sum(row[kind] for row in real.values())
    assert all(row["kernel"] != "torch" for row in rows if row["real_macs"])
