"""binary_linear and binary_linear_fused: products of rows of +-1, and what inference does with them."""

import itertools

import numpy as np
import oracles
import pytest
import torch
from checks import compiles, meta_agrees, opcheck, opcheck_text, refused
from inputs import as_numpy, bits_equal, floats, rng, words
from shapes import linears

from bnn import ops

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def operands(case, generator) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    x, weight = words((case.m,), case.c, generator), words((case.k,), case.c, generator)
    return x, weight, oracles.signs(x.numpy(), case.c) @ oracles.signs(weight.numpy(), case.c).T


def epilogue_arguments(m: int, k: int, generator, residual, rprelu, next_shift, special: float = 0.05) -> list:
    def tensor(*size: int, dtype: str = "float32") -> torch.Tensor:
        return floats(size, dtype, generator, special)

    stream = tensor(m, k, dtype=residual) if residual else None
    return [tensor(k), tensor(k), stream, tensor(3, k) if rprelu else None, tensor(k) if next_shift else None]


def test_matches_the_oracle(isa):
    generator = rng(1)
    for case in linears(150, seed=1):
        x, weight, expected = operands(case, generator)
        got = ops.binary_linear(x, weight, case.c)
        assert got.dtype == torch.int32 and got.is_contiguous()
        assert np.array_equal(got.numpy(), expected), case


def test_words_in_any_strides(isa):
    x, weight = words((7,), 200, rng(2)), words((5,), 200, rng(3))
    expected = ops.binary_linear(x, weight, 200)
    large = torch.full((14, 8), -1)
    large[::2, ::2] = x
    assert torch.equal(ops.binary_linear(large[::2, ::2], weight.mT.contiguous().mT, 200), expected)
    assert torch.equal(ops.binary_linear(x[:1].expand(4, -1), weight, 200), expected[:1].expand(4, -1))


@pytest.mark.parametrize("residual", [None, "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rprelu", [False, True])
@pytest.mark.parametrize("next_shift", [False, True])
def test_fused_matches_the_oracle_bit_for_bit(isa, residual, rprelu, next_shift):
    generator = rng(4)
    for i, case in enumerate(linears(20, seed=2)):
        x, weight, acc = operands(case, generator)
        tail = epilogue_arguments(case.m, case.k, generator, residual, rprelu, next_shift)
        y, packed = oracles.epilogue(acc, *(None if t is None else as_numpy(t) for t in tail))
        for dtype in (None, FLOATS[i % 3]):
            stream, got = ops.binary_linear_fused(x, weight, case.c, *tail, dtype)
            if dtype is None:
                assert stream.shape == (0,)
            else:
                assert stream.is_contiguous() and bits_equal(stream, torch.from_numpy(y).to(dtype)), (case, dtype)
            if dtype is None or next_shift:
                assert np.array_equal(got.numpy(), packed), (case, dtype)
            else:
                assert got.shape == (0,)


def test_opcheck(endpoint_isa):
    x, weight = words((3,), 65, rng(5)), words((4,), 65, rng(6))
    opcheck(torch.ops.bnn.binary_linear.default, x, weight, 65)
    for residual, flag, dtype in ((None, False, None), ("float16", True, torch.float32)):
        tail = epilogue_arguments(3, 4, rng(7), residual, flag, flag, special=0.0)
        opcheck(torch.ops.bnn.binary_linear_fused.default, x, weight, 65, *tail, dtype)


def test_route(endpoint_isa):
    x, weight = words((3,), 65, rng(5)), words((4,), 65, rng(6))
    opcheck_text(torch.ops.bnn.binary_linear_route.default, x, weight, 65, True)
    expected = "few rows" if endpoint_isa.startswith(("emulated", "cuda")) else endpoint_isa
    small = "avx512" if endpoint_isa == "amx" else expected  # a matrix unit needs more rows
    assert ops.binary_linear_route(x, weight, 65) == small


def test_meta_and_empty(endpoint_isa):
    for m in (3, 0):
        x, weight = words((m,), 65, rng(8)), words((4,), 65, rng(9))
        meta_agrees(ops.binary_linear, (x, weight, 65))
        for dtype, flag in itertools.product((None, torch.bfloat16), (False, True)):
            tail = epilogue_arguments(m, 4, rng(10), "float32" if flag else None, flag, flag)
            meta_agrees(ops.binary_linear_fused, (x, weight, 65, *tail, dtype))


def test_compiles(endpoint_isa):
    x, weight = words((3,), 65, rng(11)), words((4,), 65, rng(12))
    tail = epilogue_arguments(3, 4, rng(13), "float32", True, True, special=0.0)
    compiles(lambda a, b: ops.binary_linear(a, b, 65), (x, weight))
    compiles(lambda a, b, *t: ops.binary_linear_fused(a, b, 65, *t, torch.float32), (x, weight, *tail))


@pytest.mark.parametrize("op", ["binary_linear", "binary_linear_fused"])
def test_refuses(endpoint_isa, op):
    x, weight = words((3,), 66, rng(14)), words((4,), 66, rng(15))

    def call(x=x, weight=weight, in_features=66):
        tail = (torch.ones(4), torch.ones(4)) if op == "binary_linear_fused" else ()
        return lambda: getattr(torch.ops.bnn, op)(x, weight, in_features, *tail)

    def fails(argument, call):  # the fused op's integer half may speak in its own name
        with pytest.raises(RuntimeError, match=rf"bnn::binary_linear(?:_fused)?: {argument}\b"):
            call()

    for bad in (x[0], x[None], x.int(), x.float(), x[:, :1]):
        fails("x", call(x=bad))
    for bad in (weight[0], weight[None], weight.int(), weight[:, :1], weight.to("meta")):
        fails("weight", call(weight=bad))
    fails("x", call(in_features=200))
    for features in (0, -66):
        fails(".*(channel count|in_features)", call(in_features=features))


def test_fused_refuses_its_epilogue(endpoint_isa):
    x, weight = words((3,), 66, rng(16)), words((4,), 66, rng(17))
    good = dict(scale=torch.ones(4), bias=torch.ones(4), residual=torch.ones(3, 4), rprelu=torch.ones(3, 4),
                next_shift=torch.ones(4), stream_dtype=torch.float32)  # fmt: skip
    bad_values = {
        "scale": (torch.ones(5), torch.ones(1), torch.ones(4).half(), torch.ones(4, device="meta")),
        "bias": (torch.ones(3), torch.ones(4).double(), torch.ones(4, device="meta")),
        "residual": (torch.ones(4), torch.ones(1, 4), torch.ones(3, 4).double(), torch.ones(3, 4, device="meta")),
        "rprelu": (torch.ones(4, 3), torch.ones(3, 4).half(), torch.ones(3, 4, device="meta")),
        "next_shift": (torch.ones(5), torch.ones(4).bfloat16(), torch.ones(4, device="meta")),
        "stream_dtype": (torch.float64, torch.int64),
    }
    for argument, values in bad_values.items():
        for bad in values:
            call = lambda a=argument, b=bad: ops.binary_linear_fused(x, weight, 66, **(good | {a: b}))  # noqa: E731
            refused("binary_linear_fused", argument, call)
