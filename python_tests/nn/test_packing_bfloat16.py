"""`bnn.pack(dtype=torch.bfloat16)`: what is rounded, what is not, and what is refused."""

import pytest
import torch
from networks import make
from torch import nn

import bnn
from bnn.nn import BinaryConv2d, PackedBinaryConv2d


def test_all_but_the_last_layer(tmp_path):
    model = make("reactnet_tiny")
    x = torch.randn(4, 3, 32, 32)
    packed = bnn.pack(model, dtype=torch.bfloat16)
    seen = {}
    for name, layer in packed.layers.items():
        layer.register_forward_hook(lambda _, inputs, result, name=name: seen.__setitem__(name, (inputs[0], result)))
    logits = packed(x)
    assert logits.dtype == torch.float32
    *body, head = seen.values()
    assert head[0].dtype == head[1].dtype == torch.float32
    for inputs, results in body:
        results = results if isinstance(results, tuple) else (results,)
        assert all(t.dtype in (torch.bfloat16, torch.int64) for t in (inputs, *results))
    assert {layer.scale.dtype for layer in packed.layers.values() if hasattr(layer, "scale")} == {torch.float32}
    # signs near zero flip, so logits move; rounded shortcuts alone would move them by 2^-8 of their size
    full = bnn.pack(model)(x)
    assert 0 < (logits - full).abs().mean() < 0.5 * full.std()
    bnn.save(packed, tmp_path / "half.safetensors")
    assert torch.equal(bnn.load(tmp_path / "half.safetensors")(x), logits)
    assert (tmp_path / "half.safetensors").stat().st_size < bnn.save(bnn.pack(model), tmp_path / "f").stat().st_size


def test_a_binary_last_layer_gets_words():
    """A cast in front of it would have the words made of rounded floats."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), BinaryConv2d(8, 16, 3), nn.BatchNorm2d(16), BinaryConv2d(16, 5, 1))
    packed = bnn.pack(model.eval(), dtype=torch.bfloat16)
    first = next(m for m in packed.modules() if isinstance(m, PackedBinaryConv2d))
    assert first.words and not first.stream
    assert [step["kind"] for step in packed.steps[:2]] == ["channels_last", "cast"]


def test_refusals():
    with pytest.raises(ValueError, match="dtype must be torch.float32 with exact=True"):
        bnn.pack(make("reactnet_tiny"), exact=True, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="dtype must be one of"):
        bnn.pack(make("reactnet_tiny"), dtype=torch.float16)
