"""`python -m bench binary_conv2d --peers`: our convolution from words to words, against other libraries, in turn.

Ours holds scale, bias, threshold and sign. oneDNN's int8 goes from bytes to bytes. OpenVINO and Larq Compute Engine run
four layers with batch norm and binarisation in between, time divided by four. The peaks of the units are measured in
the same rounds: `share` is the part of the peak of the unit that ran. Only products of the convolution count.
"""

import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from math import isnan, nan
from statistics import median
from time import perf_counter, sleep

import bnn
from bench._harness import machine, save_rows, spread
from bench._peaks import OF_ROUTE, UNITS, peak
from bench._peers import TORCH, Here, Peak, Peer, Server, check, ours, servers, torch_peers
from python_tests.shapes import CONVS, Conv

BATCHES = (1, 16, 64)
QUICK = ("resnet18/", "mobilenet/1x1/512x14", "mobilenet/depthwise/512x14", "digits/64x14", "glyphs/32x16")
BLOCK = 5e-3  # seconds of a peer in a round: short, so that the machine is the same for all of them
QUIET = 1.5e12  # multiply-adds a second of the matrix unit with loads from L1; a busy neighbour leaves less than half
ENOUGH = 5  # calm rounds
PAUSE = 0.1  # seconds between looks for a calm moment
LOOKS = 20  # at each core, to choose one


def layers(names: Sequence[str], batches: Sequence[int]) -> list[tuple[str, Conv]]:
    """Layers whose name begins with one of `names`, in every batch."""
    chosen = [name for name in CONVS if name.startswith(tuple(names))]
    return [(name, replace(CONVS[name], n=n)) for n in batches for name in chosen]


def willing(found: list[Server], layer: Conv) -> list[Server]:
    """Those that can run the layer, loaded with it."""
    able = []
    for server in found:
        try:
            server.load(layer)
        except ValueError as error:
            print(f"  {error}")
        else:
            able.append(server)
    return able


def quiet() -> bool:
    """Whether the matrix unit is ours alone just now; yes where there is none."""
    rate = peak("amx_l1")
    return rate is None or rate >= QUIET


def measure(peers: Sequence[Peer], rounds: int, patience: float = 0) -> list[tuple[bool, list[float]]]:
    """Of each round whether it was calm, and the seconds of each peer, in turn; NaN where a slow one sits a round out.

    While `patience` seconds last, a round waits for a calm moment, and one that didn't end in it is measured again.
    """
    once = [max(min(peer.seconds(1) for _ in range(2)), 1e-6) for peer in peers]
    repeats = [max(1, int(BLOCK / seconds)) for seconds in once]
    every = [max(1, int(seconds / BLOCK / 4)) for seconds in once]
    found: list[tuple[bool, list[float]]] = []
    end = perf_counter() + patience
    while len(found) < rounds:
        calm = quiet()
        if not calm and perf_counter() < end:
            sleep(PAUSE)
            continue
        takes_part = [len(found) % e == 0 for e in every]
        times = [p.seconds(n) if yes else nan for p, n, yes in zip(peers, repeats, takes_part, strict=True)]
        calm = calm and quiet()
        if calm or perf_counter() >= end:
            found.append((calm, times))
    return found


def rows_of(name: str, layer: Conv, peers: Sequence[Peer], rounds: int, patience: float = 0) -> list[dict]:
    """A row for each of `peers` but the first, ours. ratio: its time by ours, the median over the rounds.

    Only calm rounds count where they are at least ENOUGH; a peer that sat them out has no row.
    """
    found = measure(peers, rounds, patience)
    calm = [times for was_calm, times in found if was_calm]
    mine, *others = zip(*(calm if len(calm) >= ENOUGH else [times for _, times in found]), strict=True)
    seconds = median(mine)
    row = {"op": "binary_conv2d_words", "shape": name, "batch": layer.n, "us": seconds * 1e6, "spread": spread(mine),
           "gmac_per_s": layer.macs / seconds / 1e9, "rounds": rounds, "calm": len(calm)}  # fmt: skip
    rows = []
    for peer, its in zip(peers[1:], others, strict=True):
        ran = [(theirs, own) for theirs, own in zip(its, mine, strict=True) if not isnan(theirs)]
        if ran:
            theirs = median(t for t, _ in ran)
            rival = {"rival": peer.name, "rival_us": theirs * 1e6, "rival_gmac_per_s": layer.macs / theirs / 1e9}
            rows.append({**row, **rival, "ratio": median(t / own for t, own in ran)})
    return rows


