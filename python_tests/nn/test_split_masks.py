"""KELS, WELS and later-layer splits: rates, connectivity, the reset, and the slim network against the masked one."""

import copy
import math

import pytest
import torch
from networks import SHAPES, make, narrow_birealnet, randomize
from torch import Tensor, nn
from torch.nn import functional as F

import bnn
from bnn import models, ops
from bnn.models._classifier import Classifier, stem
from bnn.models.reactnet import MobileBlock
from bnn.nn import BinaryConv2d, BinaryLinear, RPReLU, RSign
from bnn.nn.split_masks import Split, extract_slim, kels, later_layers, reset, wels

BINARY = (BinaryConv2d, BinaryLinear)
LAYERS = (nn.Conv2d, nn.Linear, *BINARY)


class Odd(nn.Module):
    """Groups, depthwise, concatenations, a doubled shortcut, flattened pixels; sizes that no rate divides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 18, 3, padding=1)
        self.norm = nn.BatchNorm2d(18)
        self.activation = nn.PReLU()  # one slope for all channels
        self.grouped = nn.Conv2d(18, 30, 3, padding=1, groups=3)
        self.depthwise = nn.Conv2d(30, 30, 3, padding=1, groups=30)
        self.binary = BinaryConv2d(30, 9, 3, padding=1, shift=True, bias=True)
        self.point = BinaryConv2d(9, 18, 1, padding=1, pad_value=1, scale="none")
        self.point_norm = nn.BatchNorm2d(18)
        self.mixing = nn.Conv2d(48, 24, 1)
        self.slopes = nn.PReLU(24)
        self.hidden = nn.Linear(24 * 16, 7)
        self.hidden_norm = nn.BatchNorm1d(7)
        self.last = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.stem(x)))
        z = F.relu(self.depthwise(self.grouped(y)))
        b = self.binary(z)
        p = self.point_norm(self.point(b))
        y, p = F.adaptive_avg_pool2d(y + torch.cat([b, b], 1), 4), F.adaptive_avg_pool2d(p, 4)
        y = torch.cat([y + p, F.adaptive_avg_pool2d(z, 4)], 1)
        y = self.slopes(self.mixing(y))
        return self.last(self.hidden_norm(self.hidden(torch.flatten(y, 1))))


NETWORKS = {"Odd": (2, 8, 8), "resnet_tiny": (1, 16, 16), "birealnet": (1, 32, 32), "mobile": (3, 16, 16)}
NETWORKS |= {name: SHAPES[name] for name in ("Plain", "Matrices", "Branches", "Tail", "reactnet_tiny")}


def network(name: str) -> nn.Module:
    if name in SHAPES:
        return make(name)
    torch.manual_seed(0)
    if name == "mobile":  # its shortcuts repeat themselves over twice the channels
        body = [*stem(3, 18, 16), MobileBlock(18, 36), MobileBlock(36, 36, 2), MobileBlock(36, 72, 2)]
        return randomize(Classifier(nn.Sequential(*body), 72, 10)).eval()
    model = models.build(name, 10, 1, 16) if name == "resnet_tiny" else Odd() if name == "Odd" else narrow_birealnet()
    return randomize(model).eval()


def masked(model: nn.Module, split: Split) -> nn.Module:
    """The dense network with every layer's effective weight times its mask, in plain torch."""
    model = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS):
            layer.forward = _masked_forward(layer, split[f"{name}.weight"])
    return model


def _masked_forward(layer, mask):
    weight, alpha = layer.weight.detach(), None
    if isinstance(layer, BINARY):
        alpha = weight.abs().flatten(1).mean(1) if layer.scale == "mean" else torch.ones(len(weight))
        weight = ops.sign_ste(weight)
    weight = weight * mask

    def forward(x: Tensor) -> Tensor:
        shape = (1, -1, *(1,) * (x.dim() - 2))
        bias = 0 if layer.bias is None else layer.bias.view(shape)
        if isinstance(layer, BINARY):
            x = ops.sign_ste(x, layer.shift)
        if x.dim() == 2:
            y = F.linear(x, weight)
        else:
            high, wide = layer.padding
            x = F.pad(x, (wide, wide, high, high), value=float(getattr(layer, "pad_value", 0)))
            y = F.conv2d(x, weight, None, layer.stride, 0, layer.dilation, layer.groups)
        return (y if alpha is None else y * alpha.view(shape)) + bias  # alpha last: sums of signs are exact, also 0

    return forward


@pytest.mark.parametrize("rate", [0.3, 0.5])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_slim_network_is_the_masked_dense_one(name, rate):
    model = network(name)
    split = kels(model, rate)
    x = torch.randn(4, *NETWORKS[name])
    with torch.no_grad():
        slim = extract_slim(model, split)
        got, expected = slim(x), masked(model, split)(x)
    assert type(slim) is type(model) and not slim.training
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert expected.std() > 1e-3
    sizes = [sum(p.numel() for p in net.parameters()) for net in (slim, model)]
    assert sizes[0] < sizes[1] or name == "Tail"  # which is between image and classes: nothing to cut


