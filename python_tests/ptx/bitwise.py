"""Instructions of one thread on the bits of registers."""

from typing import Any

import numpy as np
from ptx.arithmetic import operands
from ptx.parser import Instruction, bits
from ptx.values import instruction, octets, view

Machine = Any


@instruction("and or xor not cnot")
def _logic(m, i, threads):
    a, *rest = operands(m, i, threads, len(i.operands) - 1)
    if i.opcode == "cnot":
        result = (a == 0).astype(a.dtype)
    else:
        result = ~a if not rest else {"and": a.__and__, "or": a.__or__, "xor": a.__xor__}[i.opcode](rest[0])
    m.write(i.operands[0], result, threads)


@instruction("shl shr")
def _shift(m, i, threads):
    (a,) = operands(m, i, threads, 1)
    by, width = m.read(i.operands[2], "u32", threads), bits(i.type)
    amount = np.minimum(by, width - 1).astype(a.dtype)
    shifted = a << amount if i.opcode == "shl" else a >> amount
    emptied = a.dtype.type(0) if i.opcode == "shl" or i.type[0] != "s" else shifted
    m.write(i.operands[0], np.where(by >= width, emptied, shifted), threads)


@instruction("shf", "l r wrap clamp")
def _funnel(m, i, threads):
    low, high = (v.astype(np.uint64) for v in operands(m, i, threads, 2))
    by = m.read(i.operands[3], "u32", threads)
    by = (by & 31 if "wrap" in i.modifiers else np.minimum(by, 32)).astype(np.uint64)
    both = high << np.uint64(32) | low
    result = both >> by if "r" in i.modifiers else (both << by) >> np.uint64(32)
    m.write(i.operands[0], result.astype(np.uint32), threads)


@instruction("lop3")
def _lop3(m, i, threads):
    a, b, c = operands(m, i, threads, 3)
    table, result = i.operands[4].value, np.zeros(1, np.uint32)
    for k in range(8):
        if table >> k & 1:
            result = result | (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
    m.write(i.operands[0], result, threads)


@instruction("popc clz brev bfind", "shiftamt")
def _bits(m, i, threads):
    (a,) = operands(m, i, threads, 1)
    raw, width = a.view(f"u{a.dtype.itemsize}"), bits(i.type)
    ordered = np.unpackbits(octets(raw), axis=1, bitorder="little")
    if i.opcode == "brev":
        return m.write(
            i.operands[0], np.packbits(ordered[:, ::-1], axis=1, bitorder="little").view(raw.dtype).ravel(), threads
        )
    if i.opcode == "popc":
        return m.write(i.operands[0], np.bitwise_count(raw).astype(np.uint32), threads)
    if a.dtype.kind == "i":
        ordered = ordered ^ (a < 0)[:, None]
    top = np.where(ordered.any(1), width - 1 - ordered[:, ::-1].argmax(1), -1)
    if i.opcode == "clz" or "shiftamt" in i.modifiers:
        top = np.where((top < 0) & (i.opcode == "bfind"), -1, width - 1 - top)
    m.write(i.operands[0], top.astype(np.int32), threads)


def field(m: Machine, i: Instruction, threads, at: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position, mask of the field's length, the end of the field cut to the width); lengths in operands at, at + 1."""
    width = bits(i.type)
    start, length = (m.read(i.operands[k], "u32", threads).astype(np.int64) & 255 for k in (at, at + 1))
    cut = np.minimum(length, width).astype(np.uint64)
    ones = np.where(cut == 64, np.uint64(2**64 - 1), (np.uint64(1) << (cut & np.uint64(63))) - np.uint64(1))
    return start, ones, np.minimum(start + length - 1, width - 1)


@instruction("bfe")
def _bfe(m, i, threads):
    (a,) = operands(m, i, threads, 1)
    start, ones, last = field(m, i, threads, 2)
    raw, width = a.view(f"u{a.dtype.itemsize}").astype(np.uint64), bits(i.type)
    result = np.where(start < width, raw >> np.minimum(start, 63).astype(np.uint64), np.uint64(0)) & ones
    if a.dtype.kind == "i":
        negative = (raw >> np.maximum(last, 0).astype(np.uint64) & np.uint64(1)).astype(bool) & (ones != 0)
        inside = np.where(start < width, ones & (np.uint64(2**width - 1) >> np.minimum(start, 63).astype(np.uint64)), 0)
        result = np.where(negative, result | ~inside.astype(np.uint64), result)
    m.write(i.operands[0], result.astype(raw.dtype).astype(f"u{a.dtype.itemsize}"), threads)


@instruction("bfi")
def _bfi(m, i, threads):
    a, b = (v.astype(np.uint64) for v in operands(m, i, threads, 2))
    start, ones, _ = field(m, i, threads, 3)
    by = np.minimum(start, 63).astype(np.uint64)
    mask = np.where(start < bits(i.type), ones << by, np.uint64(0))
    m.write(i.operands[0], (b & ~mask | a << by & mask).astype(view(i.type)), threads)


@instruction("prmt")
def _prmt(m, i, threads):
    a, b = operands(m, i, threads, 2)
    a, b, select = np.broadcast_arrays(a, b, m.read(i.operands[3], "u32", threads))
    source = np.concatenate([octets(a), octets(b)], 1)
    nibbles = select[:, None] >> np.arange(0, 16, 4, dtype=np.uint32) & 15
    chosen = np.take_along_axis(source, (nibbles & 7).astype(np.int64), 1)
    spread = np.where(chosen & 0x80, 0xFF, 0).astype(np.uint8)  # the sign bit alone
    m.write(i.operands[0], np.where(nibbles & 8, spread, chosen).view(np.uint32).ravel(), threads)


@instruction("dp4a")
def _dp4a(m, i, threads):
    a, b = np.broadcast_arrays(*operands(m, i, threads, 2, "u32"))
    x, y = (octets(v).view(view(t[0] + "8")).astype(np.int64) for v, t in zip((a, b), i.types, strict=True))
    total = (x * y).sum(1) + m.read(i.operands[3], "s32", threads)
    m.write(i.operands[0], total.astype(np.int32), threads)
