"""BNext-Tiny: the size that its description implies, what its parts compute, packing."""

import pytest
import torch
from networks import randomize, sign_bits
from torch import nn
from torch.nn import functional as F

import bnn
from bnn import models
from bnn.models.bnext import Block
from bnn.nn import BinaryConv2d, Blend

BITS = 28_253_184  # 1-bit weights of the 13 blocks: 9 C^2 and C^2 for every 3x3 and 1x1 unit of C channels


def test_size():
    """Parameters of the authors' code without the PReLUs that it never calls; operations: BOPs / 64 + FLOPs."""
    model = models.build("bnext_t", 1000)
    rows = models.summary(model, 224, 3)
    assert sum(p.numel() for p in model.parameters()) == 30_853_276
    assert sum(row["binary_bits"] for row in rows) == BITS
    total = {key: sum(row[key] for row in rows) for key in ("binary_macs", "real_macs")}
    assert total["binary_macs"] / 64 + total["real_macs"] == pytest.approx(88.6e6, rel=0.01)
    assert [m.stride[0] for m in model.modules() if isinstance(m, BinaryConv2d) and m.kernel_size[0] == 3] == [
        1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("attention", [False, True])
def test_block_by_hand(attention):
    """Against the independent reference, in eval mode and with stride."""
    torch.manual_seed(0)
    block, x = randomize(Block(16, 32, 2, attention)).eval(), torch.randn(2, 16, 6, 6)
    with torch.no_grad():
        y, s = block.spatial, x if not attention else block.spatial.entrance(x)
        z = F.conv2d((x + y.conv.shift.view(1, -1, 1, 1)).sign(), y.conv.weight.sign(), stride=2, padding=1)
        z, pooled, s = y.activation(y.norm(z)), F.avg_pool2d(x, 2), F.avg_pool2d(s, 2)
        z = y.gate(0.5 * pooled + 0.5 * z) * z
        expected = y.last_norm(z * s if attention else z) + s
        torch.testing.assert_close(block.spatial(x), expected)
        assert block(x).shape == (2, 32, 3, 3)


def test_blend_keeps_its_share_between_0_and_1():
    blend = Blend(2)
    a, b = torch.ones(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)
    blend.share.data = torch.tensor([-0.5, 1.5])
    assert torch.equal(blend.eval()(a, b)[0, :, 0, 0], torch.tensor([-0.5, 1.5]))
    assert torch.equal(blend.train()(a, b)[0, :, 0, 0], torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="channels"):
        Blend(0)


def test_packs(tmp_path):
    """A stem and four blocks: both kinds of spatial unit, doubling or not."""
    torch.manual_seed(0)
    model = models.build("bnext_t", 10, 3, 32)
    model.body = nn.Sequential(*model.body[:6])
    model.classifier = nn.Linear(256, 10)
    with torch.no_grad():
        randomize(model).train()(torch.randn(8, 3, 32, 32))
    model.eval()
    x = torch.randn(2, 3, 32, 32)
    (logits, bits), (exact, exact_bits) = sign_bits(model, x), sign_bits(bnn.pack(model, exact=True), x)
    assert torch.equal(logits, exact) and all(map(torch.equal, bits, exact_bits)) and logits.std() > 1e-3
    packed = bnn.pack(model)
    torch.testing.assert_close(packed(x), logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
    assert torch.equal(bnn.load(bnn.save(packed, tmp_path / "b.safetensors"))(x), packed(x))
