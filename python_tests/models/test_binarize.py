"""bnn.binarize: which layers become binary, that their bits say something, that the result trains, packs and loads."""

import copy

import pytest
import torch
from networks import randomize
from torch import Tensor, nn
from torch.nn import functional as F
from training_step import check_packed, step

import bnn
from bnn.models.binarize import FIRST_SHIFT
from bnn.nn import BinaryConv2d, BinaryLinear, RPReLU


class Standardized(nn.Conv2d):
    """As timm's StdConv2d: not what its class says."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias, self.stride, self.padding)


class Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.expand = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)
        self.act, self.sigmoid = nn.ReLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.sigmoid(self.expand(self.act(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return x * gate


class BatchNormAct2d(nn.BatchNorm2d):
    """A batch norm with dropout and activation inside, under timm's names."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        statistics = (self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum)
        return self.act(self.drop(F.batch_norm(x, *statistics, self.eps)))


class Residual(nn.Module):
    """torchvision's basic block: one ReLU for both places, the shortcut a 1x1 convolution of stride 2."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, "same"), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, 2, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.downsample(x)
        return self.relu(y)


def nothing(module: nn.Module, inputs: tuple, output: Tensor) -> None:
    """A hook."""


class Zoo(nn.Module):
    """A layer of every kind that the rules speak of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.relu = nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU()
        self.block = Residual(16, 32)
        self.depthwise = nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.grouped, self.grouped_norm = (
            nn.Conv2d(32, 64, 3, 1, 2, dilation=2, groups=2, bias=False),
            BatchNormAct2d(64),
        )
        self.gate = Gate(64)
        self.reflect = nn.Conv2d(64, 32, 3, 1, 1, padding_mode="reflect")
        self.standard = Standardized(32, 32, 3, 1, 1)
        self.uneven = nn.Conv2d(32, 32, (3, 2), 1, "same")
        self.project, self.project_norm = nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32)
        self.wide, self.wide_norm = nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32)
        self.after_function = nn.Conv2d(32, 32, 3, 1, 1)
        self.after_silu, self.silu = nn.Conv2d(32, 32, 3, 1, 1), nn.SiLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden, self.hidden_relu, self.head = nn.Linear(32, 70), nn.ReLU(), nn.Linear(70, 10)
        self.hooked = nn.Conv2d(32, 32, 3, 1, 1)
        self.hooked.register_forward_hook(nothing)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.max_pool2d(self.relu(self.norm(self.stem(x))), 2))
        x = self.gate(self.grouped_norm(self.grouped(self.depthwise(x))))
        x = self.uneven(self.hooked(self.standard(self.reflect(x))))
        x = self.wide_norm(self.wide(x)) + self.project_norm(self.project(x))
        x = self.after_silu(self.silu(self.after_function(F.relu(x))))
        x = torch.flatten(self.pool(x), 1)
        return self.head(self.hidden_relu(self.hidden(x)))


REAL = {
    "stem": "reads the network's input",
    "block.downsample.0": "1x1 of stride 2",
    "depthwise": "depthwise",
    "gate.squeeze": "gates",
    "gate.expand": "gates",
    "reflect": "padding_mode='reflect'",
    "standard": "Standardized",
    "uneven": "'same'",
    "hooked": "hooks",
    "project": "1x1, alone on a shortcut",
    "head": "makes the network's output",
    "unused": "not called",
}


