"""Numbers of the PTX runner: PTX types in numpy, exact rounding, and the table of instruction handlers."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ptx.parser import Instruction, bits

# handler(machine, instruction, threads); threads is an index into per-thread arrays
Handler = Callable[[Any, Instruction, Any], None]
HANDLERS: dict[str, tuple[Handler, frozenset[str]]] = {}


def instruction(opcodes: str, modifiers: str = "") -> Callable[[Handler], Handler]:
    """Registers a handler. An instruction with a modifier that is not listed is not modelled."""

    def register(handler: Handler) -> Handler:
        for opcode in opcodes.split():
            HANDLERS[opcode] = handler, frozenset(modifiers.split())
        return handler

    return register


def handler(i: Instruction) -> Handler | None:
    """What executes an instruction; None where its opcode or one of its modifiers is not modelled."""
    found, modifiers = HANDLERS.get(i.opcode, (None, frozenset()))
    return found if set(i.modifiers) <= modifiers else None


def is_float(type_: str) -> bool:
    return type_.lstrip("b").startswith("f")


def view(type_: str) -> np.dtype:
    """How a value of this type is held: 16-bit floats as their bits."""
    if type_ == "pred":
        return np.dtype(bool)
    kind = {"s": "i", "f": "f"}.get(type_[0], "u") if type_ in ("f32", "f64") or type_[0] == "s" else "u"
    return np.dtype(f"{kind}{bits(type_) // 8}")


def unpack(raw: np.ndarray, type_: str) -> np.ndarray:
    """The floats that a value stands for, [n] or [n, 2]: float32, float64 as they are, 16-bit ones in float64."""
    if type_.endswith("x2"):
        return unpack(np.ascontiguousarray(raw).view(np.uint16).reshape(-1, 2), type_.removesuffix("x2"))
    if type_ == "f16":
        return raw.view(np.float16).astype(np.float64)
    if type_ == "bf16":
        return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return raw


def pack(value: np.ndarray, type_: str) -> np.ndarray:
    """Rounds to nearest even, NaN to the canonical one; inverse of unpack."""
    if type_.endswith("x2"):
        return np.ascontiguousarray(pack(value, type_.removesuffix("x2"))).view(np.uint32).reshape(-1)
    if type_ == "f64":
        return value.astype(np.float64)
    if type_ == "f32":
        value = value.astype(np.float32)
        nan = np.isnan(value)
        return np.where(nan, np.uint32(0x7FFFFFFF).view(np.float32), value) if nan.any() else value
    if type_ == "f16":
        return np.where(np.isnan(value), np.uint16(0x7FFF), value.astype(np.float16).view(np.uint16))
    if value.dtype == np.float64:
        with np.errstate(all="ignore"):
            single = value.astype(np.float32)
            value = to_odd(single, value - single)
    u = value.view(np.uint32)
    return np.where(np.isnan(value), 0x7FFF, (u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def to_odd(nearest: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Rounds nearest + error to odd, so that a second rounding to fewer bits is right."""
    last = nearest.view(f"u{nearest.dtype.itemsize}") & 1
    fix = (error != 0) & np.isfinite(error) & np.isfinite(nearest) & (last == 0)
    towards = np.where(error > 0, np.inf, -np.inf).astype(nearest.dtype)
    return np.where(fix, np.nextafter(nearest, towards), nearest)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c in float64, to be rounded once more to at most 24 bits; a b must be exact in float64."""
    product, c = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + c
    back = total - product
    return to_odd(total, (product - (total - back)) + (c - back))


def octets(value: np.ndarray) -> np.ndarray:
    """[n, bytes], lowest first."""
    return np.ascontiguousarray(value).view(np.uint8).reshape(len(value), -1)
