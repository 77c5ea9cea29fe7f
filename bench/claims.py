"""`make claims`: rerun the tables of docs/recipes.md. Resumable: finished runs are kept, interrupted ones continue."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from bnn.commands.chain import packed_row

FINAL_DRAWS = (4, 5, 6)  # choices were made on draw 0; an earlier default was tabled on 1, 2, 3
GROUPS = ("mean", "many", "medium", "few", "ece")

BALANCED = ["plain", "--loss", "balanced_softmax"]
# No long tail, few images, long training: where a network grows over-confident
SMALL = ["plain", "--imbalance", "1", "--n-max", "20", "--epochs", "60"]
REAL = ["--model", "resnet_tiny", "--lr", "2e-3"]
EVOLUTION = """ke --data digits --image-size 16 --imbalance 1 --n-max 10 --batch-size 10 --epochs 12 --precision no
    --generations""".split()

# As many steps for every row, those of 6 epochs of the target images alone; a pretrained body, as in the paper
PRETRAINED = ["--from", "{source-student}"]
GRANULARITY = ["granularity", *PRETRAINED, "--steps", "402", "--per-class", "5", "--silencing"]

NAMED = r"\{([\w-]+)\}"
# name -> arguments of `bnn train`; {name} is the folder of another run of the same draw, which is trained first
RUNS: dict[str, list[str]] = {
    "source-student": ["plain", "--split", "source", "--epochs", "6", "--lr", "2e-3"],
    "ce": ["plain", "--loss", "ce"],
    "ce-real": ["plain", "--loss", "ce", *REAL],
    "las": ["plain", "--loss", "label_aware_smoothing"],
    "balanced": BALANCED,
    "balanced-mixup": [*BALANCED, "--mix", "mixup"],
    "balanced-cutmix": [*BALANCED, "--mix", "cutmix"],
    "mixup": ["plain", "--mix", "mixup"],
    "weights": ["plain", "--loss", "class_balanced"],
    "sampler": ["plain", "--sampler", "class_balanced"],
    "ldam-drw": ["plain", "--loss", "ldam", "--head", "cosine"],
    "cosine": ["plain", "--head", "cosine"],
    **{f"ce-{method}": ["retrain", "--from", "{ce}", "--method", method] for method in ("crt", "lws", "tau", "lort")},
    "pretrained-balanced": [*BALANCED, "--from", "{source-student}"],
    "full": ["plain", "--imbalance", "1", "--epochs", "5"],
    "kd": ["candle", "--calibration-loss", "ce", "--balance", "fixed", "--fixed-balance", "1", "--no-mixup"],
    "candle-t1": ["candle", "--temperature", "1", "--no-mixup"],
    "candle": ["candle"],
    "candle-no-mixup": ["candle", "--no-mixup"],
    "candle-ce": ["candle", "--calibration-loss", "ce"],
    "candle-las": ["candle", "--calibration-loss", "label_aware_smoothing"],
    "candle-fixed": ["candle", "--balance", "fixed"],
    "candle-multires": ["candle", "--teacher-resolutions", "24", "32", "40"],
    "candle-two-step": ["candle", "--two-step"],
    "candle-source": ["candle", "--source-images", "32"],
    "small": SMALL,
    "small-real": [*SMALL, *REAL],
    **{
        f"{name}-vtst": ["vtst", "--from", f"{{{name}}}"] for name in ("ce", "ce-real", "candle", "small", "small-real")
    },
    "evolution": [*EVOLUTION, "6"],
    "evolution-long": [*EVOLUTION, "6", "--control", "long"],
    "evolution-real": [*EVOLUTION, "6", *REAL],
    "evolution-real-8": [*EVOLUTION, "8", *REAL],
    "evolution-real-long": [*EVOLUTION, "6", *REAL, "--control", "long"],
    "granularity-base": [*BALANCED, *PRETRAINED, "--epochs", "6"],
    "granularity-random": [*GRANULARITY, "none", "--neighbors", "random"],
    **{f"granularity-{kind}": [*GRANULARITY, kind] for kind in ("none", "hard", "back", "soft")},
    **{
        f"{name}-p2p": ["p2p", "--from", f"{{{name}}}"]
        for name in "ce cosine balanced kd candle-vtst candle-t1 candle candle-no-mixup candle-ce candle-las".split()
    },
}

# table -> row -> (run, row of its table.json)
TABLES: dict[str, dict[str, tuple[str, int]]] = {
    "main": {
        "cross-entropy": ("ce", 0),
        "cross-entropy, minus log pi": ("ce-p2p", 2),
        "cross-entropy + P2P": ("ce-p2p", 1),
        "label-aware smoothing": ("las", 0),
        "balanced softmax": ("balanced", 0),
        "balanced softmax, mixup": ("balanced-mixup", 0),
        "pretrained on source, then balanced softmax": ("pretrained-balanced", 0),
        "distillation alone": ("kd", 0),
        "distillation alone, + P2P": ("kd-p2p", 1),
        "CANDLE, literal T = 1": ("candle-t1", 0),
        "CANDLE, literal T = 1, + P2P": ("candle-t1-p2p", 1),
        "CANDLE (T = 8, mixup)": ("candle", 0),
        "CANDLE + P2P": ("candle-p2p", 1),
        "calibrated teacher (full precision)": ("candle", 1),
        "cross-entropy on the balanced set, same steps": ("full", 0),
    },
    "classics": {
        "cross-entropy": ("ce", 0),
        "cross-entropy + P2P": ("ce-p2p", 1),
        "balanced softmax": ("balanced", 0),
        "class-balanced weights": ("weights", 0),
        "class-balanced sampling": ("sampler", 0),
        "LDAM-DRW": ("ldam-drw", 0),
        "cross-entropy, then cRT": ("ce-crt", 1),
        "cross-entropy, then LWS": ("ce-lws", 1),
        "cross-entropy, then tau-normalization": ("ce-tau", 1),
        "cross-entropy, then LORT": ("ce-lort", 1),
        "cross-entropy, then LORT, temperature": ("ce-lort", 2),
        "cosine head": ("cosine", 0),
        "cosine head + P2P": ("cosine-p2p", 1),
        "mixup": ("mixup", 0),
        "balanced softmax, mixup": ("balanced-mixup", 0),
        "balanced softmax, cutmix": ("balanced-cutmix", 0),
    },
    "ablations": {
        "CANDLE": ("candle", 0),
        "CANDLE + P2P": ("candle-p2p", 1),
        "without mixup": ("candle-no-mixup", 0),
        "without mixup, + P2P": ("candle-no-mixup-p2p", 1),
        "teacher's classifier by cross-entropy": ("candle-ce", 0),
        "teacher's classifier by cross-entropy, + P2P": ("candle-ce-p2p", 1),
        "balance fixed at 0.5": ("candle-fixed", 0),
        "teacher calibrated at 24, 32 and 40 pixels": ("candle-multires", 0),
        "teacher's classifier by label-aware smoothing": ("candle-las", 0),
        "teacher's classifier by label-aware smoothing, + P2P": ("candle-las-p2p", 1),
        "two steps: real, then binary weights": ("candle-two-step", 0),
        "32 source images in every batch": ("candle-source", 0),
    },
    "p2p": {
        f"{what}: {which}": (f"{run}-p2p", row)
        for what, run in {
            "cross-entropy": "ce",
            "distillation alone": "kd",
            "CANDLE, literal T = 1": "candle-t1",
            "CANDLE": "candle",
        }.items()
        for which, row in {"itself": 0, "minus log pi": 2, "tau-normalized": 3, "DROPS": 4, "P2P": 1}.items()
    },
    "vtst": {
        f"{what}: {head}": (run, row)
        for what, run in {
            "binary, long tail": "ce-vtst",
            "real, long tail": "ce-real-vtst",
            "binary, 20 images a class": "small-vtst",
            "real, 20 images a class": "small-real-vtst",
        }.items()
        for row, head in enumerate(("source run", "temperature", "TST", "new linear classifier", "V-TST"))
    },
    "ke": {
        "binary, slim, generation 1": ("evolution", 1),
        "binary, slim, generation 6": ("evolution", 11),
        "binary, dense, generation 6": ("evolution", 10),
        "binary, dense, one long training": ("evolution-long", 0),
        "real, slim, generation 1": ("evolution-real", 1),
        "real, slim, generation 6": ("evolution-real", 11),
        "real, dense, generation 6": ("evolution-real", 10),
        "real, dense, one long training": ("evolution-real-long", 0),
        "real, slim, generation 8": ("evolution-real-8", 15),
        "real, dense, generation 8": ("evolution-real-8", 14),
    },
    "granularity": {
        "balanced softmax, same steps": ("granularity-base", 0),
        "random auxiliary classes": ("granularity-random", 0),
        "look-alikes, no silencing": ("granularity-none", 0),
        "look-alikes, hard silencing": ("granularity-hard", 0),
        "look-alikes, back silencing": ("granularity-back", 0),
        "look-alikes, soft silencing": ("granularity-soft", 0),
    },
    "chain": {
        "CANDLE": ("candle", 0),
        "CANDLE, V-TST": ("candle-vtst", -1),
        "CANDLE, V-TST, P2P": ("candle-vtst-p2p", 1),
        "CANDLE, P2P": ("candle-p2p", 1),
    },
}


def needed(names: Sequence[str]) -> list[str]:
    """The runs `names` and those they start from, in the order of RUNS made topological."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        for before in parents(name):
            visit(before)
        found.setdefault(name)

    for name in names:
        visit(name)
    return list(found)


