"""Instructions of one thread on registers."""

from fractions import Fraction
from typing import Any

import numpy as np
from ptx.parser import Instruction, bits
from ptx.values import fma, instruction, is_float, octets, pack, unpack, view

Machine = Any


def operands(m: Machine, i: Instruction, threads, count: int, type_: str | None = None) -> list[np.ndarray]:
    """The sources, all of one type."""
    return [m.read(source, type_ or i.type, threads) for source in i.operands[1 : 1 + count]]


def floats(m: Machine, i: Instruction, threads, count: int) -> list[np.ndarray]:
    return [unpack(v, i.type) for v in operands(m, i, threads, count)]


def write_float(m: Machine, i: Instruction, threads, value: np.ndarray) -> None:
    if "sat" in i.modifiers:
        value = np.where(np.isnan(value), 0, np.clip(value, 0, 1)).astype(value.dtype)
    m.write(i.operands[0], pack(value, i.type), threads)


@instruction("add sub mul", "rn sat lo hi wide")
def _add(m, i, threads):
    if is_float(i.type):
        a, b = floats(m, i, threads, 2)
        if bits(i.type.removesuffix("x2")) == 16:
            one = np.ones(1)
            result = {"add": (a, one, b), "sub": (b, -one, a), "mul": (a, b, np.full(1, -0.0))}[i.opcode]
            return write_float(m, i, threads, fma(*result))
        return write_float(m, i, threads, {"add": np.add, "sub": np.subtract, "mul": np.multiply}[i.opcode](a, b))
    if "sat" in i.modifiers or i.type.endswith("x2"):
        raise i.error("not modelled")
    a, b = operands(m, i, threads, 2)
    result = product(i, a, b) if i.opcode == "mul" else a + b if i.opcode == "add" else a - b
    m.write(i.operands[0], result, threads)


@instruction("mad fma", "rn sat lo hi wide")
def _mad(m, i, threads):
    if is_float(i.type):
        a, b, c = floats(m, i, threads, 3)
        return write_float(m, i, threads, exact_fma(a, b, c) if i.type == "f64" else fma(a, b, c))
    if "sat" in i.modifiers:
        raise i.error("not modelled")
    a, b = operands(m, i, threads, 2)
    wide = i.type[0] + str(2 * bits(i.type)) if "wide" in i.modifiers else i.type
    m.write(i.operands[0], product(i, a, b) + m.read(i.operands[3], wide, threads), threads)


def exact_fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    def one(x: float, y: float, z: float) -> float:
        if not np.isfinite([x, y, z]).all() or x * y == 0:
            return x * y + z
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        return float(exact) if exact else x * y + z

    return np.vectorize(one, otypes=[np.float64])(a, b, c)


