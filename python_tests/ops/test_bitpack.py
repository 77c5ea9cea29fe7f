"""bitpack and bitunpack: one bit an element, channel c is bit c % 64 of word c // 64."""

import numpy as np
import oracles
import pytest
import torch
from checks import channels_innermost, compiles, meta_agrees, opcheck, refused
from inputs import as_numpy, floats, relayout, rng, shift_for, words
from shapes import CHANNELS, packs

from bnn import ops

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def test_bitpack_matches_the_oracle(isa):
    generator = rng(1)
    for case in packs(150, seed=1):
        x = relayout(floats(case.shape, case.dtype, generator), case.layout)
        shift = shift_for(x, generator) if case.shift else None
        expected = oracles.bitpack(as_numpy(x), None if shift is None else as_numpy(shift))
        assert np.array_equal(as_numpy(ops.bitpack(x, shift)), expected), case


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_and_nan_are_not_negative(isa, dtype):
    tiny = torch.finfo(dtype).smallest_normal
    x = torch.tensor([[0.0, -0.0, float("nan"), -float("nan"), float("inf"), -float("inf"), -tiny, tiny]], dtype=dtype)
    assert ops.bitpack(x).item() == 0b01100000
    assert ops.bitpack(x, torch.full((8,), -0.0)).item() == 0b01100000
    infinite = torch.full((8,), float("inf"))
    assert ops.bitpack(x, infinite).item() == 0  # inf - inf is NaN
    assert ops.bitpack(x, -infinite).item() == 0b11100011  # all but NaN and inf - inf


def test_denormals_are_negative(isa):
    assert ops.bitpack(torch.full((1, 3), -1e-45)).item() == 0b111
    assert ops.bitpack(torch.full((1, 3), 1.0), torch.full((3,), -1.0000001)).item() == 0b111


def test_shift_is_added_in_float32(isa):
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    assert ops.bitpack(x, torch.tensor([-1.0001, -0.9999])).item() == 0b01
    assert ops.bitpack(x, torch.tensor([-1.0001, -0.9999]).bfloat16()).item() == 0b00


@pytest.mark.parametrize("dtype", (*FLOATS, torch.int8))
def test_bitunpack_is_the_inverse(isa, dtype):
    generator = rng(2)
    for channels in CHANNELS:
        for space in ((), (3, 2), (0, 4)):
            packed = words((2, *space), channels, generator)
            x = ops.bitunpack(packed, channels, dtype)
            assert x.dtype == dtype and channels_innermost(x)
            assert np.array_equal(as_numpy(x), oracles.signs(packed.numpy(), channels))
            if dtype != torch.int8:
                assert torch.equal(ops.bitpack(x), packed)


def test_bitunpack_ignores_tail_bits_and_strides(isa):
    packed = torch.full((2, 3, 2, 1), -1)
    assert torch.equal(ops.bitunpack(packed, 5), -torch.ones(2, 5, 3, 2))
    large = words((4, 6, 3), 130, rng(3)).permute(1, 0, 2, 3)[::2]
    assert torch.equal(ops.bitunpack(large, 130), ops.bitunpack(large.contiguous(), 130))


def test_opcheck(endpoint_isa):
    generator = rng(4)
    for dtype in ("float32", "bfloat16"):
        opcheck(torch.ops.bnn.bitpack.default, floats((2, 65, 3, 2), dtype, generator), torch.randn(65))
    opcheck(torch.ops.bnn.bitpack.default, floats((2, 3), "float16", generator), None)
    opcheck(torch.ops.bnn.bitunpack.default, words((2, 3, 2), 65, generator), 65, torch.float32)
    opcheck(torch.ops.bnn.bitunpack.default, words((2,), 65, generator), 65, torch.int8)


def test_meta_and_empty(endpoint_isa):
    for shape in ((2, 65, 3, 4), (2, 65), (0, 65, 3, 4), (2, 3, 0, 4), (0, 1)):
        meta_agrees(ops.bitpack, (torch.randn(shape), None))
        meta_agrees(ops.bitunpack, (ops.bitpack(torch.randn(shape)), shape[1], torch.bfloat16))


def test_compiles(endpoint_isa):
    compiles(lambda x, s: ops.bitunpack(ops.bitpack(x, s), 65), (torch.randn(2, 65, 3, 4), torch.randn(65)))


def test_bitpack_refuses(endpoint_isa):
    x = torch.randn(2, 5, 3, 3)
    for bad in (torch.randn(2, 5, 3), torch.randn(5), torch.randn(2, 5, 3, 3, 1), x.double(), x.long(), x > 0):
        refused("bitpack", "x", lambda bad=bad: ops.bitpack(bad))
    for bad in (torch.randn(4), torch.randn(1, 5), torch.randn(5).double(), torch.zeros(5, device="meta")):
        refused("bitpack", "shift", lambda bad=bad: ops.bitpack(x, bad))


def test_bitunpack_refuses(endpoint_isa):
    packed = words((2, 3, 3), 65, rng(5))
    for bad in (packed[0], packed.int(), packed[..., :1], packed.float()):
        refused("bitunpack", "words", lambda bad=bad: ops.bitunpack(bad, 65))
    refused("bitunpack", "words", lambda: ops.bitunpack(packed, 64))
    for channels in (0, -1):
        refused("bitunpack", "the channel count", lambda channels=channels: ops.bitunpack(packed, channels))
    refused("bitunpack", "dtype", lambda: ops.bitunpack(packed, 65, torch.int64))