def parents(name: str) -> list[str]:
    """Runs whose folders the arguments of run `name` mention."""
    return re.findall(NAMED, " ".join(RUNS[name]))


Trial = tuple[int, int]  # draw of the classes, seed


def trials(draws: Sequence[int], seeds: int) -> list[Trial]:
    """Of every draw `seeds` trainings: with the seed draw, draw + 100, ..."""
    return [(draw, draw + 100 * i) for i in range(seeds) for draw in draws]


def folder(name: str, trial: Trial, out: Path) -> Path:
    """Where a run lies; the source images, and what learns them, are the same for every draw."""
    draw, seed = trial
    return out / (name if name.startswith("source") else f"{name}-{draw}" if seed == draw else f"{name}-{draw}-s{seed}")


def train(name: str, trial: Trial, out: Path, before: Mapping[Path, Future]) -> None:
    """One `bnn train`, unless its table is there already; waits for the runs it starts from."""
    for parent in parents(name):
        before[folder(parent, trial, out)].result()
    place = folder(name, trial, out)
    if (place / "table.json").exists():
        return
    recipe, *arguments = [re.sub(NAMED, lambda found: str(folder(found[1], trial, out)), word) for word in RUNS[name]]
    if recipe not in ("p2p", "vtst", "retrain") and not name.startswith("source"):
        arguments += ["--draw", str(trial[0]), "--seed", str(trial[1])]
    arguments += ["--out", str(place), *(["--resume"] if place.exists() else [])]
    with open(place.with_suffix(".log"), "a") as log:
        subprocess.run([sys.executable, "-m", "bnn", "train", recipe, *arguments], check=True, stdout=log, stderr=log)


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean ± standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.{digits}f}"
    return f"{mean} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else mean


