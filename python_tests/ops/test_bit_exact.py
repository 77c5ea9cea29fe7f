"""Every compiled instruction set equals the reference bit for bit, on thousands of random shapes.

The reference's results are computed once. That the reference is right is what the other files in this folder test.
"""

from collections.abc import Iterator
from functools import cache
from itertools import islice
from random import Random

import pytest
import torch
from inputs import bits_equal, floats, relayout, rng, shift_for, words
from shapes import CORNER_CONVS, DTYPES, LAYOUTS, convs, linears, packs, wide_convs
from torch import Tensor

import bnn

internal = torch.ops.bnn
Call = tuple[str, tuple]
STREAMS = (None, torch.float32, torch.bfloat16, torch.float16)


def _strided_words(x: Tensor, random: Random) -> Tensor:
    """Now and then not contiguous."""
    kind = random.randrange(6)
    if kind == 0 and x.dim() == 4:
        return x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    if kind == 1:
        return relayout(x, "sliced")
    return x


def _packing(count: int) -> Iterator[Call]:
    generator = rng(11)
    for case in packs(count, seed=11):
        x = relayout(floats(case.shape, case.dtype, generator), case.layout)
        yield "bitpack", (x, shift_for(x, generator) if case.shift else None)


def _unpacking(count: int) -> Iterator[Call]:
    generator, random = rng(12), Random(12)
    for case in packs(count, seed=12):
        shape = (case.n, case.h, case.w) if case.h else (case.n,)
        dtype = random.choice((torch.int8, torch.float32, torch.bfloat16, torch.float16))
        yield "bitunpack", (_strided_words(words(shape, case.c, generator), random), case.c, dtype)


def _residues(count: int) -> Iterator[Call]:
    generator, random = rng(13), Random(13)
    for case in packs(count, seed=13):
        x = relayout(floats(case.shape, case.dtype, generator), case.layout)
        shift = shift_for(x, generator) if case.shift else None
        yield "ste_residue", (x, shift, random.choice(("clip", "polynomial")))


