"""The cosine classifier: angles alone decide, and its way through a packed file."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

import bnn
from bnn.nn import CosineLinear

FEATURES = torch.randn(7, 12, generator=torch.Generator().manual_seed(2))
IMAGES = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def head(**arguments) -> CosineLinear:
    torch.manual_seed(0)
    return CosineLinear(12, 4, **arguments)


def network(last: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    body = [nn.Conv2d(1, 12, 3, bias=False), nn.BatchNorm2d(12), bnn.nn.BinaryConv2d(12, 12, 3, shift=True)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


def test_logits_are_scaled_cosines():
    layer = head(scale=7.0)
    for h, row in zip(FEATURES, layer(FEATURES), strict=True):
        expected = [7 * F.cosine_similarity(h, w, dim=0).item() for w in layer.weight]
        assert row.tolist() == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():
        before = layer(FEATURES)
        layer.weight.mul_(torch.tensor([[0.1], [2.0], [30.0], [1.0]]))
        torch.testing.assert_close(layer(5 * FEATURES), before)  # no length matters
    assert layer(torch.zeros(1, 12)).tolist() == [[0, 0, 0, 0]]


def test_the_scale_is_fixed_or_learned():
    fixed, learned = head(), head(scale=2.0, learned=True)
    assert [name for name, _ in fixed.named_parameters()] == ["weight"]
    assert fixed.state_dict().keys() == learned.state_dict().keys()
    learned(FEATURES).square().sum().backward()
    assert learned.log_scale.grad != 0 and learned.log_scale.exp().item() == pytest.approx(2)


def test_autocast_does_not_round_the_logits():
    layer = head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (
            torch.equal(layer(FEATURES), layer.float()(FEATURES)) and layer(FEATURES.bfloat16()).dtype == torch.float32
        )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"in_features": 0}, "in_features must be a positive integer, got 0"),
        ({"out_features": 2.5}, "out_features must be a positive integer, got 2.5"),
        ({"scale": 0.0}, "scale must be a number above 0, got 0.0"),
        ({"scale": float("nan")}, "scale must be a number above 0, got nan"),
    ],
)
def test_arguments_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        CosineLinear(**{"in_features": 12, "out_features": 4, **change})


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("how", [{"exact": True}, {}, {"dtype": torch.bfloat16}], ids=str)
def test_packing_round_trip(tmp_path, how, learned):
    model = network(head(learned=learned))
    packed = bnn.pack(model, **how)
    path = bnn.save(packed, tmp_path / "m.safetensors", list("abcd"), posthoc={"logit_offsets": [1.0, 0.0, 0.0, 2.0]})
    loaded = bnn.load(path)
    loaded.posthoc = None
    with torch.no_grad():
        before = model(IMAGES)
    assert torch.equal(loaded(IMAGES), packed(IMAGES)) and loaded(IMAGES).dtype == torch.float32
    if how == {"exact": True}:
        assert torch.equal(loaded(IMAGES), before)
    elif not how:
        torch.testing.assert_close(loaded(IMAGES), before, atol=1e-4, rtol=0)


def test_files_with_another_head_than_they_say_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match="a cosine head, must be the last one"):
        bnn.save(bnn.pack(nn.Sequential(nn.Linear(3, 12), head(), nn.ReLU()).eval()), path)
    with pytest.raises(ValueError, match="numbers of classes disagree"):
        bnn.load(bnn.save(bnn.pack(network(head())), path, ["a", "b"]))
    bnn.save(bnn.pack(network(head())), path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    from safetensors.torch import save_file

    graph = json.loads(metadata["bnn.graph"])
    assert graph["steps"][-1]["args"] == {"in_features": 12, "out_features": 4}
    graph["steps"][-1]["args"]["out_features"] = 5
    save_file(tensors, path, metadata | {"bnn.graph": json.dumps(graph)})
    with pytest.raises(ValueError, match=r"weight' is F32 \[4, 12\], the graph says .*\[5, 12\]"):
        bnn.load(path)


def test_models_with_a_cosine_head():
    model = bnn.models.build("reactnet_tiny", 4, 1, 16, head={"kind": "cosine", "scale": 5.0})
    assert isinstance(model.classifier, CosineLinear) and model(torch.randn(2, 1, 16, 16)).abs().max() <= 5
    assert bnn.models.summary(model, 16, 1)[-1]["real_macs"] == 4 * 128
    with pytest.raises(ValueError, match="kind 'angular' is unknown, expected one of"):
        bnn.models.build("reactnet_tiny", 4, 1, 16, head={"kind": "angular"})
