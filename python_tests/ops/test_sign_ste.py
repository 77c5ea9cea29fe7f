"""sign_ste and what the fused training ops keep of it (ste_residue)."""

import numpy as np
import oracles
import pytest
import torch
from checks import channels_innermost, compiles, meta_agrees, opcheck, refused, relative_error
from inputs import as_numpy, bits_equal, floats, relayout, rng, shift_for
from shapes import packs

from bnn import ops

SURROGATES = ("clip", "polynomial")
internal = torch.ops.bnn


def _case(case, generator):
    x = relayout(floats(case.shape, case.dtype, generator), case.layout)
    shift = shift_for(x, generator) if case.shift else None
    return x, shift, as_numpy(x), None if shift is None else as_numpy(shift)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_forward_and_residue_match_the_oracle(isa, surrogate):
    generator = rng(1)
    for case in packs(100, seed=2):
        x, shift, x_, shift_ = _case(case, generator)
        packed = oracles.bitpack(x_, shift_)
        signs = ops.sign_ste(x, shift, surrogate)
        assert signs.dtype == x.dtype
        assert np.array_equal(as_numpy(signs), oracles.signs(packed, case.c)), case
        got, residue = internal.ste_residue(x, shift, surrogate)
        assert np.array_equal(got.numpy(), packed), case
        assert np.array_equal(residue.numpy(), oracles.residue(x_, shift_, surrogate)), case


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_gradient_matches_the_formula(isa, surrogate):
    generator = rng(2)
    for case in packs(60, seed=3):
        x, shift, x_, shift_ = _case(case, generator)
        x.requires_grad_()
        shift = shift.requires_grad_() if shift is not None else None
        grad = torch.randn(x.shape, generator=generator).to(x.dtype)
        ops.sign_ste(x, shift, surrogate).backward(grad)
        exact = as_numpy(grad) * oracles.factor(oracles.value(x_, shift_), surrogate)
        expected = torch.from_numpy(exact).float().to(x.dtype)
        torch.testing.assert_close(x.grad, expected, rtol=1e-6 if x.dtype == torch.float32 else 1e-2, atol=1e-30)
        assert x.grad.dtype == x.dtype
        if shift is not None:
            total = torch.from_numpy(as_numpy(x.grad)).double().sum([d for d in range(x.dim()) if d != 1])
            torch.testing.assert_close(shift.grad.double(), total, rtol=1e-4, atol=1e-4)


def test_gradient_at_the_edges(isa):
    x = torch.tensor([[0.0, -0.0, 1.0, -1.0, 1.0000001, -1.0000001, float("nan"), float("inf"), 0.5]])
    for surrogate, expected in (("clip", [1, 1, 1, 1, 0, 0, 0, 0, 1]), ("polynomial", [2, 2, 0, 0, 0, 0, 0, 0, 1])):
        leaf = x.clone().requires_grad_()
        ops.sign_ste(leaf, None, surrogate).sum().backward()
        assert leaf.grad.tolist() == [expected]
        _, residue = internal.ste_residue(x, None, surrogate)
        grad = internal.ste_residue_backward(torch.ones_like(x), residue, surrogate)
        torch.testing.assert_close(grad, torch.tensor([expected]).float(), rtol=0, atol=2 / 255)


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_residue_backward(isa, surrogate, dtype):
    generator = rng(3)
    for shape in ((2, 65, 3, 4), (3, 129), (2, 1, 2, 2), (0, 33, 2, 2), (1, 64, 5, 1)):
        x = floats(shape, dtype, generator)
        grad = torch.randn(shape, generator=generator).to(x.dtype)
        residue = internal.ste_residue(x, None, surrogate)[1]
        got = internal.ste_residue_backward(grad, residue, surrogate)
        assert got.dtype == grad.dtype and channels_innermost(got)
        unpacked = residue.numpy()
        stored = (1 - oracles.unpack(unpacked, shape[1])) / 2 if surrogate == "clip" else unpacked * (2 / 255)
        expected = as_numpy(grad) * np.moveaxis(stored, -1, 1)
        rtol = 1e-6 if dtype == "float32" else 1e-2
        torch.testing.assert_close(got, torch.from_numpy(expected).float().to(got.dtype), rtol=rtol, atol=1e-30)
        for strided in (relayout(grad, "transposed"), relayout(grad, "sliced")):
            assert bits_equal(internal.ste_residue_backward(strided, residue, surrogate), got)


def test_residue_gradient_is_within_a_percent():
    x = torch.randn(4, 64, 16, 16, generator=rng(4))
    grad = torch.randn(x.shape, generator=rng(5))
    for surrogate, bound in (("clip", 0.0), ("polynomial", 0.01)):
        residue = internal.ste_residue(x, None, surrogate)[1]
        exact = torch.from_numpy(grad.numpy() * oracles.factor(x.numpy(), surrogate))
        error = relative_error(internal.ste_residue_backward(grad, residue, surrogate), exact)
        assert error <= bound, f"{surrogate}: relative gradient error {error:.2%}"