@pytest.mark.parametrize("rate", [0.4, 0.5])
def test_a_real_network_agrees_to_rounding(rate):
    model = network("resnet_tiny").double()
    split, x = kels(model, rate), torch.randn(4, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(extract_slim(model, split)(x), masked(model, split)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_slim_network_packs_saves_and_loads(name, tmp_path):
    slim = extract_slim(network(name), kels(network(name), 0.5))
    x = torch.randn(2, *NETWORKS[name])
    exact = bnn.pack(slim, exact=True)
    with torch.no_grad():
        torch.testing.assert_close(exact(x), slim(x), rtol=1e-5, atol=1e-5)
    path = bnn.save(bnn.pack(slim), tmp_path / "slim.safetensors")
    assert torch.equal(bnn.load(path)(x), bnn.pack(slim)(x))


def test_the_slim_network_trains():
    slim = extract_slim(network("reactnet_tiny"), kels(network("reactnet_tiny"), 0.5)).train()
    assert slim.feature_dim == 64 and slim.features(torch.randn(2, 3, 32, 32)).shape == (2, 64)
    slim(torch.randn(4, 3, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in slim.parameters())


def test_statistics_and_vectors_of_the_first_channels_are_copied():
    model = network("reactnet_tiny")
    slim = extract_slim(model, kels(model, 0.5))
    for name, layer in model.named_modules():
        small = slim.get_submodule(name)
        for vector in ("running_mean", "running_var", "shift", "slope", "before", "after"):
            value = getattr(layer, vector, None)
            if value is not None:
                assert torch.equal(getattr(small, vector), value[: len(value) // 2]), f"{name}.{vector}"
    assert torch.equal(slim.classifier.bias, model.classifier.bias)
    assert torch.equal(slim.classifier.weight, model.classifier.weight[:, :64])
    dense, kept = model.body[2].conv.weight, slim.body[2].conv.weight
    assert torch.equal(kept.sign(), dense[:16, :16].sign())
    torch.testing.assert_close(kept.abs().mean((1, 2, 3)), dense[:16].abs().mean((1, 2, 3)))  # the dense alpha


def test_the_mask_is_an_outer_product_but_at_the_image_and_the_classes():
    model = models.build("reactnet_tiny", 10, 1, 32)
    split = kels(model, 0.5)
    assert split["body.0.weight"][:16].all() and not split["body.0.weight"][16:].any()
    assert split["classifier.weight"][:, :64].all() and not split["classifier.weight"][:, 64:].any()
    assert split["classifier.bias"].all()
    inner = split["body.2.conv.weight"]
    assert inner[:16, :16].all() and inner.float().mean() == 0.25
    assert {name for name in model.state_dict() if not name.endswith("num_batches_tracked")} == set(split)


@pytest.mark.parametrize("rate, expected", [(0.5, 16), (0.1, 4), (0.99, 32), (1.0, 32), (0.25, 8)])
def test_rates_round_up(rate, expected):
    split = kels(models.build("reactnet_tiny", 10, 1, 32), rate)
    assert int(split["body.1.weight"].sum()) == expected


@pytest.mark.parametrize("name", ["reactnet_tiny", "resnet_tiny"])
def test_the_cost_is_the_square_of_the_rate(name):
    """Layer by layer: s^2 inside; s at the image and at the classes."""
    model = models.build(name, 20, 1, 32)
    slim = extract_slim(model, kels(model, 0.5))
    dense, small = (
        {r["name"]: r["binary_macs"] + r["real_macs"] for r in models.summary(m, 32, 1)} for m in (model, slim)
    )
    shares = {layer: small[layer] / macs for layer, macs in dense.items() if macs}
    assert {shares.pop("body.0"), shares.pop("classifier")} == {0.5}
    assert set(shares.values()) == {0.25} and len(shares) >= 10
    assert 0.25 < sum(small.values()) / sum(dense.values()) < 0.27


def test_groups_and_concatenations_are_cut_part_by_part():
    split = kels(Odd(), 0.5)
    three_of_six = [True] * 3 + [False] * 3
    first_five = [True] * 5 + [False] * 5
    rows = {name: split[name].flatten(1).any(1).tolist() for name in split if split[name].dim() > 1}
    assert rows["depthwise.weight"] == rows["grouped.weight"] and len(rows["grouped.weight"]) == 30
    assert split["depthwise.bias"].tolist() == rows["grouped.weight"]
    assert rows["grouped.weight"] == first_five * 3
    # the stem feeds groups of 6 and is added to 9 + 9 channels: what fits both are threes
    assert rows["stem.weight"] == rows["point.weight"] == rows["binary.weight"] * 2 == [True, True, False] * 6
    assert split["grouped.weight"][0, :, 0, 0].tolist() == [True, True, False] * 2
    assert split["mixing.weight"][0, :, 0, 0].tolist() == [True, True, False] * 6 + first_five * 3
    assert sum(rows["mixing.weight"]) == 12 and split["activation.weight"].tolist() == [True]
    assert split["hidden.weight"][0].view(24, 16).any(1).tolist() == rows["mixing.weight"]
    # without such conflicts: exactly half of every group
    simple = nn.Sequential(
        nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12), BinaryConv2d(12, 20, 3, groups=2), nn.Conv2d(20, 4, 1)
    )
    split = kels(simple, 0.5)
    assert split["0.bias"].tolist() == split["1.running_var"].tolist() == three_of_six * 2
    assert split["2.weight"].flatten(1).any(1).tolist() == first_five * 2
    assert int(split["2.weight"].sum()) == 10 * 3 * 9 and split["3.weight"][:, :, 0, 0].tolist() == [first_five * 2] * 4


def test_a_shortcut_from_the_image_keeps_its_channels_whole():
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) + x)

    assert all(mask.all() for mask in kels(Shortcut(), 0.5).values())


def test_wels_keeps_a_share_of_every_weight_and_has_no_slim_network():
    model = models.build("reactnet_tiny", 100, 1, 32)
    split = wels(model, 0.3, torch.Generator().manual_seed(1))
    again = wels(model, 0.3, torch.Generator().manual_seed(1))
    assert set(split) == {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, LAYERS)}
    for name, mask in split.items():
        assert torch.equal(mask, again[name])
        assert abs(float(mask.float().mean()) - 0.3) < 5 * math.sqrt(0.21 / mask.numel())
    with pytest.raises(ValueError, match="the split of 'body.0.weight' is not by channels"):
        extract_slim(model, split)
    holed = kels(model, 0.5)
    holed["body.2.conv.weight"][0, 0, 0, 0] = False
    with pytest.raises(ValueError, match="the split of 'body.2.conv.weight' is not by channels"):
        extract_slim(model, holed)
    with pytest.raises(ValueError, match="the split does not fit"):
        extract_slim(models.build("resnet_tiny", 100, 1, 32), kels(model, 0.5))


def test_later_layers_forget_and_their_vectors_belong_to_them():
    model = models.build("resnet_tiny", 10, 1, 16)  # 11 convolutions, 2 shortcuts, 1 classifier
    split = later_layers(model, 0.5)
    kept = [name for name, mask in split.items() if mask.dim() > 1 and mask.all()]
    lost = [name for name, mask in split.items() if mask.dim() > 1 and not mask.any()]
    assert len(kept) == len(lost) == 7 and kept[0] == "body.0.weight" and lost[-1] == "classifier.weight"
    assert split["body.1.running_mean"].all() and not split["classifier.bias"].any()
    assert all(mask.all() for mask in later_layers(model, 1.0).values())


@pytest.mark.parametrize("make_split", [
    lambda m: kels(m, 0.5), lambda m: wels(m, 0.5, torch.Generator().manual_seed(0)), lambda m: later_layers(m, 0.5),
], ids=["kels", "wels", "later_layers"])  # fmt: skip
def test_only_the_reset_hypothesis_is_drawn_again(make_split):
    model = network("reactnet_tiny")
    split, before = make_split(model), copy.deepcopy(model.state_dict())
    reset(model, split, torch.Generator().manual_seed(3))
    for name, value in model.state_dict().items():
        mask = split.get(name)
        if mask is None or mask.dim() == 1:
            assert torch.equal(value, before[name]), name
            continue
        assert torch.equal(value[mask], before[name][mask])
        if not mask.all():
            assert not (value[~mask] == before[name][~mask]).any()
            bound = value[0].numel() ** -0.5
            assert value[~mask].abs().max() <= bound and value[~mask].abs().max() > 0.9 * bound
    first = copy.deepcopy(model.state_dict())
    model.load_state_dict(before)
    reset(model, split, torch.Generator().manual_seed(3))
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_vectors_start_again_where_that_is_asked_for():
    model, fresh = network("reactnet_tiny"), models.build("reactnet_tiny", 10, 3, 32)
    split, before = kels(model, 0.5), copy.deepcopy(model.state_dict())
    reset(model, split, torch.Generator(), vectors=True)
    for name, value in model.state_dict().items():
        if name in split and value.dim() == 1:
            assert torch.equal(value[split[name]], before[name][split[name]])
            assert torch.equal(value[~split[name]], fresh.state_dict()[name][~split[name]]), name


class Product(nn.Module):
    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) * 2


@pytest.mark.parametrize("make_model, message", [
    (lambda: nn.Sequential(nn.ConvTranspose2d(3, 3, 1)), "layer '0' is a ConvTranspose2d"),
    (lambda: Product(nn.Conv2d(3, 3, 1)), "operation .*mul"),
    (lambda: nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(12, 2)), "layer '2' reads 12 features of 5"),
], ids=["layer", "operation", "flatten"])  # fmt: skip
def test_what_has_no_rule_is_named(make_model, message):
    with pytest.raises(ValueError, match=message):
        kels(make_model(), 0.5)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5])
def test_rates_out_of_range(rate):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), RSign(4), RPReLU(4))
    for split in (lambda: kels(model, rate), lambda: wels(model, rate, torch.Generator()),
                  lambda: later_layers(model, rate)):  # fmt: skip
        with pytest.raises(ValueError, match="must be in"):
            split()
