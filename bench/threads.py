"""`python -m bench.threads`: the convolutions of ResNet-18 from words to words by one thread and by all, in turn.

Also the work of as many processes that only multiply in registers: what the machine can give at most.
"""

import argparse
import os
import time
from dataclasses import replace
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch

from bench._harness import machine, save_rows
from bench._peaks import UNITS, peak
from bench._peers import ours
from python_tests.shapes import CONVS

SECONDS = 0.2  # of a peak


def at_once(unit: str, count: int) -> float:
    """Work of `count` processes at a peak at the same time, by that of one."""
    context = get_context("fork")  # a child has the compiled peaks already
    barrier, answers = context.Barrier(count), context.Queue()

    def measure() -> None:
        barrier.wait()
        answers.put(peak(unit, SECONDS))

    alone = peak(unit, SECONDS)
    processes = [context.Process(target=measure) for _ in range(count)]
    for process in processes:
        process.start()
    total = sum(answers.get() for _ in processes)
    for process in processes:
        process.join()
    return total / alone


def seconds(call: Any, threads: int) -> float:
    """Wall time of one call, of which there are as many as take 20 ms."""
    torch.set_num_threads(threads)
    call()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < 20e-3:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


def main(argv: list[str] | None = None) -> None:
    """Print and save a row a layer."""
    parser = argparse.ArgumentParser(prog="python -m bench.threads", description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--save", metavar="NAME", help="append the rows to bench/results/NAME.jsonl")
    args = parser.parse_args(argv)
    threads = len(os.sched_getaffinity(0))
    facts = {**machine(), "threads": threads}
    for unit in UNITS:
        if peak(unit):
            print(f"{unit}: {threads} processes do {at_once(unit, threads):.2f} times the work of one")
    for name in (name for name in CONVS if name.startswith("resnet18/")):
        call, _, route = ours(replace(CONVS[name], n=args.batch))
        pairs = [(seconds(call, 1), seconds(call, threads)) for _ in range(args.rounds)]
        row = {"op": "binary_conv2d_words", "shape": name, "batch": args.batch, "route": route,
               "one_us": 1e6 * median(one for one, _ in pairs), "all_us": 1e6 * median(both for _, both in pairs),
               "ratio": median(one / both for one, both in pairs)}  # fmt: skip
        print(f"{name:<24} batch {args.batch} {route:<7} {row['one_us']:>8.0f} us, {threads} threads "
              f"{row['all_us']:>8.0f} us: {row['ratio']:.2f}x", flush=True)  # fmt: skip
        save_rows(args.save, [row], facts)


if __name__ == "__main__":
    main()
