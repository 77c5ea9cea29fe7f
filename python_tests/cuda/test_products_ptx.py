"""Convolution and linear kernels of every route: PTX of each chip, launched by the real host code, against numpy."""

import ctypes
from pathlib import Path

import numpy as np
import oracles
import pytest
from ptx.entry_points import Device
from ptx.params import BinaryLinear, ConvGeometry, Epilogue
from ptx_runner import Buffer, Report

pytestmark = pytest.mark.ci
CSRC = Path(__file__).resolve().parents[2] / "csrc"

ROUTES = {75: "b1 xor m8n8k128", 80: "b1 and m16n8k256", 90: "b1 and m16n8k256", 120: "s8 m16n8k32"}
SMALL = "integer units"

# N, C, H, W, K, R, S, G, stride, pad, dilation, pad_value
LARGE_SHAPES = {
    "3x3": (1, 64, 9, 8, 40, 3, 3, 1, 1, 1, 1, 0),
    "3x3, pad -1": (1, 128, 8, 8, 32, 3, 3, 1, 1, 1, 1, -1),
    "1x1": (2, 320, 6, 7, 33, 1, 1, 1, 1, 0, 1, 0),
    "groups, stride 2": (1, 192, 17, 16, 72, 3, 3, 2, 2, 1, 1, 1),
    "odd channels, dilated": (1, 75, 12, 12, 35, 3, 2, 1, 1, 2, 2, 0),
}
SMALL_SHAPES = {
    "few pixels": (1, 70, 3, 4, 9, 3, 3, 1, 1, 1, 1, 0),
    "depthwise": (1, 37, 6, 5, 37, 3, 3, 37, 1, 1, 1, -1),
    "narrow groups": (1, 24, 5, 5, 12, 2, 3, 3, 2, 1, 1, 0),
}
CASES = [(chip, name) for chip in (80, 120) for name in LARGE_SHAPES]
CASES += [(75, "3x3"), (75, "groups, stride 2"), (90, "odd channels, dilated")]
CASES += [(80, name) for name in SMALL_SHAPES] + [(120, "narrow groups")]


def out_size(size: int, filter_: int, stride: int, pad: int, dilation: int) -> int:
    return (size + 2 * pad - dilation * (filter_ - 1) - 1) // stride + 1


def geometry(n, c, h, w, k, r, s, g, stride, pad, dilation, pad_value) -> ConvGeometry:
    oh, ow = (out_size(size, f, stride, pad, dilation) for size, f in ((h, r), (w, s)))
    return ConvGeometry(N=n, C=c, H=h, W=w, K=k, R=r, S=s, G=g, stride_h=stride, stride_w=stride, pad_h=pad, pad_w=pad,
                        dilation_h=dilation, dilation_w=dilation, pad_value=pad_value, OH=oh, OW=ow)  # fmt: skip


def signs(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1]), shape)


