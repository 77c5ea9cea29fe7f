"""Instructions that the lanes of a warp execute together."""

import re
from typing import Any

import numpy as np
from ptx.access import parts
from ptx.parser import Instruction
from ptx.values import instruction, view

Machine = Any
LANES = np.arange(32)
ALL = np.uint32(0xFFFFFFFF)


class Warps:
    """The executing threads by warp: `lanes` [warps, 32] holds each lane's position among them, or -1."""

    def __init__(self, m: Machine, threads) -> None:
        self.lane = m.lane[threads]
        warp = m.warp[threads]
        new = np.diff(warp, prepend=-1) != 0  # threads are in order
        self.row = np.cumsum(new) - 1
        self.lanes = np.full((int(new.sum()), 32), -1)
        self.lanes[self.row, self.lane] = np.arange(len(warp))
        self.exists = m.warp_size[warp[new]][:, None] > LANES
        self.count = len(self.lanes)

    def check(self, m: Machine, i: Instruction, threads, mask: np.ndarray) -> np.ndarray:
        """Each lane's mask names lanes that are here, itself too, with the same mask. Returns [warps, 32, 32] bool."""
        wanted = np.zeros((self.count, 32), np.uint32)
        wanted[self.row, self.lane] = mask
        member = (wanted[:, :, None] >> LANES.astype(np.uint32) & 1).astype(bool) & self.exists[:, None]
        here = self.lanes >= 0
        fail = m.failure(i, threads)
        absent = (member & ~here[:, None]).any(2)
        if absent.any():
            fail("lanes of the mask do not come together", absent[self.row, self.lane])
        if not member[:, LANES, LANES][here].all():
            fail("a lane is not in its own mask", ~member[:, LANES, LANES][self.row, self.lane])
        if (wanted != wanted[:, :1])[here].any() or not here[:, 0].all():
            differ = (member & (wanted[:, None] != wanted[:, :, None])).any(2) & here
            if differ.any():
                fail("lanes of one mask give different masks", differ[self.row, self.lane])
        return member

    def whole(self, m: Machine, i: Instruction, threads) -> None:
        if (self.lanes < 0).any():
            missing = (self.lanes < 0).any(1)
            m.failure(i, threads)("not all 32 lanes of the warp come together", missing[self.row])

    def gather(self, value: np.ndarray, fill: int = 0) -> np.ndarray:
        """[threads, ...] -> [warps, 32, ...], `fill` where a lane is not here."""
        value = np.broadcast_to(value, (len(self.row), *value.shape[1:]))
        shape = (-1,) + (1,) * (value.ndim - 1)
        return np.where(
            (self.lanes >= 0).reshape(self.count, 32, *shape[1:]), value[self.lanes], value.dtype.type(fill)
        )

    def scatter(self, value: np.ndarray) -> np.ndarray:
        """[warps, 32, ...] -> [threads, ...]"""
        return value[self.row, self.lane]


@instruction("vote", "sync ballot any all uni")
def _vote(m: Machine, i: Instruction, threads) -> None:
    warps = Warps(m, threads)
    member = warps.check(m, i, threads, m.read(i.operands[2], "u32", threads))
    votes = warps.gather(m.read(i.operands[1], "pred", threads))[:, None] & member
    everyone = (votes == member).all(2)
    result = {
        "ballot": (votes.astype(np.uint64) << LANES.astype(np.uint64)).sum(2).astype(np.uint32),
        "any": votes.any(2),
        "all": everyone,
        "uni": everyone | ~votes.any(2),
    }[i.find("ballot", "any", "all", "uni")]
    m.write(i.operands[0], warps.scatter(result), threads)


@instruction("activemask")
def _activemask(m: Machine, i: Instruction, threads) -> None:
    warps = Warps(m, threads)
    mask = ((warps.lanes >= 0).astype(np.uint64) << LANES.astype(np.uint64)).sum(1).astype(np.uint32)
    m.write(i.operands[0], mask[warps.row], threads)


@instruction("shfl", "sync up down bfly idx")
def _shfl(m: Machine, i: Instruction, threads) -> None:
    warps = Warps(m, threads)
    member = warps.check(m, i, threads, m.read(i.operands[4], "u32", threads))
    by, clamp = (m.read(i.operands[k], "u32", threads).astype(np.int64) for k in (2, 3))
    lane, segment, limit = warps.lane, clamp >> 8 & 31, clamp & 31
    lowest = lane & segment
    highest = lowest | limit & ~segment
    mode = i.find("up", "down", "bfly", "idx")
    source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": lowest | by & 31 & ~segment}[mode]
    inside = source >= highest if mode == "up" else source <= highest
    source = np.where(inside, source, lane)
    allowed = member[warps.row, lane, source & 31]
    if not allowed.all():
        m.failure(i, threads)("a shuffle reads a lane that is not in its mask", ~allowed)
    value = warps.gather(m.read(i.operands[1], "u32", threads))[warps.row, source & 31]
    for target, result in zip(parts(i.operands[0]), (value, inside), strict=False):
        m.write(target, result, threads)


