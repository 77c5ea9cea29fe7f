"""multires_pool2d: adaptive average pooling to several sizes in one read."""

import oracles
import pytest
import torch
from checks import compiles, meta_agrees, opcheck, refused
from inputs import as_numpy, bits_equal, relayout, rng
from shapes import POOLS, pools
from torch.nn import functional as F

from bnn import ops

TOLERANCE = {torch.float32: (1e-5, 1e-6), torch.bfloat16: (8e-3, 1e-3), torch.float16: (1e-3, 1e-4)}


def make(case, generator) -> torch.Tensor:
    x = torch.randn(case.n, case.c, case.h, case.w, generator=generator).to(getattr(torch, case.dtype))
    return relayout(x, case.layout)


def test_matches_the_oracle(isa):
    generator = rng(1)
    for case in pools(80, seed=1):
        x = make(case, generator)
        outputs = ops.multires_pool2d(x, case.sizes)
        assert len(outputs) == len(case.sizes)
        for y, (h, w) in zip(outputs, case.sizes, strict=True):
            assert y.dtype == x.dtype
            expected = torch.from_numpy(oracles.pool(as_numpy(x), h, w))
            rtol, atol = TOLERANCE[x.dtype]
            torch.testing.assert_close(y.double(), expected, rtol=rtol, atol=atol, msg=lambda m, c=case: f"{c}\n{m}")


def test_gradient_matches_the_formula(isa):
    generator = rng(2)
    for case in pools(40, seed=2):
        x = make(case, generator).requires_grad_()
        exact = x.detach().double().contiguous().requires_grad_()
        grads = [torch.randn(*x.shape[:2], *size, generator=generator).to(x.dtype) for size in case.sizes]
        torch.autograd.backward(ops.multires_pool2d(x, case.sizes), grads)
        if case.n:
            expected = [F.adaptive_avg_pool2d(exact, size) for size in case.sizes]
            torch.autograd.backward(expected, [g.double() for g in grads])
            rtol, atol = TOLERANCE[x.dtype]
            torch.testing.assert_close(x.grad.double(), exact.grad, rtol=rtol, atol=atol * len(grads))
        assert x.grad.shape == x.shape and x.grad.dtype == x.dtype


def test_some_outputs_unused(isa):
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    exact = x.detach().clone().requires_grad_()
    ops.multires_pool2d(x, [(1, 1), (2, 3), (6, 6)])[1].sum().backward()
    F.adaptive_avg_pool2d(exact, (2, 3)).sum().backward()
    torch.testing.assert_close(x.grad, exact.grad)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_keeps_the_memory_format(isa, layout):
    x = relayout(torch.randn(2, 5, 6, 7), layout).requires_grad_()
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    outputs = ops.multires_pool2d(x, [(2, 3), (6, 7)])
    assert all(y.is_contiguous(memory_format=form) for y in outputs)
    torch.autograd.backward(outputs, [torch.randn_like(y) for y in outputs])
    assert x.grad.is_contiguous(memory_format=form)


def test_full_size_is_the_input(isa):
    for dtype in TOLERANCE:
        x = torch.randn(2, 5, 4, 3, dtype=dtype)
        assert bits_equal(ops.multires_pool2d(x, [(4, 3)])[0], x)


@pytest.mark.parametrize("name", list(POOLS))
def test_layers_match_torch(isa, name):
    case = POOLS[name]
    x = make(case, rng(3))
    for y, size in zip(ops.multires_pool2d(x, case.sizes), case.sizes, strict=True):
        torch.testing.assert_close(y, F.adaptive_avg_pool2d(x, size), rtol=1e-5, atol=1e-5)


def test_opcheck(endpoint_isa):
    x = torch.randn(2, 3, 5, 4, requires_grad=True)
    opcheck(torch.ops.bnn.multires_pool2d.default, x, [1, 1, 2, 3])
    last = x.detach().bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    opcheck(torch.ops.bnn.multires_pool2d.default, last, [5, 4])
    opcheck(torch.ops.bnn.multires_pool2d_backward.default, [torch.randn(2, 3, 1, 1), torch.randn(2, 3, 2, 3)], 5, 4)


def test_meta_and_empty(endpoint_isa):
    for shape in ((2, 3, 5, 4), (0, 3, 5, 4)):
        for layout in ("contiguous", "channels_last"):
            x = relayout(torch.randn(shape), layout)
            meta_agrees(torch.ops.bnn.multires_pool2d, (x, [1, 1, 3, 2]))
            grads = ops.multires_pool2d(x, [(1, 1), (3, 2)])
            meta_agrees(torch.ops.bnn.multires_pool2d_backward, (grads, 5, 4))


def test_compiles(endpoint_isa):
    compiles(lambda x: ops.multires_pool2d(x, [(1, 1), (3, 2)]), (torch.randn(2, 3, 5, 4, requires_grad=True),))


def test_refuses(endpoint_isa):
    x = torch.randn(2, 3, 5, 4)
    for bad in (x[0], x.double(), x.int()):
        refused("multires_pool2d", "x", lambda bad=bad: ops.multires_pool2d(bad, [(1, 1)]))
    for sizes in ([], [(6, 1)], [(1, 5)], [(0, 1)], [(1, -1)], [(1, 1), (6, 6)]):
        refused("multires_pool2d", "sizes", lambda sizes=sizes: ops.multires_pool2d(x, sizes))
    refused("multires_pool2d", "sizes", lambda: torch.ops.bnn.multires_pool2d(x, [1, 1, 2]))
