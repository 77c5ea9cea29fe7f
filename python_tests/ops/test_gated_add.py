"""gated_add: every bit of the definition, which is written here once more in numpy, on every instruction set."""

import numpy as np
import pytest
import torch
from checks import channels_innermost, compiles, meta_agrees, opcheck, refused
from inputs import bits_equal, floats, relayout, rng
from shapes import LAYOUTS

import bnn
from bnn import ops

DTYPES = ("float32", "bfloat16", "float16")


def definition(x, residual, gate, scale, bias, multiply) -> torch.Tensor:
    """float32 [N, C, H, W]."""
    x, residual, gate, scale, bias = (t.float().numpy() for t in (x, residual, gate, scale, bias))
    with np.errstate(all="ignore"):
        t = gate * scale[:, None, None] * x
        t = t * residual if multiply else t
        return torch.from_numpy(t + bias[:, None, None] + residual)


def some_case(generator: torch.Generator, special: float = 0.0) -> tuple:
    def up_to(n: int) -> int:
        return int(torch.randint(0, n + 1, (), generator=generator))

    channels = (1, 7, 8, 16, 31, 32, 33, 64, 65, 96, 127, 128, 130, 192)[up_to(13)]
    n, h, w = 1 + up_to(2), 1 + up_to(8), 1 + up_to(8)
    one = DTYPES[up_to(2)]
    dtypes = [one] * 3 if up_to(1) else [DTYPES[up_to(2)] for _ in range(3)]
    shapes = ((n, channels, h, w), (n, channels, h, w), (n, channels, 1, 1))
    tensors = [floats(shape, dtype, generator, special) for shape, dtype in zip(shapes, dtypes, strict=True)]
    tensors = [relayout(t, LAYOUTS[up_to(len(LAYOUTS) - 1)]) for t in tensors]
    scale, bias, shift = torch.randn(3, channels, generator=generator)
    stream = (None, one, DTYPES[up_to(2)])[up_to(2)]
    return (*tensors, scale, bias, bool(up_to(1)), shift if up_to(1) else None, stream and getattr(torch, stream))


@pytest.mark.parametrize("special", [0.0, 0.1])
def test_equals_its_definition(isa, special):
    generator = rng(71)
    for i in range(500 if isa in bnn.isa.available()[1:] else 60):
        *arguments, shift, dtype = some_case(generator, special)
        y = definition(*arguments)
        stream, words = ops.gated_add(*arguments, shift, dtype)
        what = (i, arguments[0].shape, [t.dtype for t in arguments[:3]], arguments[5], dtype)
        if dtype is not None:
            assert bits_equal(stream, y.to(dtype)) and channels_innermost(stream), what
        if dtype is None or shift is not None:
            assert torch.equal(words, ops.bitpack(y, shift)), what
        count = arguments[0].shape[0]
        assert (len(stream), len(words)) == (count if dtype else 0, count if shift is not None or not dtype else 0)


def test_no_images(isa):
    x, gate, ones = torch.ones(0, 70, 3, 3), torch.ones(0, 70, 1, 1), torch.ones(70)
    stream, words = ops.gated_add(x, x, gate, ones, ones, False, ones, torch.float16)
    assert stream.shape == x.shape and words.shape == (0, 3, 3, 2)


def test_library_checks(isa):
    for seed in range(3):
        arguments = some_case(rng(seed))
        opcheck(torch.ops.bnn.gated_add.default, *arguments)
        meta_agrees(ops.gated_add, arguments)
    compiles(ops.gated_add, arguments)


def test_wrong_arguments_are_named(isa):
    x, gate, ones = torch.ones(2, 8, 3, 3), torch.ones(2, 8, 1, 1), torch.ones(8)
    good = {"x": x, "residual": x, "gate": gate, "scale": ones, "bias": ones, "next_shift": ones}
    for name, bad in (
        ("x", torch.ones(2, 8)), ("x", x.double()), ("x", x.long()),
        ("residual", x[:1]), ("residual", x.double()), ("residual", torch.ones(2, 8, 3, 4)),
        ("gate", gate[:, :4]), ("gate", gate.flatten(1)), ("gate", x), ("gate", gate.int()),
        ("scale", ones[:4]), ("scale", ones.half()), ("bias", ones[None]), ("bias", ones.double()),
        ("next_shift", ones[:1]), ("next_shift", ones.bfloat16()), ("stream_dtype", torch.int8),
    ):  # fmt: skip
        refused("gated_add", name, lambda name=name, bad=bad: ops.gated_add(**good | {name: bad}))
