"""Gates, blends and activations that packing folds, and those that it has to leave alone."""

import pytest
import torch
from networks import randomize
from torch import Tensor, nn
from torch.nn import functional as F

import bnn
from bnn.nn import BinaryConv2d, Blend


class Part(nn.Module):
    """What cases are made of: an image of 8 channels x, its mean m, a gate g, another branch y."""

    def __init__(self, case) -> None:
        super().__init__()
        self.case = case
        self.stem, self.branch = nn.Conv2d(3, 8, 3, 1, 1), BinaryConv2d(8, 8, 3, 1, 1, shift=True)
        self.point, self.one = BinaryConv2d(8, 8, 1, shift=True), nn.Conv2d(3, 1, 1)
        self.excite, self.single, self.sigmoid = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1), nn.Sigmoid()
        self.norm, self.plain, self.activation = nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.PReLU(8)
        self.shared, self.blend, self.last = nn.PReLU(), Blend(8), nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        m = x.mean((2, 3), keepdim=True)
        return self.last(self.case(self, image, x, self.branch(x), m, self.sigmoid(self.excite(m))))


FOLDED = {
    "gate first": lambda p, i, x, y, m, g: p.norm(g * y) + x,
    "gate second": lambda p, i, x, y, m, g: x + p.norm(y * g),
    "no factors": lambda p, i, x, y, m, g: p.plain(y * g) + x,
    "element attention": lambda p, i, x, y, m, g: x + p.norm(x * (y * g)),
    "its own shortcut": lambda p, i, x, y, m, g: p.norm(g * y) + y,
    "concatenated": lambda p, i, x, y, m, g: p.norm(g * F.relu(torch.cat([p.one(i)] * 8, 1))) + x,
    "blended": lambda p, i, x, y, m, g: p.norm(p.sigmoid(p.blend(x, y).mean((2, 3), keepdim=True)) * y) + x,
}
LEFT = {
    "one channel of gates": lambda p, i, x, y, m, g: p.norm(p.single(m) * y) + x,
    "one channel of pixels": lambda p, i, x, y, m, g: p.norm(g * p.one(i)) + x,
    "one pixel": lambda p, i, x, y, m, g: p.norm(g * p.point(m)) + x,
    "a mean as shortcut": lambda p, i, x, y, m, g: p.norm(g * y) + m,
    "a gate as shortcut": lambda p, i, x, y, m, g: p.norm(g * y) + g,
    "one channel as shortcut": lambda p, i, x, y, m, g: p.norm(g * y) + p.one(i),
    "a product read twice": lambda p, i, x, y, m, g: (lambda t: p.norm(t) + x + t)(g * y),
    "a norm read twice": lambda p, i, x, y, m, g: (lambda t: t + x + p.activation(t))(p.norm(g * y)),
    "attention to something else": lambda p, i, x, y, m, g: p.norm(g * y * p.activation(x)) + x,
    "two images": lambda p, i, x, y, m, g: p.norm(x * y) + x,
    "two gates": lambda p, i, x, y, m, g: p.norm(g * m) + x,
    "no norm": lambda p, i, x, y, m, g: g * y + x,
    "no shortcut": lambda p, i, x, y, m, g: p.norm(g * y),
}


def network(case) -> nn.Module:
    torch.manual_seed(0)
    return randomize(Part(case)).eval()


