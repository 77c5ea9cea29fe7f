"""Peak rates of the multiplying units of this core, from bench/peaks.cpp, compiled when first asked for."""

import ctypes
import os
import subprocess
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("peaks.cpp")
UNITS = ("amx_registers", "amx_l1", "xnor", "avx2")
OF_ROUTE = {"amx": "amx_registers", "avx512": "xnor", "avx2": "avx2"}  # the unit that a kernel multiplies on


@cache
def library() -> ctypes.CDLL:
    target = SOURCE.parents[1] / "build" / "peaks.so"
    if not target.exists() or target.stat().st_mtime < SOURCE.stat().st_mtime:
        target.parent.mkdir(exist_ok=True)
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, "-std=c++20", "-O3", "-shared", "-fPIC", "-o", target, SOURCE], check=True)
    return ctypes.CDLL(str(target))


def peak(unit: str, seconds: float = 1e-3) -> float | None:
    """Multiply-adds a second of one of UNITS, measured for about `seconds`; None where this core lacks it."""
    measure = getattr(library(), f"peak_{unit}")
    measure.argtypes, measure.restype = [ctypes.c_double], ctypes.c_double
    return measure(seconds) or None