def network(cls=Zoo, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return cls()


def report(model: nn.Module) -> dict[str, dict]:
    return {row["name"]: row for row in model.binarize_report}


def test_what_stays_real_and_why():
    original = network()
    before = copy.deepcopy(original.state_dict())
    model, rows = bnn.binarize(original), report(bnn.binarize(original))
    layers = {n: m for n, m in original.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    for name, layer in layers.items():
        kind = type(model.get_submodule(name))
        assert rows[name]["becomes"] == kind.__name__
        if name in REAL:
            assert kind is type(layer) and REAL[name] in rows[name]["why"], rows[name]
        else:
            assert kind in (BinaryConv2d, BinaryLinear), name
            assert torch.equal(model.get_submodule(name).weight, layer.weight)
            assert (model.get_submodule(name).bias is None) == (layer.bias is None)
    assert model.block.conv2.padding == (1, 1) and model.grouped.groups == 2 and model.grouped.dilation == (2, 2)
    assert all(torch.equal(value, before[key]) for key, value in original.state_dict().items())
    assert type(original.relu) is nn.ReLU, "the given network was changed"


def test_relus_that_binary_layers_read_are_replaced():
    model, rows = bnn.binarize(network()), report(bnn.binarize(network()))
    replaced = {"relu": 16, "block.relu": 32}  # one module for two places, of the same width
    for name, channels in replaced.items():
        layer = model.get_submodule(name)
        assert (type(layer) is RPReLU and layer.channels == channels) or name == "block.relu"
    assert type(model.gate.act) is nn.ReLU and type(model.hidden_relu) is nn.ReLU and type(model.silu) is nn.SiLU
    assert rows["relu"]["becomes"] == "RPReLU" and "hidden_relu" not in rows
    assert "never negative" in rows["after_function"]["why"]
    assert bool((model.after_function.shift == FIRST_SHIFT).all()) and not model.block.conv1.shift.any()


class Shared(nn.Module):
    """torchvision's bottleneck has one ReLU for two widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)
        self.c, self.d, self.relu = nn.Conv2d(16, 8, 3), nn.Conv2d(8, 4, 3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.relu(self.c(self.relu(self.b(self.relu(self.a(x)))))))


@pytest.mark.parametrize("cls", [Zoo, Shared])
def test_bits_are_not_constant(cls):
    model = bnn.binarize(network(cls)).train()
    x = torch.randn(8, 3, 16, 16)
    model(x)
    shares = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shares.append(float((inputs[0] + module.shift.view(1, -1, *(1,) * (inputs[0].dim() - 2)) < 0).float().mean()))

    for module in model.modules():
        if isinstance(module, BinaryConv2d | BinaryLinear):
            module.register_forward_pre_hook(count)
    model(x)
    assert len(shares) >= 2 and all(0.02 < share < 0.98 for share in shares), shares
    if cls is Shared:
        assert type(model.relu) is nn.PReLU


class Packable(nn.Module):
    """What a packed network can have, of what other libraries' networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 1, 1), BatchNormAct2d(16)
        self.block = Residual(16, 32)
        self.grouped, self.grouped_norm = (
            nn.Conv2d(32, 64, 3, 1, 2, dilation=2, groups=2, bias=False),
            BatchNormAct2d(64),
        )
        self.gate = Gate(64)
        acts = (nn.SiLU(), nn.Conv2d(64, 32, 1), nn.Hardswish(), nn.Conv2d(32, 32, 1), nn.GELU("tanh"))
        self.tail = nn.Sequential(*acts, nn.Conv2d(32, 32, 1), nn.Hardsigmoid(), nn.ReLU6())
        self.hidden, self.head = nn.Linear(32, 70), nn.Linear(70, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.grouped_norm(self.grouped(self.block(self.norm(self.stem(x))))))
        return self.head(self.hidden(torch.flatten(self.tail(x).mean((-2, -1), keepdim=True), 1)))


def test_trains_and_packs(tmp_path):
    model, x = bnn.binarize(network(Packable)), torch.randn(4, 3, 12, 12)
    assert len(bnn.nn.real_weights.binary_layers(model)) == 7
    step(model, x)
    check_packed(randomize(model), x, tmp_path)


def test_what_a_packed_network_cannot_have_is_named():
    with pytest.raises(ValueError, match="operation 'max_pool2d' is not one that a packed network has"):
        bnn.pack(bnn.binarize(network()))
    with pytest.raises(ValueError, match="operation .*mean.* has arguments"):
        bnn.pack(Mean())


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@pytest.mark.parametrize("skip", ["block.*", ["block.conv1", "block.conv2"], lambda name, _: name.startswith("block.")])
def test_skip(skip):
    model = bnn.binarize(network(), skip)
    assert type(model.block.conv1) is type(model.block.conv2) is nn.Conv2d and type(model.wide) is BinaryConv2d
    assert report(model)["block.conv2"]["why"] == "skip"
    assert type(model.block.relu) is nn.ReLU or report(model)["block.relu"]["why"]


def test_refuses():
    with pytest.raises(ValueError, match="skip: 'blok.*' fits no .*layer.*block.conv1"):
        bnn.binarize(network(), skip="blok.*")
    with pytest.raises(ValueError, match="no layer of this Linear"):
        bnn.binarize(nn.Linear(3, 4))

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="torch.fx can't follow"):
        bnn.binarize(Branching())


def test_matrices_of_any_rank():
    """As in a transformer's MLP: the layer sees the last dimension."""
    layer, x = BinaryLinear(6, 5, bias=True, shift=True), torch.randn(2, 3, 4, 6)
    assert torch.equal(layer(x), layer(x.reshape(24, 6)).reshape(2, 3, 4, 5))
