"""Runs PTX, as nvcc makes it, on the CPU: all threads of a launch advance together as numpy vectors.

    memory = Memory()
    x, y = memory.put(array), memory.empty((4, 8), np.float32)
    report = launch(memory, ptx, "kernel<float>", grid=2, block=(32, 4), args=[x, y, 8], shared=1024)
    y.numpy(), report.load_sectors

A kernel is named by a part of its demangled or mangled name. Arguments are numbers, buffers (their address), or, for
structs by value, anything of exactly the right number of bytes: ctypes.Structure, bytes, numpy.

PtxError says what went wrong, by which block and thread, in which instruction of which source line: an access out of
bounds or misaligned, memory read before it was written, a race in shared memory, lanes or threads that do not come
together, a cp.async that nobody waited for, an instruction that is not modelled. Not seen: races in global memory,
registers read before they are written, anything below PTX.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ptx.control import CONTROL, run
from ptx.machine import Machine, Report
from ptx.memory import Buffer, Memory
from ptx.parser import Kernel, PtxError, bits, parse, read_module
from ptx.values import handler, view

__all__ = ["Buffer", "Memory", "PtxError", "Report", "kernel_names", "launch", "unmodelled"]

MOST_SHARED = 227 * 1024
Dim = int | Sequence[int]


def launch(
    memory: Memory, ptx: str, kernel: str, grid: Dim, block: Dim, args: Sequence[Any], shared: int = 0
) -> Report:
    """Runs every block of the grid; `shared` is the dynamic shared memory in bytes."""
    code = parse(ptx, kernel)
    grid3, block3 = (tuple(d) if isinstance(d, Sequence) else (d,) for d in (grid, block))
    grid3, block3 = (grid3 + (1, 1))[:3], (block3 + (1, 1))[:3]
    threads, blocks = int(np.prod(block3)), int(np.prod(grid3))
    total = code.sizes.get("shared", 0) + shared
    if not 0 < threads <= code.max_threads or min(grid3) < 1 or max(grid3[1:]) > 65535 or grid3[0] > 2**31 - 1:
        raise PtxError(f"{code.name}: cannot launch {grid3} blocks of {block3} threads")
    if total > MOST_SHARED:
        raise PtxError(f"{code.name}: {total} bytes of shared memory, {MOST_SHARED} is the most")
    parameters, constants = _parameters(code, args), _constants(code, memory)
    report = Report()
    batch = max(1, min((1 << 16) // threads, (1 << 24) // (total + 1)))
    for first in range(0, blocks, batch):
        here = np.arange(first, min(first + batch, blocks))
        run(Machine(code, memory, report, (grid3, block3), here, parameters, constants, shared))
    return report


def kernel_names(ptx: str) -> list[str]:
    """Demangled, in the order of the file."""
    return list(read_module(ptx).names.values())


def unmodelled(ptx: str) -> dict[str, list[str]]:
    """Per kernel of a PTX file, demangled, the instructions that the runner does not know by opcode and modifiers."""
    found = {}
    for mangled, name in read_module(ptx).names.items():
        strange = sorted({i.text for i in parse(ptx, mangled).body if i.opcode not in CONTROL and not handler(i)})
        if strange:
            found[name] = strange
    return found


def _parameters(code: Kernel, args: Sequence[Any]) -> np.ndarray:
    if len(args) != len(code.parameters):
        raise PtxError(f"{code.name} takes {len(code.parameters)} arguments, not {len(args)}")
    blob = np.zeros(code.sizes.get("param", 0), np.uint8)
    for parameter, arg in zip(code.parameters, args, strict=True):
        if isinstance(arg, Buffer | int | float) and parameter.size == bits(parameter.type) // 8:
            number = arg if isinstance(arg, float) else int(arg)
            if isinstance(number, int) and parameter.type[0] != "f":
                number &= (1 << 8 * parameter.size) - 1
            dtype = view(parameter.type) if parameter.type[0] == "f" else f"u{parameter.size}"
            raw = np.array(number, dtype).tobytes()
        else:
            raw = arg.tobytes() if isinstance(arg, np.ndarray | np.generic) else bytes(arg)
        if len(raw) != parameter.size:
            raise PtxError(f"{code.name}: an argument of {len(raw)} bytes, {parameter.size} are expected")
        blob[parameter.offset : parameter.offset + parameter.size] = np.frombuffer(raw, np.uint8)
    return blob


def _constants(code: Kernel, memory: Memory) -> dict[str, int]:
    """Puts .const and .global variables into global memory: name -> address."""
    return {
        name: memory.put(np.frombuffer(v.initial.ljust(v.size, b"\0"), np.uint8)).address
        for name, v in code.variables.items()
        if v.space in ("const", "global")
    }