def keep_to_one_core() -> None:
    """This process and its children, so that all peers have the same neighbours: the core that is calm most often."""
    cores = sorted(os.sched_getaffinity(0))
    counts = dict.fromkeys(cores, 0)
    for core in cores * LOOKS:
        os.sched_setaffinity(0, {core})
        counts[core] += quiet()
        sleep(PAUSE / len(cores))
    os.sched_setaffinity(0, {max(cores, key=counts.__getitem__)})


def title(names: Sequence[str]) -> str:
    left = f"{'layer':<28} {'batch':>5} {'calm':>4} {'us':>9} {'GMAC/s':>7} {'kernel':<7} {'share':>6} "
    return left + f"{'AMX':>5} {'L1':>5} " + " ".join(f"{name:>11}" for name in names)


def line(rows: list[dict], names: Sequence[str], route: str) -> str:
    row, by_name = rows[0], {row["rival"]: row for row in rows}
    left = (
        f"{row['shape']:<28} {row['batch']:>5} {row['calm']:>4} {row['us']:>9.1f} {row['gmac_per_s']:>7.0f} {route:<7} "
    )
    unit = by_name.get(f"peak {OF_ROUTE.get(route)}")
    left += f"{100 * unit['ratio']:>5.0f}% " if unit else f"{'-':>6} "
    peaks = [
        f"{by_name[f'peak {u}']['rival_gmac_per_s']:>5.0f}" if f"peak {u}" in by_name else "    -" for u in UNITS[:2]
    ]
    ratios = [f"{by_name[n]['ratio']:>10.2f}x" if n in by_name else f"{'-':>11}" for n in names]
    return left + " ".join((*peaks, *ratios))


def summary(rows: list[dict]) -> str:
    """Per rival, over the cases of ResNet-18 with enough calm rounds."""
    counted = [r for r in rows if r["shape"].startswith("resnet18/") and r["calm"] >= ENOUGH]
    text = [f"ResNet-18, cases with at least {ENOUGH} calm rounds: time / ours"]
    for name in dict.fromkeys(row["rival"] for row in counted if not row["rival"].startswith("peak ")):
        found = [row for row in counted if row["rival"] == name]
        first = [row["ratio"] for row in found if row["batch"] == 1 and not row["shape"].endswith("/2")]
        least = f"{min(first):.2f}" if first else "-"
        text.append(f"  {name:<12} least of {len(first)} at batch 1, stride 1 (of 4): {least}; "
                    f"median of {len(found)}: {median(row['ratio'] for row in found):.2f}")  # fmt: skip
    return "\n".join(text)


def run(args: Namespace) -> None:
    units = [unit for unit in UNITS if peak(unit)]
    slower, best = bnn.isa.available()[1 if args.scalar else 2 : -1], bnn.isa.available()[-1]
    chosen = layers(args.layer or (QUICK if args.quick else [""]), args.batch or ((1,) if args.quick else BATCHES))
    rows: list[dict] = []
    if args.threads == 1:
        keep_to_one_core()
    with servers(args.threads) as found:
        facts = {**machine(), "isa": best, **{server.name: server.version for server in found}}
        print("  ".join(f"{key} {value}" for key, value in facts.items()))
        print("x: its time / ours. AMX, L1: GMAC/s of the matrix unit, operands in registers and in L1.")
        print(f"calm: rounds with L1 at {QUIET / 1e9:.0f} or more before and after, which count if {ENOUGH} or more.")
        names = [*TORCH, *(server.name for server in found), *(f"ours {isa}" for isa in slower)]
        print(title(names))
        for layer in dict.fromkeys(replace(layer, n=1) for _, layer in chosen):
            check(layer)
        for name, layer in chosen:
            bnn.isa.use(best)
            call, _, route = ours(layer)
            peers: list[Peer] = [Here("ours", call, best), *(Peak(unit, layer.macs) for unit in units)]
            peers += [Here(f"ours {isa}", call, isa) for isa in slower]
            peers += torch_peers(layer) + willing(found, layer)
            new = [{**row, "route": route} for row in rows_of(name, layer, peers, args.rounds, args.patience)]
            print(line(new, names, route), flush=True)
            save_rows(args.save, new, facts)
            rows += new
    print(summary(rows))
