"""State of a launch: registers, memory, counts."""

from collections import Counter
from dataclasses import dataclass, field, fields

import numpy as np
from ptx.access import AsyncCopies
from ptx.memory import (
    WINDOWS,
    Actors,
    Memory,
    RaceCheck,
    Space,
    align,
    count_conflicts,
    count_sectors,
    lanes_at_once,
)
from ptx.parser import Address, Instruction, Kernel, Number, PtxError, Register, Symbol, bits
from ptx.values import view


@dataclass
class Report:
    """Counts of one launch. A request is one load or store of one warp; a sector is 32 bytes of global memory."""

    instructions: int = 0  # of threads
    load_requests: int = 0
    load_sectors: int = 0  # ld, cp.async
    store_requests: int = 0
    store_sectors: int = 0  # st, atom, red
    bank_conflicts: int = 0  # shared-memory wavefronts beyond the least
    mma: int = 0  # of warps
    conflicts_at: Counter[str] = field(default_factory=Counter)  # bank conflicts by source line

    def __add__(self, other: "Report") -> "Report":
        return Report(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def _held(type_: str) -> np.dtype:
    """How a register keeps a value: unsigned, or bool."""
    return np.dtype(bool) if type_ == "pred" else np.dtype(f"u{bits(type_) // 8}")


class Machine:
    """The threads of some blocks: registers, memory, and where each thread is in the program."""

    def __init__(self, code: Kernel, memory: Memory, report: Report, shape, blocks: np.ndarray, parameters: np.ndarray,
                 constants: dict[str, int], dynamic: int) -> None:  # fmt: skip
        self.code, self.memory, self.report, self.blocks, self.constants = code, memory, report, blocks, constants
        (gx, gy, gz), (bx, by, bz) = shape
        self.per_block = bx * by * bz
        self.threads = np.arange(len(blocks) * self.per_block)
        self.block, self.tid = np.divmod(self.threads, self.per_block)
        self.lane = self.tid % 32
        warps_per_block = -(-self.per_block // 32)
        self.warp = self.block * warps_per_block + self.tid // 32
        self.warp_size = np.tile(np.minimum(self.per_block - 32 * np.arange(warps_per_block), 32), len(blocks))
        self.special = self._special_registers((gx, gy, gz), (bx, by, bz), blocks[self.block])
        self.registers = {r: np.zeros(len(self.threads), _held(t)) for r, t in code.registers.items()}
        self._make_spaces(parameters, dynamic)
        self.interval = np.zeros(len(blocks), np.int64)  # __syncthreads so far, per block
        self.syncs = np.zeros(len(self.warp_size), np.int64)  # __syncwarp so far, per warp
        self.copies = AsyncCopies(len(self.threads), self.spaces["shared"])

    def _special_registers(self, grid, block, number: np.ndarray) -> dict[str, np.ndarray]:
        axes = {}
        for k, axis in enumerate("xyz"):
            axes[f"%tid.{axis}"] = self.tid // int(np.prod(block[:k])) % block[k]
            axes[f"%ctaid.{axis}"] = number // int(np.prod(grid[:k])) % grid[k]
            axes[f"%ntid.{axis}"], axes[f"%nctaid.{axis}"] = (np.full_like(number, d[k]) for d in (block, grid))
        axes |= {"%laneid": self.lane, "WARP_SZ": np.full_like(number, 32), "%warpid": self.tid // 32}
        below = (1 << self.lane) - 1
        axes |= {"%lanemask_lt": below, "%lanemask_le": 2 * below + 1, "%lanemask_eq": below + 1}
        axes |= {"%lanemask_gt": 0xFFFFFFFF ^ (2 * below + 1), "%lanemask_ge": 0xFFFFFFFF ^ below}
        return {name: value.astype(np.uint32) for name, value in axes.items()}

    def _make_spaces(self, parameters: np.ndarray, dynamic: int) -> None:
        sizes = self.code.sizes
        self.static = align(sizes.get("shared", 0))
        self.limit = {
            "shared": self.static + dynamic if dynamic else sizes.get("shared", 0),
            "local": sizes.get("local", 0),
        }
        shared = Space("shared", len(self.blocks) * align(self.limit["shared"]))
        local = Space("local", len(self.threads) * align(self.limit["local"]))
        param = Space("param", parameters.size)
        param.data[: parameters.size], param.written[:] = parameters, 1
        self.spaces = {"global": self.memory, "shared": shared, "local": local, "param": param}
        sizes_used = [bits(i.type) // 8 for i in self.code.body if i.opcode in ("ld", "st", "atom", "red") and i.types]
        self.races = RaceCheck(shared.data.size, min([4, *sizes_used]))

    # Registers

    def read(self, operand, type_: str, threads) -> np.ndarray:
        """Values of an operand as a PTX type, [n], or [1] where it is the same for all."""
        if isinstance(operand, Register):
            value = self.registers[operand.name][threads]
            value = ~value if operand.inverted else value
        elif isinstance(operand, Number):
            value = np.array([operand.value & (1 << 64) - 1], np.uint64)
        elif isinstance(operand, Symbol):
            value = self.special[operand.name][threads] if operand.name in self.special else self._place(operand.name)
        else:
            raise PtxError(f"{operand} is no value")
        dtype = view(type_)
        if value.dtype == dtype:
            return value
        return value.astype(bool) if type_ == "pred" else value.astype(f"u{dtype.itemsize}").view(dtype)

    def _place(self, name: str) -> np.ndarray:
        """The address of a variable in its own space."""
        if name not in self.code.variables:
            raise PtxError(f"{name} is not modelled")
        variable = self.code.variables[name]
        address = self.constants.get(name, variable.offset if variable.size >= 0 else self.static)
        return np.array([address + (WINDOWS["param"] if variable.space == "param" else 0)], np.uint64)

    def is_predicate(self, operand) -> bool:
        return isinstance(operand, Register) and self.code.registers[operand.name] == "pred"

    def write(self, target, value: np.ndarray, threads) -> None:
        if target == Symbol("_"):
            return
        if not isinstance(target, Register):
            raise PtxError(f"{target} is no register")
        register = self.registers[target.name]
        if value.dtype.itemsize != register.dtype.itemsize:  # extends by the sign of the value's type
            value = value.astype(np.int64 if value.dtype.kind == "i" else np.uint64).astype(register.dtype)
        register[threads] = value.view(register.dtype)

    # Memory

    def address(self, operand: Address, threads) -> np.ndarray:
        base = operand.base
        narrow = isinstance(base, Register) and self.registers[base.name].dtype.itemsize == 4
        value = self.read(base, "u32" if narrow else "u64", threads).astype(np.int64) + operand.offset
        return np.broadcast_to(value & 0xFFFFFFFF if narrow else value, self.threads[threads].shape)

    def offsets(self, space: str, address: np.ndarray, threads) -> np.ndarray:
        """Where a thread's address lies in the bytes of a space; -1 outside of its block's or its own part."""
        if space not in self.limit:
            return address
        owner = (self.block if space == "shared" else self.threads)[threads]
        inside = (address >= 0) & (address < self.limit[space])
        return np.where(inside, owner * align(self.limit[space]) + address, -1)

    def access(self, kind: str, i: Instruction, space: str | None, address: np.ndarray, size: int, threads,
               together: bool = False) -> tuple[Space, np.ndarray]:  # fmt: skip
        """Checks and counts one access of each thread. kind: read, write, atomic.

        together: the whole warp reads what one lane asks for.
        """
        fail = self.failure(i, threads)
        if space in (None, "param"):
            space, address = self._generic(space, address, fail)
        space = "global" if space == "const" else space
        at = self.offsets(space, address, threads)
        memory = self.spaces[space]
        if space in self.limit and (over := (at >= 0) & (address + size > self.limit[space])).any():
            fail(f"{space} access out of bounds", over)
        memory.check(at, size, fail)
        if space == "shared":
            if (late := self.copies.pending[at].astype(bool)).any():
                fail(f"shared memory {kind} where a cp.async has not been waited for", late)
            self.race(kind, i, at, size, threads, together)
            group = self.warp[threads] * 32 + self.lane[threads] // lanes_at_once(size)
            if conflicts := count_conflicts(group, at, size):
                self.report.bank_conflicts += conflicts
                self.report.conflicts_at[i.place] += conflicts
        elif space == "global" and "const" not in i.modifiers:
            self.count(kind, at, size, threads)
        return memory, at

    def _generic(self, space: str | None, address: np.ndarray, fail) -> tuple[str, np.ndarray]:
        found = [name for name, start in WINDOWS.items() if ((address >= start) & (address < start + (1 << 40))).all()]
        if len(found) != 1:
            fail("one generic access of several address spaces is not modelled", address != address[0])
            fail("generic access out of bounds", np.ones(len(address), bool))
        return found[0], address - WINDOWS[found[0]]

    def race(self, kind: str, i: Instruction, at: np.ndarray, size: int, threads, together: bool = False) -> None:
        who, warp = self.threads[threads], self.warp[threads]
        actors = Actors(
            np.full_like(who, -1) if together else who, warp, self.interval[self.block[threads]], self.syncs[warp]
        )
        self.races.access(kind, at, size, actors, self.failure(i, threads))

    def count(self, kind: str, at: np.ndarray, size: int, threads) -> None:
        warp = self.warp[threads]
        sectors, requests = count_sectors(warp, at, size), len(np.unique(warp))
        if kind == "read":
            self.report.load_sectors += sectors
            self.report.load_requests += requests
        else:
            self.report.store_sectors += sectors
            self.report.store_requests += requests

    def failure(self, i: Instruction, threads):
        """fail(what, which): raises for the first of `threads` where `which` holds."""

        def fail(what: str, which: np.ndarray) -> None:
            thread = self.threads[threads][np.argmax(which)]
            raise i.error(f"{what} by {self.who(thread)}")

        return fail

    def who(self, thread: int) -> str:
        return f"block {self.blocks[self.block[thread]]} thread {self.tid[thread]}"
