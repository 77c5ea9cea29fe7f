"""binary_conv2d and binary_conv2d_fused: sums of products of +-1, and what inference does with them."""

import itertools

import numpy as np
import oracles
import pytest
import torch
from checks import channels_innermost, compiles, meta_agrees, opcheck, opcheck_text, refused
from inputs import as_numpy, bits_equal, floats, rng, words
from shapes import CONVS, CORNER_CONVS, Conv, convs

from bnn import ops

ONE = ([1, 1], [0, 0], [1, 1], 1, 0)  # the plainest geometry
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def operands(case: Conv, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    cg = case.c // case.groups
    x = words((case.n, case.h, case.w), case.c, generator)
    return x, words((case.k, case.r, case.s), cg, generator)


def expected_sums(case: Conv, x: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
    signs, filters = oracles.signs(x.numpy(), case.c), oracles.signs(weight.numpy(), case.c // case.groups)
    return oracles.conv2d(signs, filters, *case.geometry)


def epilogue_arguments(k: int, shape, generator, residual, rprelu, next_shift, special: float = 0.05) -> list:
    """scale, bias, residual, rprelu, next_shift with NaN, infinities and zeros of both signs among them."""

    def vector(*size: int) -> torch.Tensor:
        return floats(size, "float32", generator, special)

    stream = floats(shape, residual, generator, special) if residual else None
    return [vector(k), vector(k), stream, vector(3, k) if rprelu else None, vector(k) if next_shift else None]


def test_matches_the_oracle(isa):
    generator = rng(1)
    for case in convs(160, seed=1, max_macs=300_000):
        x, weight = operands(case, generator)
        got = ops.binary_conv2d(x, weight, case.c, *case.geometry)
        assert got.dtype == torch.int32 and channels_innermost(got)
        assert np.array_equal(got.numpy(), expected_sums(case, x, weight)), case


@pytest.mark.parametrize("name", ["glyphs/32-64x16/2", "glyphs/128x4", "mobilenet/depthwise/512x14", "resnet18/512x7"])
def test_layers_match_float_convolution(isa, name):
    case = CONVS[name]
    x, weight = operands(case, rng(2))
    signs, filters = (torch.from_numpy(oracles.signs(t.numpy(), c)).float() for t, c in
                      ((x, case.c), (weight, case.c // case.groups)))  # fmt: skip
    expected = torch.nn.functional.conv2d(signs, filters, None, *case.geometry[:4])
    assert torch.equal(ops.binary_conv2d(x, weight, case.c, *case.geometry), expected.int())


def test_ints_and_defaults(isa):
    x, weight = words((1, 5, 6), 70, rng(3)), words((4, 3, 3), 70, rng(4))
    assert torch.equal(ops.binary_conv2d(x, weight, 70), ops.binary_conv2d(x, weight, 70, *ONE))
    by_int = ops.binary_conv2d(x, weight, 70, 2, 1, 2, 1, -1)
    assert torch.equal(by_int, ops.binary_conv2d(x, weight, 70, (2, 2), [1, 1], (2, 2), 1, -1))


def test_words_in_any_strides(isa):
    generator = rng(5)
    case = Conv(3, 130, 5, 4, 6, 3, 2, padding=(1, 1), pad_value=1)
    x, weight = operands(case, generator)
    expected = ops.binary_conv2d(x, weight, case.c, *case.geometry)
    for permutation in itertools.islice(itertools.permutations(range(4)), 1, None, 5):
        inverse = [permutation.index(d) for d in range(4)]
        strided_x, strided_weight = (t.permute(permutation).contiguous().permute(inverse) for t in (x, weight))
        assert torch.equal(ops.binary_conv2d(strided_x, strided_weight, case.c, *case.geometry), expected)
    large = torch.full((6, 10, 8, 6), -1)
    large[::2, ::2, ::2, ::2] = x
    assert torch.equal(ops.binary_conv2d(large[::2, ::2, ::2, ::2], weight, case.c, *case.geometry), expected)


def test_padding_alone(isa):
    """Every pixel outside: the sum is pad_value times the sum of the filter."""
    weight = words((5, 1, 1), 65, rng(6))
    total = torch.from_numpy(oracles.signs(weight.numpy(), 65).sum(1)).view(1, 5, 1, 1).int()
    for pad_value in (-1, 0, 1):
        got = ops.binary_conv2d(words((1, 1, 1), 65, rng(7)), weight, 65, 1, 2, 1, 1, pad_value)
        assert torch.equal(got[:, :, :2], (pad_value * total).expand(1, 5, 2, 5))


@pytest.mark.parametrize("residual", [None, "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rprelu", [False, True])
@pytest.mark.parametrize("next_shift", [False, True])
def test_fused_matches_the_oracle_bit_for_bit(isa, residual, rprelu, next_shift):
    generator = rng(8)
    corners = len(CORNER_CONVS)
    for i, case in enumerate(itertools.islice(convs(corners + 20, seed=2, max_macs=50_000), corners, None)):
        x, weight = operands(case, generator)
        acc = expected_sums(case, x, weight)
        tail = epilogue_arguments(case.k, acc.shape, generator, residual, rprelu, next_shift)
        y, packed = oracles.epilogue(acc, *(None if t is None else as_numpy(t) for t in tail))
        for dtype in (None, FLOATS[i % 3]):
            stream, got = ops.binary_conv2d_fused(x, weight, case.c, *case.geometry, *tail, dtype)
            if dtype is None:
                assert stream.shape == (0,) and stream.dtype == torch.float32
            else:
                assert channels_innermost(stream)
                assert bits_equal(stream, torch.from_numpy(y).to(dtype)), (case, dtype)
            if dtype is None or next_shift:
                assert np.array_equal(got.numpy(), packed), (case, dtype)
            else:
                assert got.shape == (0,) and got.dtype == torch.int64


def test_fused_residual_in_any_strides(isa):
    case = Conv(2, 64, 5, 6, 9, 3, 3)
    x, weight = operands(case, rng(9))
    tail = epilogue_arguments(9, (2, 9, 3, 4), rng(10), "float32", True, True)
    expected = ops.binary_conv2d_fused(x, weight, 64, *ONE, *tail, torch.float32)
    residual = tail[2]
    for strided in (residual.contiguous(memory_format=torch.channels_last), residual.mT.contiguous().mT,
                    torch.cat([residual, residual], 1)[:, :9], residual.flip(0).flip(0)):  # fmt: skip
        tail[2] = strided
        got = ops.binary_conv2d_fused(x, weight, 64, *ONE, *tail, torch.float32)
        assert all(bits_equal(a, b) for a, b in zip(got, expected, strict=True))
    tail[2] = residual[:1, :1, :1, :1].expand_as(residual)
    got = ops.binary_conv2d_fused(x, weight, 64, *ONE, *tail, torch.float32)[0]
    tail[2] = tail[2].contiguous()
    assert bits_equal(got, ops.binary_conv2d_fused(x, weight, 64, *ONE, *tail, torch.float32)[0])


def test_opcheck(endpoint_isa):
    case = Conv(2, 66, 4, 5, 4, 3, 2, (2, 1), (1, 1), (1, 2), 2, -1)
    x, weight = operands(case, rng(11))
    opcheck(torch.ops.bnn.binary_conv2d.default, x, weight, 66, *case.geometry)
    fused = torch.ops.bnn.binary_conv2d_fused.default
    shape = (2, 4, *case.output)
    for residual, flag, dtype in ((None, False, None), ("bfloat16", True, torch.bfloat16)):
        tail = epilogue_arguments(4, shape, rng(12), residual, flag, flag, special=0.0)
        opcheck(fused, x, weight, 66, *case.geometry, *tail, dtype)


def test_route(endpoint_isa):
    case = Conv(2, 66, 4, 5, 4, 3, 2, (2, 1), (1, 1), (1, 2), 2, -1)
    x, weight = operands(case, rng(11))
    opcheck_text(torch.ops.bnn.binary_conv2d_route.default, x, weight, 66, *case.geometry, True)
    expected = "integer units" if endpoint_isa.startswith(("emulated", "cuda")) else endpoint_isa
    small = "avx512" if endpoint_isa == "amx" else expected  # too small for the matrix unit
    assert ops.binary_conv2d_route(x, weight, 66, *case.geometry) == small
    if not endpoint_isa.startswith(("emulated", "cuda")):
        case = Conv(1, 128, 14, 14, 128, 3, 3, padding=(1, 1))
        x, weight = operands(case, rng(11))
        assert ops.binary_conv2d_route(x, weight, 128, *case.geometry) == expected


def test_meta_and_empty(endpoint_isa):
    for case in (Conv(2, 65, 5, 4, 7, 3, 3, (2, 1), (1, 0)), Conv(0, 65, 5, 4, 7, 3, 3, pad_value=1),
                 Conv(0, 64, 3, 3, 64, 3, 3, padding=(1, 1), groups=64)):  # fmt: skip
        x, weight = operands(case, rng(13))
        meta_agrees(ops.binary_conv2d, (x, weight, case.c, *case.geometry))
        for dtype, flag in itertools.product((None, torch.float16), (False, True)):
            shape = (case.n, case.k, *case.output)
            tail = epilogue_arguments(case.k, shape, rng(14), "float32" if flag else None, flag, flag)
            meta_agrees(ops.binary_conv2d_fused, (x, weight, case.c, *case.geometry, *tail, dtype))


def test_compiles(endpoint_isa):
    case = Conv(2, 65, 5, 4, 7, 3, 3)
    x, weight = operands(case, rng(15))
    tail = epilogue_arguments(7, (2, 7, 3, 2), rng(16), "float32", True, True, special=0.0)
    compiles(lambda a, b: ops.binary_conv2d(a, b, 65), (x, weight))
    compiles(lambda a, b, *t: ops.binary_conv2d_fused(a, b, 65, *ONE, *t, torch.float32), (x, weight, *tail))


def geometry(**changes) -> tuple:
    named = dict(zip(("stride", "padding", "dilation", "groups", "pad_value"), ONE, strict=True)) | changes
    return tuple(named.values())


BAD_GEOMETRY = [
    ("stride", {"stride": [0, 1]}),
    ("stride", {"stride": [1, 1, 1]}),
    ("padding", {"padding": [0, -1]}),
    ("dilation", {"dilation": [1, 0]}),
    ("dilation", {"dilation": [-2, 1]}),
    ("groups", {"groups": 0}),
    ("groups", {"groups": -1}),
    ("groups", {"groups": 4}),  # divides neither 66 nor 6
    ("groups", {"groups": 11}),  # divides 66 but not 6
    ("pad_value", {"pad_value": 2}),
    ("pad_value", {"pad_value": -2}),
    ("x", {"dilation": [1, 3]}),  # reach 7 in 5 columns
]


@pytest.mark.parametrize("op", ["binary_conv2d", "binary_conv2d_fused"])
def test_refuses(endpoint_isa, op):
    x, weight = words((2, 5, 5), 66, rng(17)), words((6, 3, 3), 66, rng(18))

    def call(x=x, weight=weight, in_channels=66, geometry=ONE):
        tail = (torch.ones(6), torch.ones(6)) if op == "binary_conv2d_fused" else ()
        return lambda: getattr(torch.ops.bnn, op)(x, weight, in_channels, *geometry, *tail)

    # the fused op's integer half may speak in its own name
    name = op if op == "binary_conv2d" else "binary_conv2d(?:_fused)?"
    for argument, change in BAD_GEOMETRY:
        _refused(name, argument, call(geometry=geometry(**change)))
    for bad in (x[0], x.int(), x.float(), x[..., :1], torch.cat([x, x], -1)):
        _refused(name, "x", call(x=bad))
    for bad in (weight[0], weight.int(), weight[..., :1], weight.to("meta"), torch.cat([weight, weight], -1)):
        _refused(name, "weight", call(weight=bad))
    _refused(name, "weight", call(weight=weight[:, :0]))
    _refused(name, "x", call(in_channels=200))
    for channels in (0, -66):
        with pytest.raises(RuntimeError, match=f"bnn::{name}: .*channel"):
            call(in_channels=channels)()
    _refused(name, "weight", call(geometry=geometry(groups=2)))  # 33 channels a group are one word, not two


def _refused(name: str, argument: str, call) -> None:
    with pytest.raises(RuntimeError, match=rf"bnn::{name}: {argument}\b"):
        call()


def test_fused_refuses_its_epilogue(endpoint_isa):
    x, weight = words((2, 5, 5), 66, rng(19)), words((6, 3, 3), 66, rng(20))
    good = dict(scale=torch.ones(6), bias=torch.ones(6), residual=torch.ones(2, 6, 3, 3), rprelu=torch.ones(3, 6),
                next_shift=torch.ones(6), stream_dtype=torch.float32)  # fmt: skip
    ops.binary_conv2d_fused(x, weight, 66, *ONE, **good)
    bad_values = {
        "scale": (torch.ones(5), torch.ones(1), torch.ones(6, 1), torch.ones(6).half(), torch.ones(6, device="meta")),
        "bias": (torch.ones(7), torch.ones(6).double(), torch.ones(6, device="meta")),
        "residual": (torch.ones(6), torch.ones(2, 6, 3, 1), torch.ones(2, 6, 3, 3).double(), torch.ones(1, 6, 3, 3),
                     torch.ones(2, 6, 3, 3, device="meta"), torch.ones(2, 6, 3, 3).int()),
        "rprelu": (torch.ones(6, 3), torch.ones(3), torch.ones(3, 6).half(), torch.ones(3, 6, device="meta")),
        "next_shift": (torch.ones(5), torch.ones(6).bfloat16(), torch.ones(6, device="meta")),
        "stream_dtype": (torch.float64, torch.int32),
    }  # fmt: skip
    for argument, values in bad_values.items():
        for bad in values:
            call = lambda a=argument, b=bad: ops.binary_conv2d_fused(x, weight, 66, *ONE, **(good | {a: b}))  # noqa: E731
            refused("binary_conv2d_fused", argument, call)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("stride", {"stride": [2**31, 1]}),
        ("padding", {"padding": [2**62, 0]}),
        ("dilation", {"dilation": [2**62, 2**62]}),
        ("groups", {"groups": 2**62}),
        ("pad_value", {"pad_value": 2**32}),  # 0 in 32 bits
    ],
)
def test_numbers_beyond_32_bits_are_refused(compiled_isa, argument, change):
    x, weight = words((2, 5, 5), 66, rng(21)), words((6, 3, 3), 66, rng(22))
    refused("binary_conv2d", argument, lambda: ops.binary_conv2d(x, weight, 66, *geometry(**change)))


def test_a_huge_channel_count_is_refused(compiled_isa):
    x, weight = words((2, 5, 5), 66, rng(23)), words((6, 3, 3), 66, rng(24))
    for channels in (2**31, 2**62, 2**63 - 1):
        with pytest.raises(RuntimeError, match="bnn::binary_conv2d: "):
            ops.binary_conv2d(x, weight, channels)
        with pytest.raises(RuntimeError, match="bnn::bitunpack: "):
            ops.bitunpack(x, channels)
