"""binary_conv2d_ste and binary_linear_ste against a plain torch expression that autograd differentiates."""

import pytest
import torch
from checks import channels_innermost, compiles, meta_agrees, opcheck, refused, relative_error
from inputs import bits_equal, relayout, rng
from oracles import eager_conv2d, eager_linear
from shapes import Conv

from bnn import ops

internal = torch.ops.bnn
SURROGATES = ("clip", "polynomial")
CASES = {
    "3x3": Conv(4, 48, 8, 7, 16, 3, 3, padding=(1, 1)),
    "1x1": Conv(2, 65, 6, 6, 33, 1, 1),
    "strided": Conv(2, 33, 9, 8, 8, 3, 3, (2, 2), (1, 1)),
    "dilated": Conv(2, 16, 9, 9, 8, 3, 2, (1, 2), (2, 1), (2, 3)),
    "padded -1": Conv(2, 24, 6, 6, 8, 3, 3, padding=(1, 2), pad_value=-1),
    "padded +1": Conv(2, 24, 6, 6, 8, 5, 3, (2, 1), (2, 1), pad_value=1),
    "grouped": Conv(2, 66, 6, 6, 12, 3, 3, padding=(1, 1), groups=3),
    "depthwise": Conv(2, 65, 6, 6, 130, 3, 3, padding=(1, 1), groups=65, pad_value=1),
}
# largest relative error (norm) of outputs, gradients; bfloat16 rounds each product and sum's result to 8 bits
BOUNDS = {torch.float32: (1e-6, 1e-5), torch.bfloat16: (4e-3, 8e-3), torch.float16: (1e-3, 2e-3)}


def conv_operands(case: Conv, dtype: torch.dtype, seed: int = 0, shift: bool = True) -> list:
    """x, weight with some |w| > 1, shift: leaves with gradients."""
    generator = rng(seed)
    x = torch.randn(case.n, case.c, case.h, case.w, generator=generator).to(dtype)
    weight = torch.randn(case.k, case.c // case.groups, case.r, case.s, generator=generator)
    shifts = torch.randn(case.c, generator=generator) * 0.3 if shift else None
    return [None if t is None else t.requires_grad_() for t in (x, weight, shifts)]


def gradients(y: torch.Tensor, leaves: list, grad: torch.Tensor) -> list[torch.Tensor]:
    return torch.autograd.grad(y, [t for t in leaves if t is not None], grad.to(y.dtype))


def in_double(leaves: list) -> list:
    return [None if t is None else t.detach().double().requires_grad_() for t in leaves]


@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("name", list(CASES))
def test_conv_gradients_match_autograd(isa, name, surrogate, dtype):
    case = CASES[name]
    scale = "none" if name == "1x1" else "mean"
    leaves = conv_operands(case, dtype, shift=name != "strided")
    exact = in_double(leaves)
    y = ops.binary_conv2d_ste(*leaves, surrogate, scale, *case.geometry)
    expected = eager_conv2d(*exact, surrogate, scale, *case.geometry)
    forward, backward = BOUNDS[dtype]
    assert y.dtype == dtype and channels_innermost(y)
    assert relative_error(y, expected) <= forward
    grad = torch.randn(y.shape, generator=rng(1)).to(dtype)
    for got, want, leaf in zip(gradients(y, leaves, grad), gradients(expected, exact, grad), leaves, strict=False):
        error = relative_error(got, want)
        bound = max(backward, 0.01 if surrogate == "polynomial" else 0)
        assert got.dtype == leaf.dtype and error <= bound, f"relative gradient error {error:.2e} of {leaf.shape}"


@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("scale", ["mean", "none"])
def test_linear_gradients_match_autograd(isa, surrogate, scale, dtype):
    generator = rng(2)
    for m, c, k, shift in ((16, 65, 33, True), (1, 128, 5, False), (7, 200, 64, True)):
        x = torch.randn(m, c, generator=generator).to(dtype).requires_grad_()
        weight = torch.randn(k, c, generator=generator).requires_grad_()
        shifts = (torch.randn(c, generator=generator) * 0.3).requires_grad_() if shift else None
        exact = in_double([x, weight, shifts])
        y = ops.binary_linear_ste(x, weight, shifts, surrogate, scale)
        expected = eager_linear(*exact, surrogate, scale)
        forward, backward = BOUNDS[dtype]
        assert y.dtype == dtype and relative_error(y, expected) <= forward
        grad = torch.randn(y.shape, generator=generator).to(dtype)
        results = zip(gradients(y, [x, weight, shifts], grad), gradients(expected, exact, grad), strict=True)
        for got, want in results:
            assert relative_error(got, want) <= max(backward, 0.01 if surrogate == "polynomial" else 0)


def test_clip_gradient_is_exact_in_float32(isa):
    """Where every product is exact in float32 (gradients of -1, 0, +1, alpha = 1) the clip gradient is exact."""
    for case in CASES.values():
        leaves = conv_operands(case, torch.float32, seed=3)
        exact = in_double(leaves)
        y = ops.binary_conv2d_ste(*leaves, "clip", "none", *case.geometry)
        expected = eager_conv2d(*exact, "clip", "none", *case.geometry)
        grad = torch.randint(-1, 2, y.shape, generator=rng(4)).float()
        for got, want in zip(gradients(y, leaves, grad), gradients(expected, exact, grad), strict=True):
            torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_forward_parts(isa, surrogate):
    """What the internal ops return beside y, and that weight gradients stop beyond |w| = 1."""
    x, weight = torch.randn(2, 65, 4, 4), torch.tensor([-1.5, -1.0, -0.0, 0.5, 1.0, 1.0000001, 2.0]).repeat(65, 1)
    weight = weight.T.reshape(7, 65, 1, 1).contiguous()
    out = internal.binary_conv2d_ste_forward(x, weight, None, surrogate, "mean", [1, 1], [0, 0], [1, 1], 1, 0)
    y, words, residue, weight_words, mask, alpha = out
    assert torch.equal(words, ops.bitpack(x)) and torch.equal(residue, internal.ste_residue(x, None, surrogate)[1])
    assert torch.equal(weight_words, ops.bitpack(weight))
    negative = torch.tensor([True, True, False, False, False, False, False])
    assert torch.equal((weight_words[:, 0, 0, 0] == -1), negative)
    inside = torch.tensor([False, True, True, True, True, False, False])
    assert torch.equal(mask[:, 0, 0, 0] == -1, inside) and torch.equal(mask[:, 0, 0, 1] == 1, inside)
    torch.testing.assert_close(alpha, weight.abs().mean((1, 2, 3)))
    leaf = weight.clone().requires_grad_()
    ops.binary_conv2d_ste(x, leaf, None, surrogate, "none").sum().backward()
    assert torch.equal(leaf.grad.flatten(1).abs().amax(1) > 0, inside)


def test_x_in_any_memory_format(isa):
    case = CASES["3x3"]
    leaves = conv_operands(case, torch.float32, seed=5)
    grad = None
    for layout in ("contiguous", "channels_last", "transposed", "sliced"):
        x = relayout(leaves[0].detach(), layout).requires_grad_()
        y = ops.binary_conv2d_ste(x, *leaves[1:], "polynomial", "mean", *case.geometry)
        result = [y, *torch.autograd.grad(y, [x, *leaves[1:]], torch.cos(y.detach()))]
        grad = grad or result
        assert bits_equal(result[0], grad[0])
        assert all(relative_error(a, b) < 1e-6 for a, b in zip(result, grad, strict=True))


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_nan_and_infinity(isa, surrogate):
    """NaN counts as +1 and stops the gradient, as infinities do."""
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.25]]).requires_grad_()
    weight = torch.full((1, 4), 0.5)
    y = ops.binary_linear_ste(x, weight, None, surrogate, "none")
    y.backward()
    assert y.item() == 2
    assert x.grad[0, :3].tolist() == [0, 0, 0] and x.grad[0, 3] > 0


