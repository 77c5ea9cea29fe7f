"""Random numbers as a pure function of their keys, so that they depend on no order, process or resumed state.

Finaliser and increment: splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + _GOLDEN
    x ^= x >> np.uint64(30)
    x *= _MIX_1
    x ^= x >> np.uint64(27)
    x *= _MIX_2
    x ^= x >> np.uint64(31)
    return x


def hash64(*keys: ArrayLike) -> NDArray[np.uint64]:
    """h = 0, then h = splitmix64(h xor key) for each key, an integer or integer array; uint64, shape as broadcast."""
    h = np.zeros(1, np.uint64)
    for key in keys:
        if isinstance(key, int):
            key = np.array([key & 0xFFFFFFFFFFFFFFFF], np.uint64)
        h = _splitmix64(h ^ np.asarray(key).astype(np.uint64, copy=False))
    return h


def uniform(*keys: ArrayLike) -> NDArray[np.float32]:
    """Uniform in [0, 1) from the top 24 bits of `hash64(*keys)`; float32, shape of the broadcast keys."""
    return (hash64(*keys) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def normal(*keys: ArrayLike) -> NDArray[np.float32]:
    """Mean 0, variance 1: the sum of the four 16-bit quarters of a hash (Irwin-Hall, within +-3.47); float32."""
    h = hash64(*keys)
    quarters = h.reshape(-1).view(np.uint16).reshape(*h.shape, 4)
    total = quarters[..., 0].astype(np.float32)
    for i in range(1, 4):
        total += quarters[..., i]
    # A quarter has mean 65535 / 2 and variance (65536^2 - 1) / 12; four of them have a third of 65536^2.
    return (total - np.float32(2 * 65535)) * np.float32(3**0.5 / 65536)
