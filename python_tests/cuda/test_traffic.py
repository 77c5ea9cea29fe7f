"""Global memory traffic in 32-byte sectors, counted in the PTX runner, against each input and each output once."""

import numpy as np
import pytest
from ptx.entry_points import Device
from ptx.memory import SECTOR
from ptx.params import F32, Bitpack, Epilogue, GatedAdd, PoolLevel, SignSte
from ptx_runner import Buffer, Report

pytestmark = pytest.mark.ci

MOST = 1.25
MULTIPROCESSORS = 132  # of an H100
DTYPES = {"f32": np.float32, "bf16": np.uint16}


def ratio(report: Report, *once: Buffer) -> float:
    least = sum(-(-int(np.prod(b.shape)) * b.dtype.itemsize // SECTOR) for b in once)
    return (report.load_sectors + report.store_sectors) / least


def image(device: Device, channels: int, side: int, dtype: str) -> tuple[int, Buffer]:
    rows = side * side
    x = np.random.default_rng(0).standard_normal((rows, channels)).astype(np.float32)
    return rows, device.memory.put(x if dtype == "f32" else (x.view(np.uint32) >> 16).astype(np.uint16))


IMAGES = [(64, 28), (64, 56), (256, 28), (256, 56)]
CASES = [(80, "f32", *image) for image in IMAGES] + [(80, "bf16", 64, 28), (120, "f32", 64, 28)]
images = pytest.mark.parametrize("chip, dtype, channels, side", CASES)


@images
def test_bitpack(device, chip, channels, side, dtype):
    d = device("bitpack.cu", chip, MULTIPROCESSORS)
    rows, x = image(d, channels, side, dtype)
    shift, words = d.memory.put(np.ones(channels, np.float32)), d.memory.empty((rows, channels // 64), np.int64)
    report = d("bitpack", Bitpack(x=x, shift=shift, channels=channels, words=words), rows)
    assert ratio(report, x, words) <= MOST
    assert report.bank_conflicts == 0


@images
def test_gated_add(device, chip, channels, side, dtype):
    d = device("gated_add.cu", chip, MULTIPROCESSORS)
    rows, x = image(d, channels, side, dtype)
    (_, residual), (_, gate) = image(d, channels, side, dtype), image(d, channels, 1, dtype)
    stream, words = d.memory.empty(x.shape, x.dtype), d.memory.empty((rows, channels // 64), np.int64)
    factors = {name: d.memory.put(np.ones(channels, np.float32)) for name in ("scale", "bias", "next_shift")}
    epilogue = Epilogue(
        kind=Epilogue.FUSED, channels=channels, residual=residual, stream=stream, words=words, **factors
    )
    report = d("gated_add", GatedAdd(x=x, gate=gate, pixels=rows, epilogue=epilogue), rows)
    assert ratio(report, x, residual, stream, words) <= MOST
    assert report.bank_conflicts == 0


@images
def test_sign_ste(device, chip, channels, side, dtype):
    """Forward, and the training step's pair: words and residue, then the gradient from the residue."""
    d = device("sign_ste.cu", chip, MULTIPROCESSORS)
    rows, x = image(d, channels, side, dtype)
    shift = d.memory.put(np.ones(channels, np.float32))
    out = d.memory.empty(x.shape, x.dtype)
    assert ratio(d("sign_ste", SignSte(x=x, shift=shift, channels=channels, out=out), rows), x, out) <= MOST

    words, inside = (d.memory.empty((rows, channels // 64), np.int64) for _ in range(2))
    params = SignSte(x=x, shift=shift, channels=channels, words=words, residue=inside, grad=x, out=out)
    assert ratio(d("ste_residue", params, rows), x, words, inside) <= MOST
    assert ratio(d("ste_residue_backward", params, rows), x, inside, out) <= MOST

    quanta = d.memory.empty((rows, channels), np.uint8)
    params = SignSte(x=x, shift=shift, channels=channels, words=words, residue=quanta, grad=x, out=out, surrogate=1)
    assert ratio(d("ste_residue", params, rows), x, words, quanta) <= MOST
    assert ratio(d("ste_residue_backward", params, rows), x, quanta, out) <= MOST


@pytest.mark.parametrize("chip", [80, pytest.param(120, marks=pytest.mark.slow)])
def test_multires_pool2d(device, chip):
    d = device("multires_pool2d.cu", chip, MULTIPROCESSORS)
    x = d.memory.put(np.random.default_rng(0).standard_normal((1, 224, 224)).astype(np.float32))
    levels = [d.memory.empty((1, n, n), np.float32) for n in (192, 160, 128)]
    argument = (PoolLevel * 3)(*(PoolLevel(h=b.shape[1], w=b.shape[2], data=b) for b in levels))
    assert ratio(d("multires_pool2d", x, F32, 1, 224, 224, 1, argument, 3), x, *levels) <= MOST
    back = [d.memory.put(b.numpy()) for b in levels]
    argument = (PoolLevel * 3)(*(PoolLevel(h=b.shape[1], w=b.shape[2], data=b) for b in back))
    grad_x = d.memory.empty(x.shape, np.float32)
    assert ratio(d("multires_pool2d_backward", grad_x, F32, 1, 224, 224, 1, argument, 3), grad_x, *back) <= MOST
