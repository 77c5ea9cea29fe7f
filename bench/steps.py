"""`python -m bench.steps [MODEL|FILE|RUN]`: time of a packed network, step by step and in one call, on one thread."""

import argparse
import time
from statistics import median, quantiles

import torch

from bench._harness import machine, save_rows
from bnn.commands._subject import open_subject
from bnn.nn import _program

BINARY = {layer.__name__ for layer in _program.PACKED}


def main(argv: list[str] | None = None) -> None:
    """Print a row a step, the sums of binary and real ones and the network's own time; save the rows if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.steps", description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", default="reactnet18", help="network, packed file or run (reactnet18)")
    parser.add_argument("--form", default="packed bf16", help="as `bnn bench` calls it (packed bf16)")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--save", metavar="NAME", help="append the rows to bench/results/NAME.jsonl")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    subject = open_subject(args.target, None, None)
    if args.form not in subject.packed:
        parser.error(f"--form: expected one of {list(subject.packed)}, got {args.form!r}")
    if args.rounds < 2:
        parser.error(f"--rounds: expected at least 2, got {args.rounds}")
    network, x = subject.packed[args.form], torch.randn(1, *subject.image)
    times: list[list[float]] = [[] for _ in network.steps]
    together: list[float] = []
    with torch.inference_mode():
        for _ in range(args.rounds):
            before = time.perf_counter()
            for _, mine in zip(_program.walk(network.links, network.layers, x), times, strict=True):
                now = time.perf_counter()
                mine.append(1e6 * (now - before))
                before = now
            network(x)
            together.append(1e6 * (time.perf_counter() - before))
    rows = [
        {"op": "step", "shape": f"{step['name']} {step['kind']}", "model": f"{subject.name}, {args.form}",
         "us": median(mine), "least_quarter_us": quantiles(mine, n=4)[0], "binary": step["kind"] in BINARY}
        for step, mine in zip(network.steps, times, strict=True)
    ]  # fmt: skip
    print(f"{'step':<50} median us  quarter us")
    for row in rows:
        print(f"{row['shape']:<50} {row['us']:>9.0f} {row['least_quarter_us']:>11.0f}")
    for name, binary in (("binary layers", True), ("the rest", False)):
        sums = [sum(row[key] for row in rows if row["binary"] == binary) for key in ("us", "least_quarter_us")]
        print(f"{name:<50} {sums[0]:>9.0f} {sums[1]:>11.0f}")
    print(f"{'the network in one call':<50} {median(together):>9.0f} {quantiles(together, n=4)[0]:>11.0f}")
    save_rows(args.save, rows, machine())


if __name__ == "__main__":
    main()
