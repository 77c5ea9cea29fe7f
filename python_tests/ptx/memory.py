"""Memory of the PTX runner: checks of bounds, alignment, uninitialised reads, races; counts of traffic."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SECTOR = 32  # bytes that global memory moves at least
BANKS = 32  # of shared memory, 4 bytes wide

WINDOWS = {"global": 0, "shared": 1 << 40, "local": 1 << 41, "param": 1 << 42}  # where generic addresses begin

Fail = Callable[[str, np.ndarray], None]  # what, which of the accessing threads


class Space:
    """Bytes of one address space, with maps of what is allocated and what has been written."""

    def __init__(self, name: str, size: int, allocated: bool = True) -> None:
        self.name = name
        self.data = np.full(align(size), 0xCD, np.uint8)
        self.allocated = np.full(self.data.size, allocated, np.uint8)
        self.allocated[size:] = 0
        self.written = np.zeros(self.data.size, np.uint8)

    def check(self, at: np.ndarray, size: int, fail: Fail) -> None:
        """Accesses of `size` bytes at `at` lie in allocated memory and are aligned to their size."""
        outside = (at < 0) | (at + size > self.data.size)
        if outside.any():
            fail(f"{self.name} access out of bounds", outside)
        if (at % size).any():
            fail(f"misaligned {self.name} access of {size} bytes", at % size != 0)
        missing = ~every(self.allocated, at, size)
        if missing.any():
            fail(f"{self.name} access out of bounds", missing)

    def load(self, at: np.ndarray, size: int, fail: Fail) -> np.ndarray:
        """One unsigned integer of `size` <= 8 bytes from each place; check first."""
        unwritten = ~every(self.written, at, size)
        if unwritten.any():
            fail(f"{self.name} memory read before anything was written to it", unwritten)
        return self.data.view(f"u{size}")[at // size]

    def store(self, at: np.ndarray, size: int, values: np.ndarray) -> None:
        self.data.view(f"u{size}")[at // size] = values
        mark(self.written, at, size)


def align(size: int) -> int:
    return -(-size // 16) * 16


def every(flags: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
    """Whether all `size` flags from each place on are 1; places are aligned."""
    unit = min(size, 8)
    ones = int.from_bytes(b"\1" * unit, "little")
    result = np.ones(len(at), bool)
    for k in range(size // unit):
        result &= flags.view(f"u{unit}")[at // unit + k] == ones
    return result


def mark(flags: np.ndarray, at: np.ndarray, size: int, flag: int = 1) -> None:
    unit = min(size, 8)
    for k in range(size // unit):
        flags.view(f"u{unit}")[at // unit + k] = int.from_bytes(bytes([flag]) * unit, "little")


@dataclass(frozen=True)
class Buffer:
    """A piece of global memory; as a kernel argument, its address."""

    memory: "Memory"
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __int__(self) -> int:
        return self.address

    def numpy(self) -> np.ndarray:
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        return self.memory.data[self.address : self.address + size].view(self.dtype).reshape(self.shape).copy()


class Memory(Space):
    """Global memory: a heap with 256 bytes between buffers that nobody may touch."""

    def __init__(self, size: int = 1 << 26) -> None:
        super().__init__("global", 0)
        self.data = np.zeros(size, np.uint8)
        self.allocated = np.zeros(size, np.uint8)
        self.written = np.zeros(size, np.uint8)
        self.top = 4096

    def empty(self, shape: int | tuple[int, ...], dtype: np.typing.DTypeLike = np.uint8) -> Buffer:
        """Room for an output: reading it before writing it is an error. Ends at its last byte, starts at 256 k."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        buffer = Buffer(self, self.top, shape, np.dtype(dtype))
        end = self.top + int(np.prod(shape)) * buffer.dtype.itemsize
        if end + 512 > self.data.size:
            raise MemoryError("give Memory a larger size")
        self.allocated[self.top : end] = 1
        self.data[self.top : end] = 0xCD
        self.top = (end + 511) // 256 * 256
        return buffer

    def put(self, array: np.ndarray) -> Buffer:
        array = np.ascontiguousarray(array)
        buffer = self.empty(array.shape, array.dtype)
        here = slice(buffer.address, buffer.address + array.nbytes)
        self.data[here], self.written[here] = array.reshape(-1).view(np.uint8), 1
        return buffer


