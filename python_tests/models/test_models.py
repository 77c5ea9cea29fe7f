"""The network layouts: shapes, sizes, names, gradients."""

import pytest
import torch

import bnn
from bnn import models
from bnn.nn import BinaryConv2d

NAMES = ["reactnet_tiny", "reactnet18", "reactnet_a", "birealnet18", "resnet_tiny", "resnet18", "resnet34"]
BINARY_LAYERS = {"reactnet_tiny": 10, "reactnet18": 16, "reactnet_a": 26, "birealnet18": 16}
FEATURES = {"reactnet_tiny": 128, "reactnet18": 512, "reactnet_a": 1024, "birealnet18": 512, "resnet_tiny": 192,
            "resnet18": 512, "resnet34": 512}  # fmt: skip


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_names():
    assert set(NAMES) <= set(models.names())


@pytest.mark.parametrize("name", models.names())
def test_forward_and_backward(name):
    model = models.build(name, 7, 3, 32)
    x = torch.randn(2, 3, 32, 32)
    logits = model(x)
    assert logits.shape == (2, 7) and logits.isfinite().all()
    torch.nn.functional.cross_entropy(logits, torch.tensor([1, 5])).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without, f"no finite gradient: {without}"
    learning = sum(bool(p.grad.any()) for p in model.parameters())
    assert learning >= 0.95 * len(list(model.parameters()))


@pytest.mark.parametrize("name", models.names())
def test_structure(name):
    model = models.build(name, 7, 1, 32).eval()
    with torch.no_grad():
        x = torch.randn(2, 1, 32, 32)
        features = model.features(x)
        assert features.shape == (2, model.feature_dim) and model.feature_dim == FEATURES.get(name, model.feature_dim)
        assert isinstance(model.classifier, torch.nn.Linear)
        assert torch.equal(model.classifier(features), model(x))
    binary = sum(isinstance(m, BinaryConv2d) for m in model.modules())
    assert binary == BINARY_LAYERS.get(name, 0 if name.startswith("resnet") else binary)


@pytest.mark.parametrize("name", models.names())
def test_large_images_on_meta(name):
    with torch.device("meta"):
        model = models.build(name, 1000, 3, 224).eval()
        assert model(torch.randn(2, 3, 224, 224)).shape == (2, 1000)


def test_a_large_image():
    model = models.build("reactnet_tiny", 10, 3, 224).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 224, 224)).shape == (1, 10)


def test_parameter_counts():
    assert count(models.build("reactnet_tiny", 100, 1, 32)) == 664_484
    assert abs(count(models.build("resnet_tiny", 100, 1, 32)) - 1.5e6) < 0.1e6
    with torch.device("meta"):
        # as in torchvision (resnet18 11,689,512, resnet34 21,797,672)
        assert count(models.build("resnet18", 1000)) == 11_689_512
        assert count(models.build("resnet34", 1000)) == 21_797_672


def test_binary_layouts_are_the_papers():
    """Filters as in the papers: kernel sizes, channels and strides in order."""
    with torch.device("meta"):
        layers = {n: [m for m in models.build(n, 1000).modules() if isinstance(m, BinaryConv2d)] for n in BINARY_LAYERS}
    shapes = {n: [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in found]
              for n, found in layers.items()}  # fmt: skip
    resnet = []
    channels = 64
    for width in (64, 128, 256, 512):
        resnet += [(channels, width, 3, 2 if width > 64 else 1)] + [(width, width, 3, 1)] * 3
        channels = width
    assert shapes["reactnet18"] == shapes["birealnet18"] == resnet
    mobile, channels = [], 32
    for width, stride in zip((64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024), (1, 2, 1, 2, 1, 2, *(1,) * 5, 2, 1),
                             strict=True):  # fmt: skip
        mobile += [(channels, channels, 3, stride), (channels, width, 1, 1)]
        channels = width
    assert shapes["reactnet_a"] == mobile


def test_refuses():
    with pytest.raises(ValueError, match="'nonsense'.*reactnet_tiny"):
        models.build("nonsense", 10)
    with pytest.raises(ValueError, match="num_classes"):
        models.build("reactnet_tiny", 1)
    with pytest.raises(ValueError, match="image_size"):
        models.build("reactnet_tiny", 10, 3, 4)


@pytest.mark.parametrize("name", models.names())
def test_smallest_images(name):
    model = models.build(name, 3, 1, 8).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 8, 8)).shape == (1, 3)


def test_summary():
    model = models.build("reactnet_tiny", 100, 1, 32)
    model.train()
    rows = models.summary(model, 32, 1)
    assert model.training
    binary = [row for row in rows if row["kind"] == "BinaryConv2d"]
    assert len(binary) == 10 and all(row["binary_macs"] > 0 and row["real_macs"] == 0 for row in binary)
    latent = sum(m.weight.numel() for m in model.modules() if isinstance(m, BinaryConv2d))
    assert sum(row["binary_bits"] for row in rows) == latent
    first = binary[0]
    assert first["output"] == [32, 16, 16] and first["binary_macs"] == 32 * 32 * 9 * 16 * 16
    packed = bnn.pack(model)
    rows = models.summary(packed, 32, 1)
    assert sum(row["binary_bits"] for row in rows) == latent
    assert [r["output"] for r in rows if r["kind"] == "PackedBinaryConv2d"] == [r["output"] for r in binary]