def product(i: Instruction, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """lo: the lower half; hi: the upper half; wide: all of it."""
    width = bits(i.type)
    if "lo" in i.modifiers:
        return a * b
    if width < 64:
        whole = a.astype(f"{a.dtype.kind}8") * b.astype(f"{a.dtype.kind}8")
        return (
            whole.astype(f"{a.dtype.kind}{width // 4}") if "wide" in i.modifiers else (whole >> width).astype(a.dtype)
        )
    if "hi" not in i.modifiers:
        raise i.error("not modelled")
    x, y = a.view(np.uint64), b.view(np.uint64)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    middle = (x >> half) * (y & low) + ((x & low) * (y & low) >> half)
    carry = (x & low) * (y >> half) + (middle & low)
    high = (x >> half) * (y >> half) + (middle >> half) + (carry >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return high.view(a.dtype)


@instruction("div rem", "rn")
def _div(m, i, threads):
    if is_float(i.type):
        if "rn" not in i.modifiers:
            raise i.error("not modelled")
        a, b = floats(m, i, threads, 2)
        return write_float(m, i, threads, a / b)
    a, b = operands(m, i, threads, 2)
    if (b == 0).any():
        raise i.error("division by zero")
    q = a // b
    q = q + ((q * b != a) & ((a < 0) != (b < 0))).astype(q.dtype)  # towards zero
    m.write(i.operands[0], q if i.opcode == "div" else a - q * b, threads)


@instruction("min max", "NaN")
def _min(m, i, threads):
    a, b = operands(m, i, threads, 2)
    if not is_float(i.type):
        if i.type.endswith("x2"):
            raise i.error("not modelled")
        return m.write(i.operands[0], (np.minimum if i.opcode == "min" else np.maximum)(a, b), threads)
    x, y = unpack(a, i.type), unpack(b, i.type)
    strict, small = "NaN" in i.modifiers, i.opcode == "min"
    f = (np.minimum if small else np.maximum) if strict else (np.fmin if small else np.fmax)
    # -0 < +0, which numpy leaves open
    x, y = np.broadcast_arrays(x, y)
    signed = np.where(np.signbit(x) == small, x, y)
    write_float(m, i, threads, np.where(x == y, signed, f(x, y)))


@instruction("abs neg")
def _abs(m, i, threads):
    (a,) = operands(m, i, threads, 1)
    if not is_float(i.type):
        return m.write(i.operands[0], np.abs(a) if i.opcode == "abs" else -a, threads)
    unsigned, width = view(f"b{bits(i.type)}"), bits(i.type.removesuffix("x2"))
    sign = sum(1 << (k + width - 1) for k in range(0, bits(i.type), width))
    raw = a.view(unsigned)
    m.write(i.operands[0], raw & ~unsigned.type(sign) if i.opcode == "abs" else raw ^ unsigned.type(sign), threads)


@instruction("rcp sqrt", "rn")
def _rcp(m, i, threads):
    if "rn" not in i.modifiers:
        raise i.error("not modelled")
    (a,) = floats(m, i, threads, 1)
    write_float(m, i, threads, a.dtype.type(1) / a if i.opcode == "rcp" else np.sqrt(a))


@instruction("copysign")
def _copysign(m, i, threads):
    a, b = operands(m, i, threads, 2)
    m.write(i.operands[0], np.copysign(b, a), threads)


@instruction("testp", "finite infinite number notanumber normal subnormal")
def _testp(m, i, threads):
    (a,) = floats(m, i, threads, 1)
    tiny = np.finfo(a.dtype).tiny
    tests = {
        "finite": np.isfinite(a),
        "infinite": np.isinf(a),
        "number": ~np.isnan(a),
        "notanumber": np.isnan(a),
        "normal": np.isfinite(a) & (np.abs(a) >= tiny),
        "subnormal": (np.abs(a) < tiny) & (a != 0),
    }
    m.write(i.operands[0], tests[i.modifiers[0]], threads)


COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
LOGIC = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
UNORDERED = {f"{name}u" for name in ("eq", "ne", "lt", "le", "gt", "ge")}


@instruction("setp set", " ".join({*COMPARE, *LOGIC, *UNORDERED, "num", "nan"}))
def _setp(m, i, threads):
    if i.type.endswith("x2"):
        raise i.error("not modelled")
    name = i.modifiers[0]
    a, b = floats(m, i, threads, 2)
    unordered = np.isnan(a) | np.isnan(b) if is_float(i.type) else np.zeros(1, bool)
    if name in ("num", "nan"):
        result = unordered if name == "nan" else ~unordered
    elif name in UNORDERED:
        result = COMPARE[name[:-1]](a, b) | unordered
    else:
        result = COMPARE[name](a, b) & ~unordered
    inverse = ~result
    if len(i.modifiers) > 1:
        also = m.read(i.operands[3], "pred", threads)
        result, inverse = (LOGIC[i.modifiers[1]](r, also) for r in (result, inverse))
    if i.opcode == "set":
        true = 1.0 if i.types[0] == "f32" else -1
        return m.write(i.operands[0], np.where(result, true, 0).astype(view(i.types[0].replace("u", "s"))), threads)
    both = i.operands[0] if isinstance(i.operands[0], tuple) else (i.operands[0],)
    for target, value in zip(both, (result, inverse), strict=False):
        m.write(target, value, threads)


@instruction("selp")
def _selp(m, i, threads):
    a, b = operands(m, i, threads, 2)
    m.write(i.operands[0], np.where(m.read(i.operands[3], "pred", threads), a, b), threads)


@instruction("mov")
def _mov(m, i, threads):
    to, source = i.operands
    if isinstance(to, tuple):
        raw = octets(m.read(source, i.type, threads))
        width = raw.shape[1] // len(to)
        for k, part in enumerate(to):
            m.write(part, np.ascontiguousarray(raw[:, k * width : (k + 1) * width]).view(f"u{width}").ravel(), threads)
    elif isinstance(source, tuple):
        part = f"b{bits(i.type) // len(source)}"
        parts = np.broadcast_arrays(*(m.read(s, part, threads) for s in source))
        m.write(to, np.stack(parts, 1).view(view(i.type)).ravel(), threads)
    else:
        m.write(to, m.read(source, i.type, threads), threads)


ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@instruction("cvt", "rn sat " + " ".join(ROUND))
def _cvt(m, i, threads):
    to, source = i.types
    rounding = i.find(*ROUND)
    if to.endswith("x2"):  # the first source goes to the upper half
        high, low = (m.read(s, source, threads) for s in i.operands[1:])
        result = pack(np.stack(np.broadcast_arrays(low, high), 1), to)
    elif is_float(source):
        x = unpack(m.read(i.operands[1], source, threads), source)
        x = ROUND[rounding](x) if rounding else x
        if is_float(to):
            if bits(to) < bits(source) and "rn" not in i.modifiers:
                raise i.error("not modelled")
            x = np.where(np.isnan(x), 0, np.clip(x, 0, 1)).astype(x.dtype) if "sat" in i.modifiers else x
            result = pack(x, to)
        elif rounding:
            result = to_integer(x, source, to)
        else:
            raise i.error("not modelled")
    else:
        result = from_integer(i, m.read(i.operands[1], source, threads), to)
    m.write(i.operands[0], result, threads)


def to_integer(x: np.ndarray, source: str, to: str) -> np.ndarray:
    """Whole numbers to an integer type: out of range to its ends; NaN to 0, in 64-bit conversions to the top bit."""
    limit = np.iinfo(view(to))
    nan = 1 << (bits(to) - 1) if source == "f64" or bits(to) == 64 else 0
    inside = (x >= float(limit.min)) & (x < float(limit.max) + (bits(to) < 64))
    result = np.where(inside, x, 0).astype(view(to))
    result = np.where(inside, result, np.where(x > 0, limit.max, limit.min).astype(view(to)))
    return np.where(np.isnan(x), np.array(nan, np.uint64).astype(f"u{bits(to) // 8}").view(view(to)), result)


def from_integer(i: Instruction, x: np.ndarray, to: str) -> np.ndarray:
    if not is_float(to):
        limit = np.iinfo(view(to))
        if "sat" in i.modifiers:
            low = max(limit.min, np.iinfo(x.dtype).min)
            x = np.clip(x, x.dtype.type(low), x.dtype.type(min(limit.max, np.iinfo(x.dtype).max)))
        return x.astype(view(to))
    if bits(to) == 16 and x.dtype.itemsize == 8:
        raise i.error("not modelled")
    return pack(x.astype(np.float64) if bits(to) == 16 else x.astype(view(to)), to)
