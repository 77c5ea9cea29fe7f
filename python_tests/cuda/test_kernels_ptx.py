"""Every element-wise and pooling kernel: the PTX of each chip, launched by the real host code, against numpy."""

import numpy as np
import oracles
import pytest
from ptx.params import BF16, F16, F32, Bitpack, Bitunpack, Epilogue, GatedAdd, MeanAbs, PoolLevel, SignSte
from ptx_runner import Buffer, Memory

pytestmark = pytest.mark.ci

CHIPS = (75, 80, 90, 120)
SURROGATES = ("clip", "polynomial")
DTYPES = {"f32": F32, "bf16": BF16, "f16": F16}
chips = pytest.mark.parametrize("chip", CHIPS, ids="sm_{}".format)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
surrogates = pytest.mark.parametrize("surrogate", SURROGATES)


def bf16_bits(x: np.ndarray) -> np.ndarray:
    """To nearest even; NaN as the canonical one."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return np.where(np.isnan(x), 0x7FFF, (u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def stored(x: np.ndarray, dtype: str) -> np.ndarray:
    """As the device holds it: bfloat16 as its bits."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bf16_bits(x) if dtype == "bf16" else x.astype({"f32": np.float32, "f16": np.float16}[dtype])


def floats(held: np.ndarray) -> np.ndarray:
    return (held.astype(np.uint32) << 16).view(np.float32) if held.dtype == np.uint16 else held.astype(np.float32)