def table(name: str, out: Path, tried: Sequence[Trial]) -> str:
    """Mean ± standard deviation over the trials that are finished (their number is n), in Markdown.

    The table "chain" has the figures of the packed networks, their size and latency.
    """
    packed = name == "chain"
    columns = {**dict.fromkeys(GROUPS, 1), **({"size MB": 2, "ms": 2} if packed else {})}  # digits behind the point
    lines = [f"| {name} | {' | '.join(columns)} | n |", f"|---|{'---:|' * (len(columns) + 1)}"]
    for label, (run, index) in TABLES[name].items():
        finished = [place for trial in tried if ((place := folder(run, trial, out)) / "table.json").exists()]
        rows = [packed_row(p) if packed else json.loads((p / "table.json").read_text())[index] for p in finished]
        if rows:
            cells = [spread([row.get(column) for row in rows], digits) for column, digits in columns.items()]
            lines.append(f"| {label} | {' | '.join(cells)} | {len(rows)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--draws", type=int, nargs="+", default=list(FINAL_DRAWS))
    parser.add_argument("--seeds", type=int, default=1, help="trainings of every draw (1)")
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each (2)")
    parser.add_argument("--show", action="store_true", help="print the tables of what is finished, run nothing")
    args = parser.parse_args()
    if not args.show:
        run_all(args)
    for name in args.tables:
        print(table(name, args.out, trials(args.draws, args.seeds)), end="\n\n")


def run_all(args: argparse.Namespace) -> None:
    """Every run that the tables need, `jobs` at a time."""
    from tqdm import tqdm

    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    names = needed([run for name in args.tables for run, _ in TABLES[name].values()])
    jobs: dict[Path, Future] = {}  # a run waits only for runs that were submitted, hence started, before it
    with ThreadPoolExecutor(args.jobs) as pool:
        for name in names:
            for trial in trials(args.draws, args.seeds):
                place = folder(name, trial, args.out)
                if place not in jobs:
                    jobs[place] = pool.submit(train, name, trial, args.out, jobs)
        for job in tqdm(jobs.values(), desc="claims", unit=" runs"):
            job.result()


if __name__ == "__main__":
    main()