@dataclass(frozen=True)
class Actors:
    """Who accesses shared memory, one entry per access, and how many __syncthreads and __syncwarp they have passed."""

    thread: np.ndarray  # -1: several threads of the warp at once
    warp: np.ndarray
    interval: np.ndarray
    sync: np.ndarray


class Accesses:
    """Per granule of shared memory, the last actor of one kind: reads, writes or atomics.

    Several actors of one interval are kept as thread -1, and warp -1 where their warps differ.
    """

    THREAD, WARP, INTERVAL, SYNC = range(4)

    def __init__(self, granules: int) -> None:
        self.last = np.full((granules, 4), -2, np.int32)

    def conflicts(self, at: np.ndarray, who: Actors) -> np.ndarray:
        """Where somebody else was here with neither __syncthreads nor, in the same warp, __syncwarp in between."""
        last = self.last[at]
        other = (last[:, self.THREAD] != who.thread) | (who.thread == -1)
        return self._unordered(last, who) & other

    def _unordered(self, last: np.ndarray, who: Actors) -> np.ndarray:
        ordered = (last[:, self.WARP] == who.warp) & (last[:, self.SYNC] < who.sync)
        return (last[:, self.INTERVAL] == who.interval) & ~ordered

    def record(self, at: np.ndarray, who: Actors) -> None:
        last = self.last[at]
        same = self._unordered(last, who)
        thread = np.where(same & (last[:, self.THREAD] != who.thread), -1, who.thread)
        warp = np.where(same & (last[:, self.WARP] != who.warp), -1, who.warp)
        self.last[at] = np.stack([thread, warp, who.interval, who.sync], 1)
        # several at one place in this very access: the last one won above
        self.last[at[self.last[at, self.THREAD] != who.thread], self.THREAD] = -1
        self.last[at[self.last[at, self.WARP] != who.warp], self.WARP] = -1


class RaceCheck:
    """Two accesses of one byte by two threads, not both reads or both atomics, must be ordered by a barrier."""

    AGAINST = {"read": ("write", "atomic"), "write": ("write", "read", "atomic"), "atomic": ("write", "read")}

    def __init__(self, size: int, granule: int) -> None:
        self.granule = granule
        self.kinds = {kind: Accesses(size // granule + 1) for kind in self.AGAINST}

    def access(self, kind: str, at: np.ndarray, size: int, who: Actors, fail: Fail) -> None:
        for start in range(0, size, self.granule):
            granules = (at + start) // self.granule
            for other in self.AGAINST[kind]:
                clash = self.kinds[other].conflicts(granules, who)
                if clash.any():
                    fail(f"race in shared memory: {kind} after another thread's {other} without a barrier", clash)
            self.kinds[kind].record(granules, who)
            if kind == "write" and (alone := self.kinds[kind].last[granules, Accesses.THREAD] == -1).any():
                fail("race in shared memory: two threads write one place at once", alone & (who.thread != -1))


def count_sectors(warp: np.ndarray, address: np.ndarray, size: int) -> int:
    """32-byte sectors that each warp asks for, added up; several lanes in one sector count once."""
    first, last = address // SECTOR, (address + size - 1) // SECTOR
    key = warp.astype(np.int64) << 40
    return len(np.unique(np.concatenate([key + first, key + last])))


def count_conflicts(group: np.ndarray, at: np.ndarray, size: int) -> int:
    """Wavefronts beyond the first of each `group`: lanes whose shared-memory accesses can be served at once.

    In one wavefront a bank serves one 4-byte word, to any number of lanes.
    """
    words = at[:, None] // 4 + np.arange(max(size // 4, 1))
    distinct = np.unique(group[:, None].astype(np.int64) << 32 | words)
    bank, depth = np.unique(distinct >> 32 << 8 | distinct % BANKS, return_counts=True)
    starts = np.flatnonzero(np.diff(bank >> 8, prepend=-1))
    return int((np.maximum.reduceat(depth, starts) - 1).sum())


def lanes_at_once(size: int) -> int:
    """How many lanes of a warp shared memory serves at once: 128 bytes' worth."""
    return min(32, 128 // size)
