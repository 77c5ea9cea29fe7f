"""`bnn train chain CONFIG.toml`: recipes one after the other, each on the run of the one before; every run packed.

    data = "glyphs"            # above the first step: fields of every step that has them
    draw = 4

    [[step]]
    recipe = "candle"
    epochs = 24

    [[step]]                   # from = the run of the step before
    recipe = "vtst"
    kl-weight = 0.1

    [[step]]
    recipe = "p2p"

Run folders OUT/1-candle, OUT/2-vtst, ..., packed files OUT/1-candle.safetensors, ..., and OUT/table.md: what each step
adds to accuracy and calibration, and what its packed network costs.
"""

import dataclasses
import json
import statistics
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from bnn import recipes
from bnn.commands._load import open_target
from bnn.commands._parse import as_json, flags, parse
from bnn.commands._several import OWN, Step, check_place
from bnn.commands.pack import pack_run
from bnn.recipes._report import markdown
from bnn.training.checkpoint import write_text

COLUMNS = ("mean", "many", "medium", "few", "ece", "size MB", "ms")
CALLS = 50
SET = (*OWN, "--device")


@dataclass(frozen=True)
class Config:
    """Run the recipes of a TOML file one after the other and pack every run."""

    file: tyro.conf.Positional[Path]
    """The steps."""
    out: Path | None = None
    """Folder for all runs; default runs/NAME for NAME.toml."""
    resume: bool = False
    """Continue the chain in the folder."""
    overwrite: bool = False
    """Delete the runs in the folder first."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: CUDA if there is one."""


def main(argv: list[str]) -> int:
    """Check the whole chain, run it, print its table."""
    rest, wants_json = as_json(argv)
    config = parse(Config, rest, "bnn train chain")
    out = config.out or Path("runs") / config.file.stem
    chain = read_steps(config.file, out, config)
    check_place("bnn train chain", out, config.resume, config.overwrite)
    rows = []
    for number, step in enumerate(chain, 1):
        print(f"[{number}/{len(chain)}] {step.recipe} -> {step.folder}", file=sys.stderr, flush=True)
        recipes.find(step.recipe).run(step.config)
        rows.append(packed_row(step.folder))
    table = markdown(rows, COLUMNS)
    write_text(out / "table.json", json.dumps(rows, indent=2) + "\n")
    write_text(out / "table.md", table)
    threads = torch.get_num_threads()
    note = f"figures of the packed network on test; ms: median of {CALLS} calls, one image, {threads} threads"
    print(json.dumps(rows, indent=2) if wants_json else f"{table}\n{note}")
    return 0


def read_steps(path: Path, out: Path, config: Config) -> list[Step]:
    """The steps of a chain with their complete Configs.

    Raises:
        FileNotFoundError: no such file. ValueError: not TOML, a field that no step has, steps that don't fit together.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a chain is a TOML file with [[step]] tables")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path} is not TOML: {problem}") from None
    tables = content.pop("step", None)
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{path}: expected [[step]] tables, each with a recipe")
    shared = {f"--{name.replace('_', '-')}": value for name, value in content.items()}
    used: set[str] = set()
    chain: list[Step] = []
    for number, table in enumerate(tables, 1):
        place = f"{path}, step {number}"
        recipe = table.get("recipe")
        if not isinstance(recipe, str):
            raise ValueError(f"{place}: expected recipe = one of {', '.join(recipes.NAMES)}")
        known = set(flags(recipes.find(recipe).Config)) - set(SET)
        common = {name: value for name, value in shared.items() if name in known}
        used |= set(common)
        own = {f"--{name.replace('_', '-')}": value for name, value in table.items() if name != "recipe"}
        check_fit(place, recipe, own, known, chain)
        if chain:
            own["--from"] = str(chain[-1].folder)
        folder = out / f"{number}-{recipe}"
        given = dataclasses.replace(config, out=folder)
        chain.append(Step(recipe, build(place, recipe, {**common, **own}, given), folder))
    unknown = sorted(set(shared) - used)
    if unknown:
        raise ValueError(f"{path}: no step has the field {unknown[0].removeprefix('--')}")
    return chain


def check_fit(place: str, recipe: str, own: dict[str, Any], known: set[str], before: list[Step]) -> None:
    """Raise ValueError for a field that a chain sets itself, or a step that can't follow those before."""
    taken = next((name for name in own if name in SET or (name == "--from" and before)), None)
    if taken:
        raise ValueError(
            f"{place}: leave out {taken.removeprefix('--')}: the chain sets it (see bnn train chain --help)"
        )
    if before and "--from" not in known:
        raise ValueError(f"{place}: {recipe} can't start from another run; it can only be the first step")
    if before and before[-1].recipe == "p2p":
        raise ValueError(f"{place}: nothing can follow p2p, which corrects a finished network; make it the last step")
    if not before and recipe in ("vtst", "retrain", "p2p") and "--from" not in own:
        raise ValueError(f"{place}: {recipe} needs a finished run: begin with a recipe that trains, or give from")


def build(place: str, recipe: str, fields: dict[str, Any], config: Config) -> Any:
    """The Config of a step from its fields, by the same checks as on the command line."""
    argv = ["--out", str(config.out), "--device", config.device]
    argv += [flag for flag, wanted in (("--resume", config.resume), ("--overwrite", config.overwrite)) if wanted]
    for name, value in fields.items():
        if isinstance(value, bool):
            argv.append(name if value else "--no-" + name.removeprefix("--"))
        else:
            argv += [name, *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return parse(recipes.find(recipe).Config, argv, f"{place}, {recipe}")


def packed_row(folder: Path) -> dict[str, Any]:
    """Pack the run in `folder` beside it; figures, megabytes and milliseconds of the packed network."""
    path = folder.with_name(folder.name + ".safetensors")
    facts = pack_run(open_target(str(folder)), path, overwrite=True)
    return {**facts["after"], "name": folder.name, "size MB": facts["bytes"] / 1e6, "ms": latency(path)}


def latency(path: Path) -> float:
    """Median milliseconds of a packed file on one image, after 5 calls that don't count."""
    target = open_target(str(path))
    x = torch.zeros(1, len(target.preprocess.mean), *target.preprocess.size).to(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        for _ in range(5 + CALLS):
            began = time.perf_counter()
            target.forward(x)
            times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[5:])
