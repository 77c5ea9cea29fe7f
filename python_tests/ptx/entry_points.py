"""Calls the entry points of csrc/cuda as the glue does, and runs what they launch as PTX.

The host code, built by g++, is real: which kernel, what grid, which arguments. Pointers are addresses of the runner's
memory, which host code never follows.
"""

import ctypes
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ptx.machine import Report
from ptx.memory import Buffer, Memory
from ptx.params import Stream


class _Dim3(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint)]

    def tuple(self) -> tuple[int, int, int]:
        return self.x, self.y, self.z


class _Argument(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


_Dim = ctypes.POINTER(_Dim3)
_LISTENER = ctypes.CFUNCTYPE(
    None, ctypes.c_size_t, _Dim, _Dim, ctypes.c_size_t, ctypes.POINTER(_Argument), ctypes.c_int
)


@dataclass(frozen=True)
class Launched:
    kernel: str  # demangled
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    arguments: tuple[bytes, ...]


class EntryPoints:
    """python_tests/cuda/recorder as a library."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        listing = subprocess.run(["nm", "-C", str(library)], capture_output=True, text=True, check=True).stdout
        self.names = {int(at, 16): name for at, kind, name in _symbols(listing) if kind in "tTW"}
        self.launched: list[Launched] = []
        self.listener = _LISTENER(self._hear)  # kept alive
        self.library.listen(self.listener)

    def _hear(self, kernel, grid, block, shared, arguments, count) -> None:
        blobs = tuple(ctypes.string_at(a.data, a.size) for a in arguments[:count])
        name = self.names[kernel]
        self.launched.append(Launched(name, grid.contents.tuple(), block.contents.tuple(), shared, blobs))

    def call(self, entry: str, *args: object, result: type = ctypes.c_int):
        """(what it returns, its launches). Structs go by reference, buffers as addresses."""
        function = getattr(self.library, entry)
        function.restype = result
        self.launched = []
        return function(*map(_passed, args)), self.launched


def _symbols(listing: str):
    return (line.split(" ", 2) for line in listing.splitlines() if not line.startswith(" "))


def _passed(arg: object) -> object:
    if isinstance(arg, ctypes.Structure):
        return ctypes.byref(arg)
    return ctypes.c_int64(int(arg)) if isinstance(arg, int | Buffer) else arg  # type: ignore[arg-type]


@dataclass
class Device:
    """A chip that runs PTX of its own architecture."""

    entry_points: EntryPoints
    memory: Memory
    ptx: str
    capability: int
    multiprocessors: int
    launch: Callable[..., Report]

    @property
    def stream(self) -> Stream:
        return Stream(capability=self.capability, multiprocessors=self.multiprocessors)

    def __call__(self, entry: str, *args: object) -> Report:
        """Calls cuda::entry(args ..., stream) and runs its launches; their counts added up."""
        status, launches = self.entry_points.call(entry, *args, self.stream)
        assert status == 0
        total = Report()
        for item in launches:
            total += self.launch(self.memory, self.ptx, item.kernel, item.grid, item.block, item.arguments, item.shared)
        return total
