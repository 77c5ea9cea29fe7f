"""RSign and RPReLU: formulas, gradients, errors."""

import pytest
import torch
from inputs import bits_equal
from torch import nn

from bnn.nn import RPReLU, RSign


@pytest.mark.parametrize("shape", [(3, 5, 4, 2), (3, 5)])
def test_rsign(shape):
    layer = RSign(5)
    nn.init.normal_(layer.shift)
    x = torch.randn(shape, requires_grad=True)
    v = (x + layer.shift.view(1, -1, *(1,) * (x.dim() - 2))).detach()
    y = layer(x)
    assert bits_equal(y.detach(), torch.where(v < 0, -1.0, 1.0))
    y.sum().backward()
    factor = (2 - 2 * v.abs()).clamp_min(0)
    torch.testing.assert_close(x.grad, factor)
    torch.testing.assert_close(layer.shift.grad, factor.sum([d for d in range(x.dim()) if d != 1]))


@pytest.mark.parametrize("shape", [(3, 5, 4, 2), (3, 5)])
def test_rprelu(shape):
    layer = RPReLU(5).double()
    for p in layer.parameters():
        nn.init.normal_(p)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    view = (1, -1, *(1,) * (x.dim() - 2))
    t = x + layer.before.view(view)
    expected = torch.where(t > 0, t, layer.slope.view(view) * t) + layer.after.view(view)
    torch.testing.assert_close(layer(x), expected)
    assert torch.autograd.gradcheck(layer, (x,))


def test_rprelu_starts_as_prelu():
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(RPReLU(4)(x), nn.functional.prelu(x, torch.tensor([0.25])))


def test_rprelu_keeps_bfloat16():
    assert RPReLU(4)(torch.randn(2, 4, 3, 3).bfloat16()).dtype == torch.bfloat16


def test_constructors_refuse():
    for make in (RSign, RPReLU):
        for channels in (0, -1):
            with pytest.raises(ValueError, match="channels"):
                make(channels)
    with pytest.raises(ValueError, match="surrogate"):
        RSign(4, "tanh")