def test_only_what_needs_a_gradient_gets_one(isa):
    case = CASES["3x3"]
    x, weight, shift = (t.detach() for t in conv_operands(case, torch.float32))
    for chosen in range(3):
        leaves = [t.clone().requires_grad_(i == chosen) for i, t in enumerate((x, weight, shift))]
        ops.binary_conv2d_ste(*leaves, "clip", "mean", *case.geometry).sum().backward()
        assert [t.grad is not None for t in leaves] == [i == chosen for i in range(3)]
    assert not ops.binary_conv2d_ste(x, weight, shift).requires_grad


def test_autocast():
    x, weight = torch.randn(2, 8, 5, 5, requires_grad=True), torch.randn(4, 8, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.binary_conv2d_ste(x, weight)
        z = ops.binary_linear_ste(x.flatten(2).sum(2), weight[:, :, 0, 0])
    assert y.dtype == z.dtype == torch.bfloat16
    (y.sum() + z.sum()).backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


def test_bfloat16_weights(isa):
    x, weight = torch.randn(2, 8, 5, 5, requires_grad=True), torch.randn(4, 8, 3, 3).bfloat16().requires_grad_()
    y = ops.binary_conv2d_ste(x, weight, None, "clip", "none")
    assert bits_equal(y, ops.binary_conv2d_ste(x, weight.float(), None, "clip", "none"))
    y.sum().backward()
    assert weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_opcheck(endpoint_isa, surrogate):
    case = Conv(2, 66, 4, 5, 4, 3, 2, (2, 1), (1, 1), (1, 2), 2, -1)
    leaves = conv_operands(case, torch.float32)
    opcheck(internal.binary_conv2d_ste_forward.default, *leaves, surrogate, "mean", *case.geometry)
    x, weight = torch.randn(3, 65, requires_grad=True), torch.randn(4, 65, requires_grad=True)
    opcheck(internal.binary_linear_ste_forward.default, x, weight, None, surrogate, "none")


def test_opcheck_of_the_public_names(endpoint_isa):
    case = Conv(2, 3, 4, 5, 4, 3, 2, padding=(1, 1), pad_value=1)
    opcheck(internal.binary_conv2d_ste.default, *conv_operands(case, torch.bfloat16), "clip", "mean", *case.geometry)
    x, weight = torch.randn(3, 65, requires_grad=True), torch.randn(4, 65, requires_grad=True)
    opcheck(internal.binary_linear_ste.default, x, weight, None, "polynomial", "mean")


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_meta_and_empty(endpoint_isa, surrogate):
    for case in (CASES["3x3"], CASES["padded +1"], Conv(0, 65, 5, 5, 4, 3, 3), Conv(0, 4, 5, 5, 4, 3, 3, groups=4)):
        for scale in ("mean", "none"):
            leaves = conv_operands(case, torch.float32)
            meta_agrees(ops.binary_conv2d_ste, (*leaves, surrogate, scale, *case.geometry))
            forward = internal.binary_conv2d_ste_forward
            meta_agrees(forward, (*(t.detach() for t in leaves), surrogate, scale, *case.geometry))
            y = ops.binary_conv2d_ste(*leaves, surrogate, scale, *case.geometry)
            grads = torch.autograd.grad(y.sum(), leaves)
            assert [g.shape for g in grads] == [t.shape for t in leaves]
            assert case.n or not any(bool(g.any()) for g in grads)
    for m in (3, 0):
        leaves = [t.requires_grad_() for t in (torch.randn(m, 65), torch.randn(4, 65), torch.randn(65))]
        meta_agrees(ops.binary_linear_ste, (*leaves, surrogate, "mean"))
        grads = torch.autograd.grad(ops.binary_linear_ste(*leaves, surrogate).sum(), leaves)
        assert [g.shape for g in grads] == [t.shape for t in leaves]


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_compiles(endpoint_isa, surrogate):
    case = Conv(2, 65, 5, 4, 7, 3, 3, padding=(1, 1), pad_value=-1)
    compiles(lambda *t: ops.binary_conv2d_ste(*t, surrogate, "mean", *case.geometry),
             conv_operands(case, torch.float32))  # fmt: skip
    x, weight = torch.randn(3, 65, requires_grad=True), torch.randn(4, 65, requires_grad=True)
    compiles(lambda a, b: ops.binary_linear_ste(a, b, None, surrogate), (x, weight))


BAD_GEOMETRY = [
    ("stride", (0, 0, 1, 1, 0)),
    ("stride", ([1, 1, 1], 0, 1, 1, 0)),
    ("padding", (1, -1, 1, 1, 0)),
    ("dilation", (1, 0, 0, 1, 0)),
    ("groups", (1, 0, 1, 0, 0)),
    ("groups", (1, 0, 1, 4, 0)),
    ("groups", (1, 0, 1, 3, 0)),
    ("weight", (1, 0, 1, 2, 0)),
    ("pad_value", (1, 0, 1, 1, 3)),
    ("x", (1, 0, 3, 1, 0)),  # reach 7 in 5 rows
]


def test_conv_refuses(endpoint_isa):
    x, weight, shift = torch.randn(2, 6, 5, 5), torch.randn(4, 6, 3, 3), torch.randn(6)

    def call(x=x, weight=weight, shift=shift, surrogate="clip", scale="mean", geometry=(1, 0, 1, 1, 0)):
        return lambda: ops.binary_conv2d_ste(x, weight, shift, surrogate, scale, *geometry)

    op = "binary_conv2d_ste"
    for bad in (x[0], x.double(), x.int()):
        refused(op, "x", call(x=bad))
    for bad in (weight[0], weight.double(), weight.int(), weight[:, :5], weight.to("meta")):
        refused(op, "weight", call(weight=bad))
    for bad in (shift[:5], shift[None], shift.double(), shift.to("meta")):
        refused(op, "shift", call(shift=bad))
    refused(op, "surrogate", call(surrogate="tanh"))
    refused(op, "scale", call(scale="max"))
    for argument, geometry in BAD_GEOMETRY:
        refused(op, argument, call(geometry=geometry))


def test_linear_refuses(endpoint_isa):
    x, weight, shift = torch.randn(2, 6), torch.randn(4, 6), torch.randn(6)

    def call(x=x, weight=weight, shift=shift, surrogate="clip", scale="mean"):
        return lambda: ops.binary_linear_ste(x, weight, shift, surrogate, scale)

    op = "binary_linear_ste"
    for bad in (x[0], x[None], x.double(), x.int()):
        refused(op, "x", call(x=bad))
    for bad in (weight[0], weight[:, :5], weight.double(), weight.to("meta")):
        refused(op, "weight", call(weight=bad))
    for bad in (shift[:5], shift.double(), shift.to("meta")):
        refused(op, "shift", call(shift=bad))
    refused(op, "surrogate", call(surrogate="tanh"))
    refused(op, "scale", call(scale="max"))
