"""Interleaved timing of an op against the torch expression that it replaces, and the facts of the machine beside it."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

import bnn

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """One row: what runs, and what it moves or multiplies.

    op: name of the op. shape: text. ours, torch: no arguments, one call each. bytes, macs: of one call of `ours`
    (bytes read and written once; multiply-adds of the useful kind).
    """

    op: str
    shape: str
    ours: Callable[[], object]
    torch: Callable[[], object]
    bytes: int = 0
    macs: int = 0


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def measure(case: Case, rounds: int = 9, budget: float = 0.4) -> dict:
    """Alternate ours and torch for `rounds` rounds, about `budget` seconds each; medians, and the median ratio."""
    calls = (case.ours, case.torch)
    repeats = [max(1, int(budget / rounds / max(min(seconds_of(c, 2), seconds_of(c, 2)), 1e-6))) for c in calls]
    times = [[seconds_of(call, n) for call, n in zip(calls, repeats, strict=True)] for _ in range(rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    row = {
        "op": case.op,
        "shape": case.shape,
        "us": ours * 1e6,
        "torch_us": theirs * 1e6,
        "ratio": statistics.median(t / o for o, t in times),
    }
    if case.macs:
        row["gmac_per_s"] = case.macs / ours / 1e9
    elif case.bytes:
        row["gb_per_s"] = case.bytes / ours / 1e9
    return row


def machine() -> dict:
    """Facts without which a figure means nothing."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": bnn.isa.current(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "bnn": bnn.__version__,
    }


def show(cases: Iterable[Case], save: str | None = None) -> None:
    """Print a line a case as it is measured; append the rows to bench/results/`save`.jsonl where asked."""
    facts = machine()
    print("  ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"{'op':<26} {'shape':<44} {'ours':>11} {'torch':>11} {'torch/ours':>10} {'rate':>14}")
    for case in cases:
        row = measure(case)
        rate = f"{row['gmac_per_s']:.1f} GMAC/s" if "gmac_per_s" in row else f"{row.get('gb_per_s', 0):.1f} GB/s"
        print(
            f"{row['op']:<26} {row['shape']:<44} {row['us']:>8.1f} us {row['torch_us']:>8.1f} us "
            f"{row['ratio']:>9.2f}x {rate:>14}",
            flush=True,
        )
        if save:
            with open(RESULTS / f"{save}.jsonl", "a") as file:
                file.write(json.dumps({**row, **facts}) + "\n")