@instruction("redux", "sync add min max and or xor")
def _redux(m: Machine, i: Instruction, threads) -> None:
    warps = Warps(m, threads)
    member = warps.check(m, i, threads, m.read(i.operands[2], "u32", threads))
    name = i.find("add", "min", "max", "and", "or", "xor")
    reduce = {"add": np.add, "min": np.minimum, "max": np.maximum,
              "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[name]  # fmt: skip
    values = warps.gather(m.read(i.operands[1], i.type, threads))
    result = np.zeros((warps.count, 32), view(i.type))
    for w in range(warps.count):
        for lane in np.flatnonzero(warps.lanes[w] >= 0):
            result[w, lane] = reduce.reduce(values[w][member[w, lane]], dtype=values.dtype)
    m.write(i.operands[0], warps.scatter(result), threads)


@instruction("ldmatrix", "sync aligned m8n8 x1 x2 x4 shared shared::cta")
def _ldmatrix(m: Machine, i: Instruction, threads) -> None:
    """Lane l of 8 k .. 8 k + 7 gives the address of row l % 8 of matrix k; lane l gets word l % 4 of row l / 4."""
    targets, warps = parts(i.operands[0]), Warps(m, threads)
    warps.whole(m, i, threads)
    who, address = m.threads[threads], m.address(i.operands[1], threads)
    givers = warps.lane < 8 * len(targets)
    space, at = m.access("read", i, "shared", address[givers], 16, who[givers], together=True)
    fail = m.failure(i, who[givers])
    words = np.zeros((len(who), 4), np.uint32)
    words[givers] = np.stack([space.load(at + 4 * k, 4, fail) for k in range(4)], 1)
    rows = warps.gather(words)
    for k, target in enumerate(targets):
        m.write(target, warps.scatter(rows[:, 8 * k + LANES // 4, LANES % 4]), threads)


MMA_SHAPES = {
    "b1": {"m8n8k128": ("xor", "and"), "m16n8k128": ("xor", "and"), "m16n8k256": ("xor", "and")},
    "s8": {"m8n8k16": (None,), "m16n8k16": (None,), "m16n8k32": (None,)},
}


@instruction("mma", "sync aligned row col popc xor and m8n8k128 m16n8k128 m16n8k256 m8n8k16 m16n8k16 m16n8k32")
def _mma(m: Machine, i: Instruction, threads) -> None:
    """D = A B + C on 1-bit (popcount of xor or and) or 8-bit elements, held as words of 32 bits.

    Lane 4 g + t. With row blocks of 8 (m / 8 of them) and column blocks of 4 words, word t of row g of
    block (r, c) is register r + c m / 8 of A; of B register c is word t + 4 c of column g. D: rows g and g + 8, columns
    2 t and 2 t + 1. (PTX ISA, "Matrix Fragments for mma" of each shape.)
    """
    shape = next(x for x in i.modifiers if re.fullmatch(r"m\d+n\d+k\d+", x))
    kind, operation = i.types[1].replace("u8", "s8"), i.find("xor", "and")
    if i.types[0] != "s32" or operation not in MMA_SHAPES.get(kind, {}).get(shape, ()):
        raise i.error("not modelled")
    rows = int(shape[1:].split("n")[0])
    warps = Warps(m, threads)
    warps.whole(m, i, threads)

    def registers(operand) -> np.ndarray:  # [warps, 32, registers]
        values = np.broadcast_arrays(m.threads[threads], *(m.read(r, "u32", threads) for r in parts(operand)))[1:]
        return warps.gather(np.stack(values, -1))

    a, b, c = (registers(operand) for operand in i.operands[1:4])
    words, g, t = 4 * b.shape[2], LANES // 4, LANES % 4
    left, right = np.zeros((warps.count, rows, words), np.uint32), np.zeros((warps.count, 8, words), np.uint32)
    for r in range(a.shape[2]):
        left[:, g + 8 * (r % (rows // 8)), t + 4 * (r // (rows // 8))] = a[:, :, r]
    for r in range(b.shape[2]):
        right[:, g, t + 4 * r] = b[:, :, r]
    product = _dot(left, right, operation, i.types[1:3])
    for r, target in enumerate(parts(i.operands[0])):
        sums = product[:, g + 8 * (r // 2), 2 * t + r % 2].astype(np.int32)
        m.write(target, warps.scatter(sums + c[:, :, r].view(np.int32)), threads)
    m.report.mma += warps.count


def _dot(left: np.ndarray, right: np.ndarray, operation: str | None, types: tuple[str, ...]) -> np.ndarray:
    """[warps, rows, words] x [warps, columns, words] -> [warps, rows, columns]"""
    if operation:
        both = (np.bitwise_xor if operation == "xor" else np.bitwise_and)(left[:, :, None], right[:, None])
        return np.bitwise_count(both).sum(-1, dtype=np.int32)
    a, b = (np.ascontiguousarray(x).view(view(t)).astype(np.int32) for x, t in zip((left, right), types, strict=True))
    return np.einsum("wmk,wnk->wmn", a, b)
