"""The PTX runner against numpy, and against kernels with a planted bug."""

import itertools

import numpy as np
import pytest
from ptx_runner import Buffer, Memory, PtxError, Report, launch

pytestmark = pytest.mark.ci

CHIPS = (80, 120)  # nvcc has two code generators: one up to sm_90, one from sm_100


@pytest.fixture(params=CHIPS, ids="sm_{}".format)
def code(request, ptx) -> str:
    return ptx("samples.cu", request.param)


@pytest.fixture
def memory() -> Memory:
    return Memory(1 << 22)


def bits32(rows: np.ndarray) -> np.ndarray:
    """Bool [..., n] -> uint32 [..., ceil(n / 32)]"""
    pad = [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % 32)]
    return np.packbits(np.pad(rows, pad), axis=-1, bitorder="little").view(np.uint32)


def test_ballot(code, memory):
    x = np.random.default_rng(0).standard_normal((7, 77)).astype(np.float32)
    words = memory.empty((7, 3), np.uint32)
    launch(memory, code, "pack_bits", 6, 128, [memory.put(x), words, 7, 77])
    assert np.array_equal(words.numpy(), bits32(x > 0))


def gemm(code, memory, bug="(samples::Bug)0") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 2**32, (n, 11), dtype=np.uint32) for n in (19, 13))
    c = memory.empty((19, 13), np.int32)
    launch(memory, code, f"tiled_gemm<{bug}>", (2, 3), (8, 8), [memory.put(a), memory.put(b), c, 19, 13, 11])
    return c.numpy(), 32 * 11 - 2 * np.bitwise_count(a[:, None] ^ b).sum(-1, dtype=np.int32)


def test_tiled_gemm(code, memory):
    found, expected = gemm(code, memory)
    assert np.array_equal(found, expected)


def row_sum(code, memory, variant="true, false") -> tuple[np.ndarray, np.ndarray, Report]:
    x = np.random.default_rng(2).integers(-99, 99, (9, 132)).astype(np.float32)
    out = memory.empty(9, np.float32)
    report = launch(memory, code, f"row_sum<{variant}>", 9, 64, [memory.put(x), out, 132], shared=4 * 132)
    return out.numpy(), x.sum(1), report


def test_row_sum_with_async_copies_and_shuffles(code, memory):
    found, expected, report = row_sum(code, memory)
    assert np.array_equal(found, expected)
    # Rows of 528 bytes begin on every other sector's middle; the first warp copies 512 of them, the second 16.
    assert report.load_sectors == 5 * 16 + 4 * 17 + 9 and report.store_sectors == 9


def test_pipelined_copies(code, memory):
    x = np.random.default_rng(3).integers(-99, 99, (5, 64), dtype=np.int32)
    out = memory.empty(64, np.int32)
    launch(memory, code, "pipelined_sum", 1, 64, [memory.put(x), out, 5])
    assert np.array_equal(out.numpy(), (x[:, ::-1] * np.arange(1, 6)[:, None]).sum(0))


def test_atomics_return_what_was_there(code, memory):
    x = np.random.default_rng(4).integers(0, 16, 300, dtype=np.uint8)
    count, place = memory.put(np.zeros(16, np.int32)), memory.empty(300, np.int32)
    launch(memory, code, "histogram", 3, 128, [memory.put(x), count, place, 300])
    assert np.array_equal(count.numpy(), np.bincount(x, minlength=16))
    for block, value in itertools.product(range(3), range(16)):
        here = slice(128 * block, 128 * (block + 1))
        places = place.numpy()[here][x[here] == value]
        assert np.array_equal(np.sort(places), np.arange(len(places)))


def bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> bits of bfloat16, to nearest even, from the neighbours."""
    low = x.view(np.uint32) >> 16
    below, above = ((low + k << 16).astype(np.uint32).view(np.float32).astype(np.float64) for k in (0, 1))
    above = np.where(np.isinf(above), np.copysign(2.0**128, above), above)
    nearer = np.abs(above - x) < np.abs(x - below)
    tie = np.abs(above - x) == np.abs(x - below)
    return (low + (nearer | tie & (low % 2 == 1))).astype(np.uint16)


@pytest.mark.parametrize("fraction", [0x1000, 0x8000, 0x8001])
def test_rounding_to_16_bits(code, memory, fraction):
    """Every sign, exponent and upper half of a float32, with lower halves at and around the ties."""
    x = (np.arange(1 << 16, dtype=np.uint32) << 16 | fraction).view(np.float32)
    half, brain = memory.empty(1 << 16, np.uint16), memory.empty(1 << 16, np.uint16)
    launch(memory, code, "convert", 256, 256, [memory.put(x), half, brain, 1 << 16])
    nan = np.isnan(x)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.array_equal(half.numpy()[~nan], x.astype(np.float16).view(np.uint16)[~nan])
        assert np.array_equal(brain.numpy()[~nan], bf16(x)[~nan])
    assert (half.numpy()[nan] == 0x7FFF).all() and (brain.numpy()[nan] == 0x7FFF).all()


def test_all_16_bit_floats(code, memory):
    patterns = memory.put(np.arange(1 << 16, dtype=np.uint16))
    from_half, from_bf16 = memory.empty(1 << 16, np.float32), memory.empty(1 << 16, np.float32)
    launch(memory, code, "widen", 256, 256, [patterns, patterns, from_half, from_bf16])
    raw = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(from_half.numpy(), raw.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(from_bf16.numpy(), (raw.astype(np.uint32) << 16).view(np.float32))


# Fragments as the PTX manual gives them, element by element: (row, column) of element i of a lane.


def b1_a(lane: int, i: int) -> tuple[int, int]:  # m16n8k256: a0..a127
    row = lane // 4 + (0 if i < 32 or 64 <= i < 96 else 8)
    return row, lane % 4 * 32 + i % 32 + (0 if i < 64 else 128)


def b1_b(lane: int, i: int) -> tuple[int, int]:  # b0..b63
    return lane % 4 * 32 + i % 32 + (0 if i < 32 else 128), lane // 4


def s8_a(lane: int, i: int) -> tuple[int, int]:  # m16n8k32: a0..a15
    row = lane // 4 + (0 if i < 4 or 8 <= i < 12 else 8)
    return row, lane % 4 * 4 + (i & 3) + (0 if i < 8 else 16)


def s8_b(lane: int, i: int) -> tuple[int, int]:  # b0..b7
    return lane % 4 * 4 + (i & 3) + (0 if i < 4 else 16), lane // 4


def accumulator(lane: int, i: int) -> tuple[int, int]:
    return lane // 4 + (0 if i < 2 else 8), lane % 4 * 2 + (i & 1)


def lane_elements(registers: np.ndarray, type_: str) -> np.ndarray:
    """[32, registers] -> [32, elements]"""
    octets = registers.view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little") if type_ == "b1" else octets.view(np.int8)


def matrix(elements: np.ndarray, place, shape: tuple[int, int]) -> np.ndarray:
    out = np.full(shape, -999, np.int64)
    for lane, i in itertools.product(range(32), range(elements.shape[1])):
        out[place(lane, i)] = elements[lane, i]
    assert (out != -999).all()
    return out


def run_mma(code, memory, variant: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    a, b = (rng.integers(0, 2**32, (32, n), dtype=np.uint32) for n in (4, 2))
    c = rng.integers(-99, 99, (32, 4), dtype=np.int32)
    d = memory.put(c)
    launch(memory, code, f"mma<{variant}>", 1, 32, [memory.put(a), memory.put(b), d])
    return a, b, c, d.numpy()


def expected_mma(a, b, c, kind: str) -> np.ndarray:
    type_, places, k = ("s8", (s8_a, s8_b), 32) if kind == "s8" else ("b1", (b1_a, b1_b), 256)
    left = matrix(lane_elements(a, type_), places[0], (16, k))
    right = matrix(lane_elements(b, type_), places[1], (k, 8))
    if kind == "xor":
        product = left @ (1 - right) + (1 - left) @ right
    else:
        product = left @ right
    return product + matrix(c, accumulator, (16, 8))


@pytest.mark.parametrize("kind, number", [("and", 0), ("xor", 1), ("s8", 2)])
def test_mma_fragments(code, memory, kind, number):
    a, b, c, d = run_mma(code, memory, f"(samples::Mma){number}, false")
    assert np.array_equal(matrix(d, accumulator, (16, 8)), expected_mma(a, b, c, kind))


def test_ldmatrix(code, memory):
    x = np.random.default_rng(6).integers(0, 2**32, (4, 8, 4), dtype=np.uint32)  # matrix, row, word
    out = memory.empty((8, 4, 4), np.uint32)  # lane / 4, lane % 4, register
    report = launch(memory, code, "load_matrices", 1, 32, [memory.put(x), out])
    assert np.array_equal(out.numpy(), x.transpose(1, 2, 0))
    assert report.load_sectors == 4 * 16


@pytest.mark.parametrize("stride, conflicts", [(1, 0), (2, 1), (3, 0), (8, 7), (32, 31)])
def test_counts(code, memory, stride, conflicts):
    x, out = memory.put(np.ones(32 * stride, np.float32)), memory.put(np.zeros(32 * stride, np.float32))
    report = launch(memory, code, "strided", 1, 32, [x, out, stride], shared=128 * stride)
    assert report.bank_conflicts == conflicts
    assert report.load_sectors == 4 * stride and report.load_requests == stride
    assert report.store_sectors == min(4 * stride, 32) and report.store_requests == 1


# Planted bugs. Each message names the block, the thread and the source line.


def fails(code, memory, kernel: str, block: int, args: list[object], *words: str) -> None:
    with pytest.raises(PtxError) as caught:
        launch(memory, code, kernel, 1, block, args)
    for word in (*words, "block 0 thread ", "samples.cu:"):
        assert word in str(caught.value)


def test_finds_a_missing_barrier(code, memory):
    with pytest.raises(
        PtxError,
        match=r"race in shared memory: write after another thread's read .*block \d+ thread \d+.*samples.cu:\d+",
    ):
        gemm(code, memory, "(samples::Bug)1")


def test_finds_a_write_past_the_end(code, memory):
    with pytest.raises(PtxError, match=r"global access out of bounds by block \d+ thread \d+.*`st\..*samples.cu:\d+"):
        gemm(code, memory, "(samples::Bug)2")


def test_finds_a_write_past_dynamic_shared_memory(code, memory):
    with pytest.raises(PtxError, match=r"shared access out of bounds by block 0 thread \d+.*cp\.async.*samples.cu:\d+"):
        row_sum(code, memory, "true, true")


def test_finds_a_missing_wait(code, memory):
    with pytest.raises(PtxError, match=r"where a cp.async has not been waited for by block 0 thread 0.*samples.cu:\d+"):
        row_sum(code, memory, "false, false")


def test_finds_a_missing_syncwarp(code, memory):
    x, out = memory.put(np.arange(32, dtype=np.int32)), memory.empty(32, np.int32)
    launch(memory, code, "exchange<true>", 1, 32, [x, out])
    assert np.array_equal(out.numpy(), np.arange(32)[::-1])
    fails(code, memory, "exchange<false>", 32, [x, out], "race in shared memory: read after another thread's write")


def test_finds_an_absent_lane(code, memory):
    fails(code, memory, "half_warp_ballot", 32, [memory.empty(16, np.uint32)], "lanes of the mask do not come together")


def test_finds_a_barrier_after_a_return(code, memory):
    fails(code, memory, "barrier_after_return", 64, [memory.empty(64, np.int32), 40], "has returned")
    launch(memory, code, "barrier_after_return", 1, 64, [memory.empty(64, np.int32), 64])


def test_finds_two_barriers(code, memory):
    fails(code, memory, "two_barriers", 64, [memory.empty(64, np.int32)], "different barriers")


def test_finds_swapped_registers(code, memory):
    """By value: nothing else can be wrong with it."""
    a, b, c, d = run_mma(code, memory, "(samples::Mma)0, true")
    assert not np.array_equal(matrix(d, accumulator, (16, 8)), expected_mma(a, b, c, "and"))


def test_finds_unwritten_memory(code, memory):
    fails(code, memory, "unwritten_shared", 64, [memory.empty(64, np.int32)], "shared memory read before", "thread 7")
    out: Buffer = memory.empty(64, np.int32)
    fails(
        code, memory, "exchange<true>", 32, [memory.empty(32, np.int32), out], "global memory read before", "thread 0"
    )


def test_finds_misaligned_access(code, memory):
    x = memory.put(np.zeros(200, np.uint8))
    fails(code, memory, "misaligned", 32, [x, memory.empty(32, np.int32)], "misaligned global access of 4 bytes")


def test_refuses_wrong_arguments_and_names(code, memory):
    with pytest.raises(PtxError, match="takes 1 arguments, not 0"):
        launch(memory, code, "two_barriers", 1, 64, [])
    with pytest.raises(PtxError, match="3 kernels match"):
        launch(memory, code, "tiled_gemm", 1, 64, [])
    with pytest.raises(PtxError, match="an argument of 3 bytes, 8 are expected"):
        launch(memory, code, "two_barriers", 1, 64, [b"abc"])