def check(case, **options) -> list[str]:
    """The packed network gives the same, but for the order of float32 operations; its kinds of steps."""
    model, x = network(case), torch.randn(2, 3, 9, 7)
    packed = bnn.pack(model, **options)
    expected = model(x).detach()
    torch.testing.assert_close(packed(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    return [step["kind"] for step in packed.steps]


@pytest.mark.parametrize("name", FOLDED)
def test_gates_that_fold(name):
    kinds = check(FOLDED[name])
    assert kinds.count("GatedAdd") == 1 and not {"mul", "add", "BatchNorm2d"} & set(kinds)


@pytest.mark.parametrize("name", LEFT)
def test_gates_that_stay(name):
    assert "GatedAdd" not in check(LEFT[name])


def test_exact_networks_keep_gates():
    assert "GatedAdd" not in check(FOLDED["gate first"], exact=True)


@pytest.mark.parametrize("other", ["m", "one(i)"])
def test_shortcuts_of_another_shape_stay_beside_binary_layers(other):
    kinds = check(lambda p, i, x, y, m, g: p.norm(y) + {"m": m, "one(i)": p.one(i)}[other])
    assert "add" in kinds and "BatchNorm2d" not in kinds


class Broadcast(nn.Module):
    """A residual of another shape, as in squeeze-and-excite additions."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = BinaryConv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.pool, self.side = pool, nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.side(self.pool(x))


def test_a_residual_that_broadcasts():
    """A mean stays beside the layer. What is one pixel for images of one size alone is folded: the op says that it
    doesn't fit, and exact packing works."""
    x = torch.randn(2, 3, 5, 5)
    model, one_size = Broadcast(nn.AdaptiveAvgPool2d(1)).eval(), Broadcast(nn.AvgPool2d(5)).eval()
    torch.testing.assert_close(bnn.pack(model)(x), model(x))
    assert torch.equal(bnn.pack(one_size, exact=True)(x), one_size(x))
    with pytest.raises(RuntimeError, match="residual must be of shape"):
        bnn.pack(one_size)(x)


@pytest.mark.parametrize("name", ["activation", "shared"])
def test_prelu_joins_the_binary_layer(name):
    kinds = check(lambda p, i, x, y, m, g: getattr(p, name)(p.norm(y)) + x)
    assert "PReLU" not in kinds and kinds.count("PackedBinaryConv2d") == 1


def test_means_of_blends_are_blends_of_means():
    kinds = check(lambda p, i, x, y, m, g: p.blend(y, y).mean((2, 3), keepdim=True) * x)
    assert kinds.count("pixel_mean") == 1 and kinds.index("pixel_mean") < kinds.index("Blend")


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_a_layer_of_the_name_of_a_mean(dtype):
    """`h_mean` was a convolution before it became part of `norm`."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.h_mean = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
            self.norm, self.blend, self.last = nn.BatchNorm2d(6), Blend(6), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.blend(self.h(x), self.norm(self.h_mean(x))).mean((2, 3), keepdim=True))

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 9, 9)
    tolerance = 0.02 if dtype == torch.int8 else 1e-5  # three layers in 8 bits; the order of operations
    torch.testing.assert_close(bnn.pack(model, dtype=dtype)(x), model(x).detach(), rtol=tolerance, atol=tolerance)


def test_bits_alone():
    """A branch that only a binary layer reads, in the tables of layers and of kernels, too."""
    model = network(lambda p, i, x, y, m, g: F.relu(p.point(p.norm(g * y) + x)))
    packed, x = bnn.pack(model), torch.randn(2, 3, 9, 9)
    [gated] = [step for step in packed.steps if step["kind"] == "GatedAdd"]
    assert (gated["args"]["stream"], gated["args"]["words"]) == (False, True)
    torch.testing.assert_close(packed(x), model(x).detach(), rtol=1e-4, atol=1e-4)
    kernel = {row["name"]: row["kernel"] for row in packed.backend_report(x)}[gated["name"]]
    [row] = [row for row in bnn.models.summary(packed, 9, 3) if row["kind"] == "GatedAdd"]
    assert row["output"] == [8, 9, 9] and row["kernel"] == kernel != "torch"


def test_files_with_gates(tmp_path):
    model = bnn.pack(network(FOLDED["element attention"]))
    x = torch.randn(2, 3, 9, 7)
    assert torch.equal(bnn.load(bnn.save(model, tmp_path / "g.safetensors"))(x), model(x))
    for wrong in ("x", None, 1, [True]):
        step = next(step for step in model.steps if step["kind"] == "GatedAdd")
        step["args"]["multiply"] = wrong
        with pytest.raises(ValueError, match="multiply|args"):
            bnn.load(bnn.save(model, tmp_path / "wrong.safetensors"))