def test_strides_are_those_of_x(isa):
    for layout in ("contiguous", "channels_last", "transposed"):
        x = relayout(torch.randn(2, 5, 3, 4), layout).requires_grad_()
        y = ops.sign_ste(x)
        y.backward(torch.ones_like(y))
        assert y.stride() == x.stride() == x.grad.stride()


def test_opcheck(endpoint_isa):
    x = floats((2, 65, 3, 2), "float32", rng(6), special=0.0).requires_grad_()
    shift = torch.randn(65, requires_grad=True)
    for surrogate in SURROGATES:
        opcheck(internal.sign_ste.default, x, shift, surrogate)
        opcheck(internal.sign_ste.default, torch.randn(3, 4).bfloat16().requires_grad_(), None, surrogate)
        opcheck(internal.sign_ste_backward.default, torch.randn(x.shape), x.detach(), shift.detach(), surrogate)
        opcheck(internal.ste_residue.default, x.detach(), shift.detach(), surrogate)
        residue = internal.ste_residue(x.detach(), None, surrogate)[1]
        opcheck(internal.ste_residue_backward.default, torch.randn(x.shape), residue, surrogate)


def test_meta_and_empty(endpoint_isa):
    for surrogate in SURROGATES:
        for shape in ((2, 65, 3, 4), (2, 65), (0, 65, 3, 4), (0, 1)):
            x, shift = torch.randn(shape), torch.randn(shape[1])
            meta_agrees(ops.sign_ste, (x, shift, surrogate))
            meta_agrees(internal.sign_ste_backward, (x, x, shift, surrogate))
            meta_agrees(internal.ste_residue, (x, shift, surrogate))
            residue = internal.ste_residue(x, shift, surrogate)[1]
            meta_agrees(internal.ste_residue_backward, (x, residue, surrogate))
            leaf = x.requires_grad_()
            ops.sign_ste(leaf, shift, surrogate).sum().backward()
            assert leaf.grad.shape == x.shape


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_compiles(endpoint_isa, surrogate):
    x, shift = torch.randn(2, 65, 3, 4, requires_grad=True), torch.randn(65, requires_grad=True)
    compiles(lambda x, s: ops.sign_ste(x, s, surrogate), (x, shift))


def test_refuses(endpoint_isa):
    x = torch.randn(2, 5, 3, 3)
    for bad in (torch.randn(2, 5, 3), torch.randn(5), x.double(), x.int()):
        refused("sign_ste", "x", lambda bad=bad: ops.sign_ste(bad))
        refused("ste_residue", "x", lambda bad=bad: internal.ste_residue(bad, None, "clip"))
        refused("sign_ste_backward", "x", lambda bad=bad: internal.sign_ste_backward(x, bad, None, "clip"))
    for bad in (torch.randn(4), torch.randn(5).double(), torch.zeros(5, device="meta")):
        refused("sign_ste", "shift", lambda bad=bad: ops.sign_ste(x, bad))
        refused("ste_residue", "shift", lambda bad=bad: internal.ste_residue(x, bad, "clip"))
    refused("sign_ste", "surrogate", lambda: ops.sign_ste(x, None, "tanh"))
    refused("ste_residue", "surrogate", lambda: internal.ste_residue(x, None, ""))
    refused("sign_ste_backward", "surrogate", lambda: internal.sign_ste_backward(x, x, None, "tanh"))
    refused("sign_ste_backward", "grad", lambda: internal.sign_ste_backward(x[:1], x, None, "clip"))


def test_residue_backward_refuses(endpoint_isa):
    x = torch.randn(2, 5, 3, 3)
    bits, bytes_ = (internal.ste_residue(x, None, s)[1] for s in SURROGATES)

    def call(grad=x, residue=bits, surrogate="clip"):
        return lambda: internal.ste_residue_backward(grad, residue, surrogate)

    refused("ste_residue_backward", "grad", call(grad=x[0]))
    refused("ste_residue_backward", "grad", call(grad=x.double()))
    refused("ste_residue_backward", "surrogate", call(surrogate="tanh"))
    refused("ste_residue_backward", "residue", call(residue=bytes_))
    refused("ste_residue_backward", "residue", call(residue=bits[:1]))
    refused("ste_residue_backward", "residue", call(residue=bits.int()))
    refused("ste_residue_backward", "residue", call(residue=bits, surrogate="polynomial"))
    refused("ste_residue_backward", "residue", call(residue=bits.to("meta")))