def _convolutions(count: int) -> Iterator[Call]:
    generator, random = rng(14), Random(14)
    for case in convs(count, seed=14, max_macs=200_000):
        x = _strided_words(words((case.n, case.h, case.w), case.c, generator), random)
        weight = _strided_words(words((case.k, case.r, case.s), case.c // case.groups, generator), random)
        yield "binary_conv2d", (x, weight, case.c, *case.geometry)


def _products(count: int) -> Iterator[Call]:
    generator, random = rng(15), Random(15)
    for case in linears(count, seed=15):
        x, weight = (_strided_words(words((n,), case.c, generator), random) for n in (case.m, case.k))
        yield "binary_linear", (x, weight, case.c)


def _epilogue(shape: tuple[int, ...], generator: torch.Generator, random: Random, i: int) -> list:
    """Arguments from scale on; i runs through all 64 combinations of what is there and of the stream's type."""
    k = shape[1]

    def vector(*size: int) -> Tensor:
        return floats(size, "float32", generator, special=0.08)

    residual = None
    if i % 2:
        residual = relayout(floats(shape, random.choice(DTYPES), generator, 0.08), random.choice(LAYOUTS))
    rprelu, next_shift = (vector(3, k) if i // 2 % 2 else None), (vector(k) if i // 4 % 2 else None)
    return [vector(k), vector(k), residual, rprelu, next_shift, STREAMS[i // 8 % 4]]


def _fused_convolutions(count: int) -> Iterator[Call]:
    generator, random = rng(16), Random(16)
    cases = islice(convs(count + len(CORNER_CONVS), seed=16, max_macs=100_000), len(CORNER_CONVS), None)
    for i, case in enumerate(cases):
        x = words((case.n, case.h, case.w), case.c, generator)
        weight = words((case.k, case.r, case.s), case.c // case.groups, generator)
        tail = _epilogue((case.n, case.k, *case.output), generator, random, i)
        yield "binary_conv2d_fused", (x, weight, case.c, *case.geometry, *tail)


def _fused_products(count: int) -> Iterator[Call]:
    generator, random = rng(17), Random(17)
    for i, case in enumerate(linears(count, seed=17)):
        x, weight = (words((n,), case.c, generator) for n in (case.m, case.k))
        yield "binary_linear_fused", (x, weight, case.c, *_epilogue((case.m, case.k), generator, random, i))


def _signs(count: int) -> Iterator[Call]:
    generator, random = rng(18), Random(18)
    for i, case in enumerate(packs(count, seed=18)):
        x = relayout(floats(case.shape, case.dtype, generator), case.layout)
        shift = shift_for(x, generator) if case.shift else None
        surrogate = random.choice(("clip", "polynomial"))
        grad = floats(case.shape, case.dtype, generator)
        if i % 3 == 0:
            yield "sign_ste", (x, shift, surrogate)
        elif i % 3 == 1:
            yield "sign_ste_backward", (grad, x, shift, surrogate)
        else:
            bits = words((case.n, *case.shape[2:]), case.c, generator)
            octets = torch.randint(0, 256, (case.n, *case.shape[2:], case.c), generator=generator).to(torch.uint8)
            residue = bits if surrogate == "clip" else octets
            yield "ste_residue_backward", (relayout(grad, random.choice(LAYOUTS)), residue, surrogate)


def _training(count: int) -> Iterator[Call]:
    generator, random = rng(19), Random(19)
    for case in islice(convs(count + 40, seed=19, max_macs=50_000), 40, None):
        x = relayout(floats((case.n, case.c, case.h, case.w), random.choice(DTYPES), generator), random.choice(LAYOUTS))
        weight = torch.randn(case.k, case.c // case.groups, case.r, case.s, generator=generator)
        weight = relayout(weight, random.choice(("contiguous", "channels_last", "sliced")))
        options = (random.choice(("clip", "polynomial")), random.choice(("mean", "none")))
        shift = shift_for(x, generator) if random.random() < 0.5 else None
        yield "binary_conv2d_ste_forward", (x, weight, shift, *options, *case.geometry)
        if case.n and case.h * case.w == 1:
            flat = (x[:, :, 0, 0], weight.flatten(1)[:, : case.c // case.groups])
            if case.groups == 1:
                yield "binary_linear_ste_forward", (*flat, shift, *options)
    for case in linears(count // 2, seed=19):
        x = floats((case.m, case.c), random.choice(DTYPES), generator)
        weight = torch.randn(case.k, case.c, generator=generator)
        options = (random.choice(("clip", "polynomial")), random.choice(("mean", "none")))
        yield "binary_linear_ste_forward", (x, weight, shift_for(x, generator), *options)


def _wide(count: int) -> Iterator[Call]:
    """What runs on tensor cores where there are any."""
    generator, random = rng(20), Random(20)
    for i, case in enumerate(wide_convs(count, seed=20)):
        x = words((case.n, case.h, case.w), case.c, generator)
        weight = words((case.k, case.r, case.s), case.c // case.groups, generator)
        yield "binary_conv2d", (x, weight, case.c, *case.geometry)
        tail = _epilogue((case.n, case.k, *case.output), generator, random, i)
        yield "binary_conv2d_fused", (x, weight, case.c, *case.geometry, *tail)
        m, c = random.choice((64, 65, 127, 128, 200)), random.choice((256, 257, 319, 320, 1000))
        operands = (words((m,), c, generator), words((case.k,), c, generator), c)
        yield "binary_linear", operands
        yield "binary_linear_fused", (*operands, *_epilogue((m, case.k), generator, random, i))


GROUPS = {
    "bitpack": (_packing, 800),
    "bitunpack": (_unpacking, 300),
    "ste_residue": (_residues, 500),
    "binary_conv2d": (_convolutions, 1500),
    "binary_linear": (_products, 600),
    "binary_conv2d_fused": (_fused_convolutions, 640),
    "binary_linear_fused": (_fused_products, 512),
    "sign_ste": (_signs, 450),
    "training": (_training, 200),
    "wide": (_wide, 96),
}
INTEGER = ("bitpack", "bitunpack", "ste_residue", "binary_conv2d", "binary_linear")


def _outputs(call: Call) -> list[Tensor]:
    out = getattr(internal, call[0])(*call[1])
    return [out] if isinstance(out, Tensor) else list(out)


@cache
def _expected(group: str) -> list[tuple[Call, list[Tensor]]]:
    """Calls and the reference's results."""
    make, count = GROUPS[group]
    before = bnn.isa.current()
    bnn.isa.use("reference")
    try:
        return [(call, _outputs(call)) for call in make(count)]
    finally:
        bnn.isa.use(before)


def test_there_are_enough_cases():
    assert sum(GROUPS[name][1] for name in INTEGER) >= 2000


@pytest.mark.parametrize("group", list(GROUPS))
def test_equals_the_reference(compiled_isa, group):
    cases = _expected(group)
    assert len(cases) >= GROUPS[group][1]
    for call, expected in cases:
        got = _outputs(call)
        same = len(got) == len(expected) and all(bits_equal(a, b) for a, b in zip(got, expected, strict=True))
        assert same, f"{compiled_isa}: {call[0]} differs from the reference on {_describe(call[1])}"
        strides = [a.stride() == b.stride() for a, b in zip(got, expected, strict=True) if _has_strides(a)]
        assert all(strides), f"{call[0]}: strides {[t.stride() for t in got]} on {_describe(call[1])}"


def _has_strides(x: Tensor) -> bool:
    """Strides of dimensions of size 1, and of nothing, mean nothing."""
    return x.numel() > 0 and 1 not in x.shape


def _describe(args: tuple) -> list:
    return [f"{a.dtype} {list(a.shape)} strides {a.stride()}" if isinstance(a, Tensor) else a for a in args]
