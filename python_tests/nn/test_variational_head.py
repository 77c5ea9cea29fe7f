"""The variational head: its KL, its average, the same output for the same input, and its way through a packed file."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import bnn
from bnn.nn import VariationalHead
from bnn.nn.variational_head import gaussian_kl, two_stage_head


def head(samples: int = 5, seed: int = 3) -> VariationalHead:
    torch.manual_seed(0)
    return VariationalHead(12, 4, 6, samples, seed)


def network(head: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    body = [nn.Conv2d(1, 12, 3, bias=False), nn.BatchNorm2d(12), bnn.nn.BinaryConv2d(12, 12, 3, shift=True)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


IMAGES = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(2))
FEATURES = torch.randn(7, 12, generator=torch.Generator().manual_seed(2))


def test_kl_equals_that_of_torch_distributions():
    mean, log_variance = torch.randn(5, 8), torch.randn(5, 8)
    normal = torch.distributions.Normal
    each = torch.distributions.kl_divergence(normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, log_variance), each.sum(1))
    assert gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]


def test_the_variance_lies_between_0_and_1_and_the_hidden_layers_have_3_z_units():
    layer = head()
    _, log_variance = layer.posterior(100 * FEATURES)
    assert bool((log_variance <= 0).all()) and log_variance.min() < -1
    assert layer.mean[0].out_features == layer.log_variance[0].out_features == 18


def test_probabilities_are_averaged_not_logits():
    layer = head()
    with torch.no_grad():
        layer.output.weight.mul_(10)  # far from linear
        mean, log_variance = layer.posterior(FEATURES)
        logits = [layer.output(mean + log_variance.exp().sqrt() * noise) for noise in layer.noise]
        expected = torch.stack([z.softmax(1) for z in logits]).mean(0)
        log_p = layer(FEATURES)
    torch.testing.assert_close(log_p.exp(), expected)
    torch.testing.assert_close(log_p.softmax(1), expected)  # what is done to logits can be done to them
    assert not torch.allclose(log_p.exp(), torch.stack(logits).mean(0).softmax(1), atol=1e-3)


def test_a_sample_in_training_is_one_of_q_with_its_kl():
    layer = head()
    layer.mean.requires_grad_(False)
    logits, kl = layer.draw(FEATURES)
    assert logits.shape == (7, 4) and kl.shape == (7,)
    assert torch.equal(kl, gaussian_kl(*layer.posterior(FEATURES)))
    assert not torch.equal(logits, layer.draw(FEATURES)[0])
    (logits.sum() + kl.sum()).backward()
    assert layer.log_variance[0].weight.grad.abs().sum() > 0
    with torch.no_grad():  # the mean over many draws of z is mu: V is linear
        drawn = torch.stack([layer.draw(FEATURES)[0] for _ in range(4000)]).mean(0)
        torch.testing.assert_close(drawn, layer.output(layer.posterior(FEATURES)[0]), atol=0.05, rtol=0)


def test_the_same_input_gives_the_same_output():
    layer = head()
    first = layer(FEATURES)
    torch.manual_seed(99)
    assert torch.equal(first, layer(FEATURES)) and torch.equal(first, layer.eval()(FEATURES))
    torch.testing.assert_close(layer(FEATURES[3:4]), first[3:4])  # whatever else is in the batch
    same, other = head(), head(seed=4)
    assert torch.equal(same.noise, layer.noise) and torch.equal(same(FEATURES), first)
    assert not torch.equal(other.noise, layer.noise) and not torch.equal(other(FEATURES), first)
    # A change of the stream would change every shipped head that is built anew.
    assert layer.noise[0, :3].tolist() == pytest.approx([1.7886285, 0.4365099, 0.0964975])


def test_more_samples_come_nearer_to_the_expectation():
    with torch.no_grad():
        heads = {m: head(samples=m) for m in (1, 10, 1000)}
        for layer in heads.values():
            layer.output.weight.mul_(10)
        exact = torch.stack([heads[1000].draw(FEATURES)[0].softmax(1) for _ in range(4000)]).mean(0)
        errors = {m: (layer(FEATURES).exp() - exact).abs().mean().item() for m, layer in heads.items()}
    assert errors[1000] < 0.5 * errors[10] < 0.5 * errors[1]


def test_tst_is_the_same_head_without_a_variance():
    tst = two_stage_head(12, 4, 6)
    assert [type(layer) for layer in tst] == [nn.Linear, nn.ReLU, nn.Linear, nn.Linear]
    assert [tuple(p.shape) for p in tst.parameters() if p.dim() == 2] == [(18, 12), (6, 18), (4, 6)]
    model = bnn.models.build("reactnet_tiny", 4, 1, 16, head={"latent_features": 6, "samples": 3, "seed": 2})
    assert isinstance(model.classifier, VariationalHead) and model(torch.randn(2, 1, 16, 16)).shape == (2, 4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"latent_features": 0}, "latent_features must be a positive integer, got 0"),
        ({"in_features": 2.5}, "in_features must be a positive integer, got 2.5"),
        ({"samples": 0}, "samples must be 1 to 1000, got 0"),
        ({"samples": True}, "samples must be 1 to 1000, got True"),
        ({"samples": 1001}, "samples must be 1 to 1000, got 1001"),
        ({"seed": -1}, "seed must be 0 to 2147483647, got -1"),
    ],
)
def test_arguments_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        VariationalHead(**{"in_features": 12, "out_features": 4, "latent_features": 6, **change})


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("samples", [None, 5])
def test_packing_round_trip(tmp_path, samples, exact):
    model = network(two_stage_head(12, 4, 6, samples, 3))
    packed = bnn.pack(model, exact=exact)
    path = bnn.save(packed, tmp_path / "m.safetensors", list("abcd"))
    loaded = bnn.load(path)
    with torch.no_grad():
        before = model(IMAGES)
    assert torch.equal(loaded(IMAGES), packed(IMAGES))
    assert torch.equal(loaded(IMAGES), before) if exact else torch.allclose(loaded(IMAGES), before, atol=1e-4)
    with safe_open(path, "pt") as file:
        written = file.metadata().get("bnn.head")
    assert written is None if samples is None else json.loads(written) == {"m": 5, "seed": 3}


def test_offsets_act_on_the_log_of_the_averaged_probabilities(tmp_path):
    model, posthoc = network(head()), {"temperature": 2.0, "logit_offsets": [0.5, -1.0, 0.0, 3.0]}
    loaded = bnn.load(bnn.save(bnn.pack(model, exact=True), tmp_path / "m.safetensors", posthoc=posthoc))
    with torch.no_grad():
        p = model(IMAGES).exp()
    expected = p.sqrt() * torch.tensor(posthoc["logit_offsets"]).exp()
    torch.testing.assert_close(loaded(IMAGES).softmax(1), expected / expected.sum(1, keepdim=True))


def graph(metadata: dict) -> dict:
    return metadata["bnn.graph"]["steps"][-1]["args"]


HOSTILE = {
    "no entry": (lambda m, t: m.pop("bnn.head"), "bnn.head is None, the graph's variational head says"),
    "other m": (lambda m, t: m["bnn.head"].update(m=6), "bnn.head is .*'m': 6"),
    "other seed": (lambda m, t: m["bnn.head"].update(seed=4), "bnn.head is .*'seed': 4"),
    "more keys": (lambda m, t: m["bnn.head"].update(mode="mean"), "bnn.head is .*'mode': 'mean'"),
    "a list": (lambda m, t: m.update({"bnn.head": [5, 3]}), "bnn.head is"),
    "no m": (lambda m, t: (graph(m).update(samples=0), m["bnn.head"].update(m=0)), "samples must be 1 to 1000"),
    "m too large": (lambda m, t: (graph(m).update(samples=9999), m["bnn.head"].update(m=9999)), "samples must be"),
    "m is text": (lambda m, t: (graph(m).update(samples="5"), m["bnn.head"].update(m="5")), "samples must be"),
    "m is true": (lambda m, t: (graph(m).update(samples=True), m["bnn.head"].update(m=True)), "samples must be"),
    "negative seed": (lambda m, t: (graph(m).update(seed=-1), m["bnn.head"].update(seed=-1)), "seed must be"),
    "m beyond the noise": (lambda m, t: (graph(m).update(samples=6), m["bnn.head"].update(m=6)), "noise.*6, 6"),
    "huge latent": (lambda m, t: graph(m).update(latent_features=2**30), "tensor"),
    "float latent": (lambda m, t: graph(m).update(latent_features=6.0), "latent_features must be"),
    "missing noise": (lambda m, t: t.pop(next(k for k in t if k.endswith("noise"))), "noise' is missing"),
    "other classes": (lambda m, t: m.update({"bnn.classes": ["a"]}), "classes disagree"),
    "not last": (
        lambda m, t: m["bnn.graph"]["steps"].append({"name": "r", "kind": "ReLU", "inputs": ["_5"], "args": {}}),
        "variational head, must be the last",
    ),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_files_are_refused(tmp_path, name):
    change, match = HOSTILE[name]
    path = bnn.save(bnn.pack(network(head())), tmp_path / "m.safetensors", list("abcd"))
    with safe_open(path, "pt") as file:
        metadata = {k: v if v == "1" else json.loads(v) for k, v in file.metadata().items()}
    tensors = load_file(path)
    change(metadata, tensors)
    save_file(tensors, path, {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()})
    with pytest.raises(ValueError, match=match) as caught:
        bnn.load(path)
    assert path.name in str(caught.value)


def test_a_head_entry_without_a_head_is_refused(tmp_path):
    path = bnn.save(bnn.pack(network(two_stage_head(12, 4, 6))), tmp_path / "m.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | {"bnn.head": '{"m": 10, "seed": 0}'}
    save_file(load_file(path), path, metadata)
    with pytest.raises(ValueError, match="bnn.head is .*'m': 10.*variational head says None"):
        bnn.load(path)
    inside = nn.Sequential(nn.Linear(3, 12), head(), nn.ReLU()).eval()
    with pytest.raises(ValueError, match="variational head, must be the last"):
        bnn.save(bnn.pack(inside), path)
