"""Interleaved timing of an op against what it replaces, and the facts of the machine beside it."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

import bnn

RESULTS = Path(__file__).parent / "results"
Call = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """One call of ours, and what it moves or multiplies.

    bytes: read and written, each tensor once. macs: multiply-adds of the useful kind. binary: on words, by b1 MMA.
    """

    call: Call
    bytes: int = 0
    macs: int = 0
    binary: bool = False


@dataclass(frozen=True)
class Case:
    """op: name of the op. shape: text. rivals: the same done without us, by name."""

    op: str
    shape: str
    ours: Work
    rivals: dict[str, Call]


class Device(Protocol):
    """Where calls are timed."""

    type: str
    most_repeats: int

    def seconds(self, call: Call, repeats: int) -> float:
        """Seconds a call."""
        ...

    def facts(self) -> dict:
        """Without which a figure means nothing."""
        ...

    def shares(self, work: Work, seconds: float) -> dict[str, float]:
        """Achieved part of each peak that is known, by name."""
        ...


class Cpu:
    type = "cpu"
    most_repeats = 1_000_000

    def seconds(self, call: Call, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    def facts(self) -> dict:
        return {**machine(), "isa": bnn.isa.current()}

    def shares(self, work: Work, seconds: float) -> dict[str, float]:
        return {}


def spread(values: list[float]) -> float:
    """Distance of the quartiles, as a part of the median."""
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle


def measure(case: Case, device: Device, rounds: int = 9, budget: float = 0.4) -> list[dict]:
    """Alternate ours and the rivals for `rounds` rounds, about `budget` seconds each; a row a rival.

    us, torch_us: medians. spread, torch_spread: see `spread`. ratio: median of the ratio within a round.
    """
    calls = (case.ours.call, *case.rivals.values())
    once = [max(min(device.seconds(call, 2) for _ in range(2)), 1e-6) for call in calls]
    repeats = [min(device.most_repeats, max(1, int(budget / rounds / seconds))) for seconds in once]
    times = [[device.seconds(call, n) for call, n in zip(calls, repeats, strict=True)] for _ in range(rounds)]
    ours, *others = (list(column) for column in zip(*times, strict=True))
    seconds = statistics.median(ours)
    row = {"op": case.op, "shape": case.shape, "us": seconds * 1e6, "spread": spread(ours)}
    if case.ours.macs:
        row["gmac_per_s"] = case.ours.macs / seconds / 1e9
    if case.ours.bytes:
        row["gb_per_s"] = case.ours.bytes / seconds / 1e9
    row |= device.shares(case.ours, seconds)
    return [
        {
            **row,
            "rival": name,
            "torch_us": statistics.median(theirs) * 1e6,
            "torch_spread": spread(theirs),
            "ratio": statistics.median(t / o for o, t in zip(ours, theirs, strict=True)),
        }
        for name, theirs in zip(case.rivals, others, strict=True)
    ]


def machine() -> dict:
    """Facts about the host that hold for every device."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "bnn": bnn.__version__,
    }


def save_rows(name: str | None, rows: Iterable[dict], facts: dict) -> None:
    """Append to bench/results/`name`.jsonl, where there is a name."""
    if name:
        with open(RESULTS / f"{name}.jsonl", "a") as file:
            file.writelines(json.dumps({**row, **facts}) + "\n" for row in rows)


def line(row: dict) -> str:
    rate = f"{row['gmac_per_s']:.1f} GMAC/s" if "gmac_per_s" in row else f"{row.get('gb_per_s', 0):.1f} GB/s"
    shares = "  ".join(f"{100 * row[key]:.1f}% of {key}" for key in ("bandwidth", "mma") if key in row)
    ours = f"{row['us']:>8.1f} us ±{50 * row['spread']:<3.0f}"
    theirs = f"{row['torch_us']:>8.1f} us ±{50 * row['torch_spread']:<3.0f}"
    names = f"{row['op']:<24} {row['shape']:<42} {row['rival']:<14}"
    return f"{names} {ours} {theirs} {row['ratio']:>9.2f}x {rate:>15}  {shares}".rstrip()


def show(cases: Iterable[Case], device: Device, save: str | None = None) -> None:
    """Print the facts, then a line a rival as each case is measured; append the rows to a file where asked."""
    facts = device.facts()
    print("  ".join(f"{key} {value}" for key, value in facts.items()))
    names = f"{'op':<24} {'shape':<42} {'rival':<14}"
    print(f"{names} {'ours ±%':>16} {'rival ±%':>16} {'rival/ours':>10} {'rate':>15}")
    for case in cases:
        rows = measure(case, device)
        for row in rows:
            print(line(row), flush=True)
        save_rows(save, rows, facts)
