"""What every network of binary layers must do: train a step, pack, come back from a file."""

from pathlib import Path

import torch
from networks import sign_bits
from torch import Tensor, nn

import bnn
from bnn.nn import BinaryConv2d, BinaryLinear


def step(model: nn.Module, x: Tensor) -> None:
    """One optimizer step; the loss is finite and every latent weight moves."""
    model.train()
    loss = model(x).float().logsumexp(1).mean()
    loss.backward()
    assert loss.isfinite()
    for name, layer in model.named_modules():
        if isinstance(layer, BinaryConv2d | BinaryLinear):
            assert layer.weight.grad.isfinite().all() and layer.weight.grad.any(), name
    torch.optim.Adam(model.parameters(), 1e-3).step()


def check_packed(model: nn.Module, x: Tensor, folder: Path) -> None:
    """exact: every bit and logit; default: the same bits, close logits; through a file: the same again.

    Two words may differ by default: its sums are in another order, so a value on a threshold may fall to either side.
    """
    model.eval()
    (logits, bits), (exact, exact_bits) = sign_bits(model, x), sign_bits(bnn.pack(model, exact=True), x)
    assert torch.equal(logits, exact) and all(map(torch.equal, bits, exact_bits)) and logits.std() > 1e-4
    packed = bnn.pack(model)
    got, got_bits = sign_bits(packed, x)
    flipped = sum(int((a != b).sum()) for a, b in zip(bits, got_bits, strict=True))
    assert flipped <= 2, f"{flipped} words differ"
    if not flipped:
        torch.testing.assert_close(got, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))
    loaded = bnn.load(bnn.save(packed, folder / "packed.safetensors"))
    assert torch.equal(loaded(x), packed(x))
