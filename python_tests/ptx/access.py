"""Instructions that touch memory: ld, st, atom, red, cp.async."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ptx.memory import WINDOWS, Space, mark
from ptx.parser import Instruction, bits
from ptx.values import instruction, is_float, pack, unpack, view

Machine = Any

# Hints for caches and the memory model change no value here.
HINTS = (
    "ca cg cs cv lu wb wt nc weak relaxed acquire release acq_rel volatile cta cluster gpu sys L1::no_allocate "
    "L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last L2::64B L2::128B L2::256B"
)
SPACES = ("global", "shared", "local", "param", "const")
SPACE_WORDS = " ".join(SPACES) + " shared::cta param::entry"


@instruction("cvta", f"to {SPACE_WORDS}")
def _cvta(m: Machine, i: Instruction, threads) -> None:
    """Between generic addresses and those of one space. The address of a parameter is always generic here."""
    start = WINDOWS[i.find(*SPACES).replace("const", "global").replace("param", "global")]
    value = m.read(i.operands[1], i.type, threads)
    m.write(
        i.operands[0],
        value - value.dtype.type(start) if "to" in i.modifiers else value + value.dtype.type(start),
        threads,
    )


@instruction("isspacep", SPACE_WORDS)
def _isspacep(m: Machine, i: Instruction, threads) -> None:
    start = np.uint64(WINDOWS[i.find(*SPACES)])
    value = m.read(i.operands[1], "u64", threads)
    m.write(i.operands[0], (value >= start) & (value < start + np.uint64(1 << 40)), threads)


def parts(operand) -> tuple:
    return operand if isinstance(operand, tuple) else (operand,)


@instruction("ld ldu", f"{HINTS} {SPACE_WORDS} v2 v4 v8")
def _ld(m: Machine, i: Instruction, threads) -> None:
    targets, item = parts(i.operands[0]), bits(i.type) // 8
    address = m.address(i.operands[1], threads)
    space, at = m.access("read", i, i.find(*SPACES), address, item * len(targets), threads)
    loaded = [space.load(at + k * item, item, m.failure(i, threads)) for k in range(len(targets))]
    for target, value in zip(targets, loaded, strict=True):
        m.write(target, value.view(view(i.type)), threads)


@instruction("st", f"{HINTS} {SPACE_WORDS} v2 v4 v8")
def _st(m: Machine, i: Instruction, threads) -> None:
    sources, item = parts(i.operands[1]), bits(i.type) // 8
    address = m.address(i.operands[0], threads)
    space, at = m.access("write", i, i.find(*SPACES), address, item * len(sources), threads)
    for k, source in enumerate(sources):
        space.store(at + k * item, item, m.read(source, i.type, threads).view(f"u{item}"))


def _combine(i: Instruction, old: np.ndarray, value: np.ndarray, third: np.ndarray | None) -> np.ndarray:
    if is_float(i.type):
        if i.find("add") is None or i.type.endswith("x2"):
            raise i.error("not modelled")
        return pack(unpack(old, i.type) + unpack(value, i.type), i.type)
    operation = {
        "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
        "xor": np.bitwise_xor, "exch": lambda _, v: v,
        "inc": lambda o, v: np.where(o >= v, 0, o + 1).astype(o.dtype),
        "dec": lambda o, v: np.where((o == 0) | (o > v), v, o - 1).astype(o.dtype),
        "cas": lambda o, v: np.where(o == v, third, o),
    }  # fmt: skip
    return operation[i.find(*operation)](old, value)


@instruction("atom red", f"{HINTS} {SPACE_WORDS} add min max and or xor exch inc dec cas noftz")
def _atom(m: Machine, i: Instruction, threads) -> None:
    """One after the other, in the order of threads, where several meet at one address."""
    first = 1 if i.opcode == "atom" else 0
    who, size = m.threads[threads], bits(i.type) // 8
    address, *values = np.broadcast_arrays(
        m.address(i.operands[first], threads), *(m.read(v, i.type, threads) for v in i.operands[first + 1 :])
    )
    space, at = m.access("atomic", i, i.find(*SPACES), address, size, threads)
    fail, old = m.failure(i, threads), np.empty(len(who), view(i.type))
    for turn in _turns(at):
        before = space.load(at[turn], size, fail).view(view(i.type))
        after = _combine(i, before, values[0][turn], values[1][turn] if len(values) > 1 else None)
        space.store(at[turn], size, after.view(f"u{size}"))
        old[turn] = before
    if first:
        m.write(i.operands[0], old, threads)


def _turns(at: np.ndarray) -> list[np.ndarray]:
    """Splits accesses so that no two of one turn share a place, earlier threads in earlier turns."""
    order = np.argsort(at, kind="stable")
    new = np.diff(at[order], prepend=at[order[0]] - 1) != 0
    starts = np.maximum.accumulate(np.where(new, np.arange(len(at)), 0))
    turn = np.empty(len(at), np.int64)
    turn[order] = np.arange(len(at)) - starts
    return [np.flatnonzero(turn == t) for t in range(turn.max() + 1)]


@dataclass
class Copy:
    """A cp.async under way, one entry per thread."""

    instruction: Instruction
    threads: np.ndarray
    group: np.ndarray
    source: np.ndarray  # global address
    to: np.ndarray  # shared address within the block
    size: int
    taken: np.ndarray  # bytes read; the rest is filled with zeros

    def only(self, keep: np.ndarray) -> "Copy":
        arrays = (a[keep] for a in (self.threads, self.group, self.source, self.to))
        return Copy(self.instruction, *arrays, self.size, self.taken[keep])


class AsyncCopies:
    """cp.async in groups, per thread. Bytes arrive at the wait, as late as the hardware may bring them."""

    def __init__(self, threads: int, shared: Space) -> None:
        self.under_way: list[Copy] = []
        self.group = np.zeros(threads, np.int64)  # the one that the next commit closes
        self.pending = np.zeros(shared.data.size, np.uint8)

    def issue(self, m: Machine, copy: Copy) -> None:
        threads, fail = copy.threads, m.failure(copy.instruction, copy.threads)
        if (copy.source % copy.size).any():
            fail(f"misaligned global access of {copy.size} bytes", copy.source % copy.size != 0)
        for taken in set(copy.taken.tolist()) - {0}:
            some = copy.taken == taken
            for k in range(taken):
                m.memory.check(copy.source[some] + k, 1, m.failure(copy.instruction, threads[some]))
            m.count("read", copy.source[some], taken, threads[some])
        _, at = m.access("write", copy.instruction, "shared", copy.to, copy.size, threads)
        mark(self.pending, at, copy.size)
        self.under_way.append(copy)

    def wait(self, m: Machine, threads: np.ndarray, last: np.ndarray) -> None:
        """Finishes, of each of `threads`, the groups up to `last`."""
        limit = np.full(len(self.group), -1)
        limit[threads] = last
        copies, self.under_way = self.under_way, []
        for copy in copies:
            done = copy.group <= limit[copy.threads]
            if done.any():
                self._finish(m, copy.only(done))
            if not done.all():
                self.under_way.append(copy.only(~done))

    def _finish(self, m: Machine, copy: Copy) -> None:
        at = m.offsets("shared", copy.to, copy.threads)
        mark(self.pending, at, copy.size, 0)
        fail = m.failure(copy.instruction, copy.threads)
        for k in range(copy.size):
            byte = np.zeros(len(at), np.uint8)
            reads = copy.taken > k
            byte[reads] = m.memory.load(copy.source[reads] + k, 1, fail)
            m.spaces["shared"].store(at + k, 1, byte)
        m.race("write", copy.instruction, at, copy.size, copy.threads)


@instruction("cp", f"{HINTS} async commit_group wait_group wait_all shared shared::cta global")
def _cp(m: Machine, i: Instruction, threads) -> None:
    who, copies = m.threads[threads], m.copies
    if "commit_group" in i.modifiers:
        copies.group[who] += 1
    elif "wait_group" in i.modifiers:
        copies.wait(m, who, copies.group[who] - 1 - i.operands[0].value)
    elif "wait_all" in i.modifiers:
        copies.wait(m, who, copies.group[who])
    else:
        to, source = (m.address(a, threads) for a in i.operands[:2])
        size = i.operands[2].value
        if size not in (4, 8, 16) or ("cg" in i.modifiers and size != 16) or len(i.operands) > 4:
            raise i.error("not modelled")
        taken = np.full(len(who), size)
        if len(i.operands) == 4:
            taken = _taken(m, i, size, threads) + np.zeros_like(taken)
        if (taken > size).any():
            raise i.error("the source size of cp.async exceeds its size")
        copies.issue(m, Copy(i, who, copies.group[who], *np.broadcast_arrays(source, to), size, taken))


def _taken(m: Machine, i: Instruction, size: int, threads) -> np.ndarray:
    """The fourth operand: bytes to read, or a predicate to read none."""
    if m.is_predicate(i.operands[3]):
        return np.where(m.read(i.operands[3], "pred", threads), 0, size)
    return m.read(i.operands[3], "u32", threads).astype(np.int64)