def rows_of(rows: int, channels: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Values around the thresholds: signed zeros, +-1, NaN, infinity among normal ones."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, channels)).astype(np.float32)
    special = np.array([0.0, -0.0, 1.0, -1.0, np.nan, -np.nan, np.inf, -np.inf, 2.0, -2.0], np.float32)
    chosen = rng.random(x.shape) < 0.1
    x[chosen] = rng.choice(special, int(chosen.sum()))
    return stored(x, dtype)


def shift_of(channels: int, wanted: bool) -> np.ndarray | None:
    return np.random.default_rng(1).choice(np.float32([0.0, 0.5, -1.0, 0.25]), channels) if wanted else None


def put(memory: Memory, array: np.ndarray | None) -> Buffer | None:
    return None if array is None else memory.put(array)


def words_for(memory: Memory, rows: int, channels: int) -> Buffer:
    return memory.empty((rows, -(-channels // 64)), np.int64)


SHAPES = [(1, 1, False), (5, 64, True), (37, 7, True), (9, 65, False), (3, 1100, True), (70, 256, True)]
# One code generator of nvcc serves sm_75 to sm_90, another sm_100 and later.
CASES = [(80, *s) for s in SHAPES] + [(120, *s) for s in SHAPES[1:]] + [(75, *SHAPES[3]), (90, *SHAPES[2])]
cases = pytest.mark.parametrize("chip, rows, channels, shifted", CASES, ids=lambda v: str(v))


@cases
def test_bitpack(device, chip, rows, channels, shifted):
    for dtype in DTYPES:
        d = device("bitpack.cu", chip)
        x, shift = rows_of(rows, channels, dtype), shift_of(channels, shifted)
        words = words_for(d.memory, rows, channels)
        d("bitpack", Bitpack(x=d.memory.put(x), shift=put(d.memory, shift), channels=channels, words=words), rows)
        assert np.array_equal(words.numpy(), oracles.bitpack(floats(x), shift))


@cases
def test_gated_add(device, chip, rows, channels, shifted):
    """Three images; with element attention where there is a shift."""
    for dtype in DTYPES:
        d = device("gated_add.cu", chip)
        x, residual = (rows_of(3 * rows, channels, dtype, seed) for seed in (0, 1))
        gate, scale, bias = rows_of(3, channels, dtype, 2), *(floats(rows_of(2, channels, "f32", 3)))
        shift = shift_of(channels, shifted)
        stream, words = d.memory.empty(x.shape, x.dtype), words_for(d.memory, 3 * rows, channels)
        arrays = {"scale": scale, "bias": bias, "residual": residual, "next_shift": shift}
        epilogue = Epilogue(kind=Epilogue.FUSED, channels=channels, stream=stream, words=words,
                            **{name: put(d.memory, array) for name, array in arrays.items()})  # fmt: skip
        params = GatedAdd(x=d.memory.put(x), gate=d.memory.put(gate), pixels=rows, multiply=shifted, epilogue=epilogue)
        d("gated_add", params, 3 * rows)
        with np.errstate(invalid="ignore", over="ignore"):
            t = np.repeat(floats(gate), rows, 0) * scale * floats(x)
            t = (t * floats(residual) if shifted else t) + bias + floats(residual)
        assert np.array_equal(floats(stream.numpy()), floats(stored(t, dtype)), equal_nan=True)
        assert np.array_equal(words.numpy(), oracles.bitpack(t, shift))


@chips
@pytest.mark.parametrize("rows, channels", [(3, 64), (5, 70), (2, 1)])
def test_bitunpack(device, chip, rows, channels):
    signs = np.random.default_rng(2).choice([-1, 1], (rows, channels))
    for dtype in (*DTYPES, "i8"):
        d = device("bitpack.cu", chip)
        expected = signs.astype(np.int8) if dtype == "i8" else stored(signs.astype(np.float32), dtype)
        words, y = d.memory.put(oracles.pack(signs < 0)), d.memory.empty(expected.shape, expected.dtype)
        d("bitunpack", Bitunpack(words=words, channels=channels, y=y), rows)
        assert np.array_equal(y.numpy(), expected)


@cases
def test_sign_ste(device, chip, rows, channels, shifted):
    for dtype in DTYPES:
        d = device("sign_ste.cu", chip)
        x, shift = rows_of(rows, channels, dtype), shift_of(channels, shifted)
        out = d.memory.empty(x.shape, x.dtype)
        d("sign_ste", SignSte(x=d.memory.put(x), shift=put(d.memory, shift), channels=channels, out=out), rows)
        with np.errstate(invalid="ignore"):
            expected = np.where(oracles.value(floats(x), shift) < 0, np.float32(-1), np.float32(1))
        assert np.array_equal(out.numpy(), stored(expected, dtype))


@surrogates
@cases
def test_sign_ste_backward(device, chip, surrogate, rows, channels, shifted):
    for dtype in DTYPES:
        d = device("sign_ste.cu", chip)
        x, shift = rows_of(rows, channels, dtype), shift_of(channels, shifted)
        grad = stored(np.random.default_rng(3).standard_normal(x.shape), dtype)
        out = d.memory.empty(x.shape, x.dtype)
        params = SignSte(x=d.memory.put(x), shift=put(d.memory, shift), channels=channels, out=out,
                         grad=d.memory.put(grad), surrogate=SURROGATES.index(surrogate))  # fmt: skip
        d("sign_ste_backward", params, rows)
        with np.errstate(invalid="ignore"):
            factor = oracles.factor(oracles.value(floats(x), shift), surrogate).astype(np.float32)
        assert np.array_equal(out.numpy(), stored(floats(grad) * factor, dtype))


@surrogates
@cases
def test_residue(device, chip, surrogate, rows, channels, shifted):
    """Words and what the backward keeps from one read of x, and the gradient from that."""
    for dtype in DTYPES:
        d = device("sign_ste.cu", chip)
        x, shift = rows_of(rows, channels, dtype), shift_of(channels, shifted)
        kept = oracles.residue(floats(x), shift, surrogate)
        words, residue = words_for(d.memory, rows, channels), d.memory.empty(kept.shape, kept.dtype)
        number = SURROGATES.index(surrogate)
        d("ste_residue", SignSte(x=d.memory.put(x), shift=put(d.memory, shift), channels=channels, words=words,
                                 residue=residue, surrogate=number), rows)  # fmt: skip
        assert np.array_equal(words.numpy(), oracles.bitpack(floats(x), shift))
        assert np.array_equal(residue.numpy(), kept)

        grad = stored(np.random.default_rng(3).standard_normal(x.shape), dtype)
        out = d.memory.empty(x.shape, x.dtype)
        d("ste_residue_backward", SignSte(channels=channels, out=out, grad=d.memory.put(grad), residue=residue,
                                          surrogate=number), rows)  # fmt: skip
        if surrogate == "clip":
            factor = (oracles.unpack(kept, channels) < 0).astype(np.float32)
        else:
            factor = kept.astype(np.float32) * np.float32(2 / 255)
        assert np.array_equal(out.numpy(), stored(floats(grad) * factor, dtype))


@chips
@dtypes
def test_mean_abs(device, chip, dtype):
    for length in (1, 31, 1000):
        d = device("sign_ste.cu", chip)
        w = stored(np.random.default_rng(4).standard_normal((5, length)), dtype)
        mean = d.memory.empty(5, np.float32)
        d("mean_abs", MeanAbs(w=d.memory.put(w), length=length, mean=mean), 5)
        np.testing.assert_allclose(mean.numpy(), np.abs(floats(w).astype(np.float64)).mean(1), rtol=1.2e-7)


# planes, height, width, elements (1: NCHW, C: channels last), levels
POOLS = [
    (2, 7, 9, 1, [(1, 1), (2, 3), (7, 9)]),
    (1, 12, 10, 5, [(5, 4), (3, 10), (12, 1), (1, 2), (6, 5)]),
    (3, 33, 17, 1, [(32, 16)]),
    (2, 6, 5, 40, [(4, 4), (2, 2)]),
]


def pool_inputs(planes: int, height: int, width: int, elements: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((planes, height, width, elements)).astype(np.float32)


def levels_argument(outputs: list[Buffer]):
    return (PoolLevel * len(outputs))(*(PoolLevel(h=b.shape[1], w=b.shape[2], data=b) for b in outputs))


def pooled(x: np.ndarray, h: int, w: int) -> np.ndarray:
    return np.moveaxis(oracles.pool(np.moveaxis(x.astype(np.float64), -1, 1), h, w), 1, -1)


def spread(grad: np.ndarray, height: int, width: int) -> np.ndarray:
    """The gradient of `pooled`: each bin's share to each of its pixels."""
    planes, h, w, elements = grad.shape
    out = np.zeros((planes, height, width, elements))
    for i in range(h):
        for j in range(w):
            top, bottom = i * height // h, -(-(i + 1) * height // h)
            left, right = j * width // w, -(-(j + 1) * width // w)
            share = grad[:, i : i + 1, j : j + 1] / ((bottom - top) * (right - left))
            out[:, top:bottom, left:right] += share
    return out


TOLERANCE = {"f32": 2e-6, "bf16": 2**-8, "f16": 2**-10}  # of values around 1
POOL_CASES = [(80, "f32", shape) for shape in POOLS]
POOL_CASES += [(80, "bf16", POOLS[0]), (80, "f16", POOLS[3]), (120, "f32", POOLS[1]), (120, "bf16", POOLS[3])]
POOL_CASES += [(chip, "f32", POOLS[1]) for chip in (75, 90)]
pools = pytest.mark.parametrize("chip, dtype, shape", POOL_CASES, ids=str)


@pools
def test_multires_pool2d(device, chip, dtype, shape):
    planes, height, width, elements, sizes = shape
    d = device("multires_pool2d.cu", chip)
    x = stored(pool_inputs(planes, height, width, elements), dtype)
    levels = [d.memory.empty((planes, h, w, elements), x.dtype) for h, w in sizes]
    d(
        "multires_pool2d",
        d.memory.put(x),
        DTYPES[dtype],
        planes,
        height,
        width,
        elements,
        levels_argument(levels),
        len(sizes),
    )
    for (h, w), level in zip(sizes, levels, strict=True):
        np.testing.assert_allclose(floats(level.numpy()), pooled(floats(x), h, w), rtol=0, atol=4 * TOLERANCE[dtype])


@pools
def test_multires_pool2d_backward(device, chip, dtype, shape):
    planes, height, width, elements, sizes = shape
    d = device("multires_pool2d.cu", chip)
    grads = [stored(pool_inputs(planes, h, w, elements, seed=h), dtype) for h, w in sizes]
    grad_x = d.memory.empty((planes, height, width, elements), grads[0].dtype)
    levels = levels_argument([d.memory.put(g) for g in grads])
    d("multires_pool2d_backward", grad_x, DTYPES[dtype], planes, height, width, elements, levels, len(sizes))
    expected = sum(spread(floats(g).astype(np.float64), height, width) for g in grads)
    np.testing.assert_allclose(floats(grad_x.numpy()), expected, rtol=0, atol=8 * TOLERANCE[dtype])
