"""`bnn bench [MODEL|FILE|RUN]`: a packed network and its full-precision twin on this processor, taking turns."""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import torch
import tyro
from tqdm import tqdm

from bnn import isa
from bnn.commands._contenders import Contender, missing, peak_memory, write_openvino, write_packed, write_torch
from bnn.commands._parse import as_json, parse
from bnn.commands._subject import Subject, open_subject
from bnn.commands.info import processor
from bnn.recipes._report import markdown

RATIO = "time / bnn"
COLUMNS = ("median ms", "p95 ms", "images/s", "peak MB", "file MB", RATIO)
SAME = 1.05  # ratios closer to 1 are not called faster
TURN = 0.05  # seconds
NOTE = """\
median and p95: of single calls, the rows taking turns in one process, noise as input. time / bnn: median of the ratio
within a turn. peak MB: by how much the resident set of a process grows that loads and runs this row alone. file MB:
weights as stored. Accuracy is not compared."""


@dataclass(frozen=True)
class Config:
    """Time, memory and size of a packed network beside its full-precision twin in torch and OpenVINO, on the CPU."""

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL|FILE|RUN]")] = "reactnet18"
    """Name of a network (which gets random weights), packed file or run folder."""
    batch: int = 1
    """Images a call."""
    threads: int | None = None
    """Threads of every row; default: as many as torch takes."""
    image_size: int | None = None
    """Side of the images, pixels; default: what the file or run records; 32 for the tiny networks, else 224."""
    classes: int | None = None
    """Classes of a named network; default 100 for the tiny ones, else 1000."""
    rounds: int = 20
    """Turns that every row gets."""


def main(argv: list[str]) -> int:
    """Measure, print."""
    rest, wants_json = as_json(argv)
    config = parse(Config, rest, "bnn bench")
    for name, least in (("batch", 1), ("threads", 1), ("image_size", 8), ("classes", 2), ("rounds", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least {least}, got {value}")
    subject = open_subject(config.target, config.image_size, config.classes)
    before = torch.get_num_threads()
    try:
        facts = compare(subject, config.batch, config.threads or before, config.rounds)
    finally:
        torch.set_num_threads(before)
    print(json.dumps(facts, indent=2) if wants_json else describe(facts))
    return 0


def compare(subject: Subject, batch: int, threads: int, rounds: int) -> dict[str, Any]:
    """Measure every row; returns them with what ran, where, and the verdict."""
    torch.set_num_threads(threads)
    host, shape = machine(threads), (batch, *subject.image)
    x = torch.randn(shape)
    with tempfile.TemporaryDirectory() as folder, tqdm(leave=False, disable=None, unit="step") as bar:
        bar.set_description("writing models")
        contenders = write_packed(subject.packed, Path(folder))
        if subject.twin is not None:
            contenders += write_torch(subject.twin, Path(folder))
            contenders += write_openvino(subject.twin, shape, Path(folder))
        bar.reset(total=len(contenders) + rounds)
        bar.set_description("memory")
        peaks = []
        for peak in peak_memory(contenders, shape, threads):
            peaks.append(peak)
            bar.update()
        bar.set_description("timing")
        turns = take_turns([contender.load(x, threads) for contender in contenders], rounds, bar.update)
        rows = [_row(*facts, turns[0], batch) for facts in zip(contenders, peaks, turns, strict=True)]
    packed = subject.packed["packed"]
    report = [row for row in packed.backend_report(x) if row["name"] in packed.layers]
    return {
        "model": subject.name,
        "input": list(shape),
        "rival": subject.rival,
        "machine": host,
        "kernels": dict(Counter(f"{_arithmetic(row['kind'])} on {row['kernel']}" for row in report)),
        "rows": rows,
        "verdict": verdict(rows),
        "left_out": missing() if subject.twin is not None else None,
    }


def _arithmetic(kind: str) -> str:
    return "binary" if kind.startswith("PackedBinary") else "8-bit" if kind.startswith("Int8") else "real"


def take_turns(calls: list[Callable[[], Any]], rounds: int, done: Callable[[], Any]) -> list[list[list[float]]]:
    """Seconds of single calls by row and turn; the first of a turn is not timed, it brings weights into the caches."""
    turns: list[list[list[float]]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, mine in zip(calls, turns, strict=True):
            call()
            times = []
            begin = now = time.perf_counter()
            while now - begin < TURN:
                call()
                times.append(time.perf_counter() - now)
                now = time.perf_counter()
            mine.append(times)
        done()
    return turns


def _row(contender: Contender, peak: int | None, turns: list[list[float]], ours: list[list[float]],
         batch: int) -> dict[str, Any]:  # fmt: skip
    times = [seconds for turn in turns for seconds in turn]
    middle = median(times)
    return {
        "name": contender.name,
        "median ms": 1e3 * middle,
        "p95 ms": 1e3 * (quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else middle),
        "images/s": batch / middle,
        "peak MB": None if peak is None else peak / 1e6,
        "file MB": contender.bytes() / 1e6,
        RATIO: median(median(theirs) / median(mine) for theirs, mine in zip(turns, ours, strict=True)),
    }


def verdict(rows: list[dict[str, Any]]) -> str:
    """One sentence: which row is the fastest, by how much."""
    ours = min((row for row in rows if row["name"].startswith("bnn")), key=lambda row: row[RATIO])
    others = [row for row in rows if not row["name"].startswith("bnn")]
    if not others:
        return "Nothing to compare with: this file's network is none of bnn.models, so its twin is not known."
    best = min(others, key=lambda row: row[RATIO])
    ratio = best[RATIO] / ours[RATIO]
    if max(ratio, 1 / ratio) < SAME:
        return f"{ours['name']} and {best['name']} take the same time here, within {100 * (SAME - 1):.0f} %."
    if ratio > 1:
        return f"{ours['name']} is the fastest here, {ratio:.1f}x faster than {best['name']}, the next."
    return f"{best['name']} is the fastest here, {1 / ratio:.1f}x faster than {ours['name']}."


def machine(threads: int) -> dict[str, Any]:
    """Without which the figures mean nothing."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "isa": isa.current(),
        "versions": {name: version(name) for name in ("torch", "openvino", "nncf") if find_spec(name)},
    }


def describe(facts: dict[str, Any]) -> str:
    """The facts for people."""
    host = facts["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in host["versions"].items())
    busy = " (busy)" if host["load"] + host["threads"] > host["cores"] else ""
    kernels = ", ".join(f"{count} {kernel}" for kernel, count in facts["kernels"].items())
    size = "x".join(map(str, facts["input"]))
    return "\n".join(
        [
            f"machine   {host['processor']}, {host['cores']} cores, load {host['load']}{busy}; {versions}",
            f"model     {facts['model']}, packed; input {size}; threads {host['threads']}",
            f"layers    {kernels}; best ISA {host['isa']}",
            f"rival     {facts['rival'] or 'none'}",
            "",
            markdown(facts["rows"], COLUMNS),
            NOTE,
            "",
            *([facts["left_out"]] if facts["left_out"] else []),
            facts["verdict"],
        ]
    )