class Convolution:
    """Inputs on a device, and what should come out."""

    def __init__(self, device: Device, shape: tuple[int, ...]) -> None:
        self.device, self.geometry = device, geometry(*shape)
        n, c, h, w, k, r, s, g, stride, pad, dilation, pad_value = shape
        x, weight = signs(n, c, h, w, seed=0), signs(k, c // g, r, s, seed=1)
        self.dot = oracles.conv2d(x, weight, (stride, stride), (pad, pad), (dilation, dilation), g, pad_value)
        self.x = device.memory.put(oracles.pack(np.moveaxis(x, 1, -1) < 0))
        self.weight = device.memory.put(oracles.pack(np.moveaxis(weight, 1, -1) < 0))

    def route(self, epilogue: Epilogue) -> str:
        found, _ = self.device.entry_points.call(
            "binary_conv2d_route", self.geometry, epilogue, self.device.stream, result=ctypes.c_char_p
        )
        return found.decode()

    def run(self, epilogue: Epilogue) -> Report:
        d = self.device
        size, _ = d.entry_points.call(
            "binary_conv2d_workspace", self.geometry, epilogue, d.stream, result=ctypes.c_int64
        )
        return d("binary_conv2d", self.geometry, self.x, self.weight, epilogue, d.memory.empty(max(size, 1)))


def shape_of(name: str) -> tuple[int, ...]:
    return {**LARGE_SHAPES, **SMALL_SHAPES}[name]


@pytest.mark.parametrize("chip, name", CASES)
def test_integer_convolution(device, chip, name):
    c = Convolution(device("binary_conv2d.cu", chip), shape_of(name))
    pixels = np.moveaxis(c.dot, 1, -1)
    sums = c.device.memory.empty(pixels.shape, np.int32)
    epilogue = Epilogue(kind=Epilogue.INTEGER, channels=pixels.shape[-1], sums=sums)
    report = c.run(epilogue)
    assert c.route(epilogue) == (ROUTES[chip] if name in LARGE_SHAPES else SMALL)
    assert (report.mma > 0) == (name in LARGE_SHAPES)
    assert np.array_equal(sums.numpy(), pixels)


def fused(device: Device, dot: np.ndarray) -> tuple[Epilogue, Buffer, Buffer, tuple[np.ndarray, np.ndarray]]:
    """A fused epilogue with all of its parts, its outputs, and what should be in them; dot [rows, K]."""
    rng, memory, k = np.random.default_rng(2), device.memory, dot.shape[1]
    scale, bias, shift = (rng.standard_normal(k).astype(np.float32) for _ in range(3))
    rprelu, residual = (rng.standard_normal((rows, k)).astype(np.float32) for rows in (3, len(dot)))
    stream, words = memory.empty(dot.shape, np.float32), memory.empty((len(dot), -(-k // 64)), np.int64)
    vectors = {"scale": scale, "bias": bias, "rprelu": rprelu, "next_shift": shift, "residual": residual}
    epilogue = Epilogue(kind=Epilogue.FUSED, channels=k, stream=stream, words=words,
                        **{name: memory.put(v) for name, v in vectors.items()})  # fmt: skip
    return epilogue, stream, words, oracles.epilogue(dot, scale, bias, residual, rprelu, shift)


@pytest.mark.parametrize("chip, name", [(75, "3x3"), (80, "3x3"), (120, "1x1"), (80, "few pixels")])
def test_fused_convolution(device, chip, name):
    c = Convolution(device("binary_conv2d.cu", chip), shape_of(name))
    dot = np.moveaxis(c.dot, 1, -1).reshape(-1, c.dot.shape[1])
    epilogue, stream, words, (y, bits) = fused(c.device, dot)
    c.run(epilogue)
    assert np.array_equal(stream.numpy(), y)
    assert np.array_equal(words.numpy(), bits)


@pytest.mark.parametrize(
    "chip, m, k, c", [(80, 1, 37, 700), (80, 4, 64, 64), (120, 3, 70, 130), (75, 1, 5, 1), (90, 2, 33, 65)]
)
def test_linear(device, chip, m, k, c):
    d = device("binary_linear.cu", chip)
    x, weight = signs(m, c, seed=0), signs(k, c, seed=1)
    packed = [d.memory.put(oracles.pack(v < 0)) for v in (x, weight)]
    sums = d.memory.empty((m, k), np.int32)
    params = BinaryLinear(x=packed[0], weight=packed[1], M=m, K=k, C=c)
    d("binary_linear", params, Epilogue(kind=Epilogue.INTEGER, channels=k, sums=sums))
    assert np.array_equal(sums.numpy(), x @ weight.T)
    epilogue, stream, words, (y, bits) = fused(d, x @ weight.T)
    d("binary_linear", params, epilogue)
    assert np.array_equal(stream.numpy(), y)
    assert np.array_equal(words.numpy(), bits)


@pytest.mark.parametrize("chip", [80, 120])
def test_tiles_meet_no_bank_conflicts(device, chip):
    """Copies of 16 bytes, bytes made of bits, and ldmatrix; the sums of a finished tile may meet some."""
    c = Convolution(device("binary_conv2d.cu", chip), (1, 256, 14, 14, 64, 3, 3, 1, 1, 1, 1, 0))
    report = c.run(Epilogue(kind=Epilogue.INTEGER, channels=64, sums=c.device.memory.empty((14 * 14, 64), np.int32)))
    source = (CSRC / "cuda" / "conv_tensor_core.h").read_text().splitlines()
    share = next(i for i, line in enumerate(source, 1) if "tile.share(" in line)
    assert report.mma > 0
    assert not {at: n for at, n in report.conflicts_at.items() if not at.endswith(f"conv_tensor_core.h:{share}")}
