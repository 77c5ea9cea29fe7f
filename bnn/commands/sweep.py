"""`bnn sweep RECIPE [flags]`: a recipe over seeds and other fields, one run after the other, one table of means.

Every flag of `bnn train RECIPE` may have several values: the runs are all their combinations. A flag whose field is a
list of numbers itself keeps its values together; --X --no-X together are both. Run folders OUT/loss-ce_seed-0, ...;
OUT/sweep.json: every run with its rows, and the table.
"""

import dataclasses
import itertools
import json
import re
import statistics
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tyro

from bnn import recipes
from bnn.commands._parse import as_json, continuation, flags, is_flag, parse
from bnn.commands._several import OWN, Step, check_place
from bnn.recipes._config import to_dict
from bnn.recipes._report import COLUMNS, markdown
from bnn.training.checkpoint import write_text
from bnn.training.run import check_folder, read_json

TOLD = (ValueError, FileNotFoundError, ImportError, FloatingPointError)  # what their message says is enough
FLAGS = (*OWN, "--dry-run", "--no-dry-run", "--help", "-h")  # of the sweep itself


@dataclass(frozen=True)
class Config:
    """Run a recipe over a grid: give any flag of `bnn train RECIPE` several values, for example --seed 0 1 2."""

    recipe: tyro.conf.Positional[str]
    """Recipe; its flags follow."""
    out: Path | None = None
    """Folder for all runs; default runs/sweep-RECIPE."""
    resume: bool = False
    """Skip finished runs, continue the interrupted one."""
    overwrite: bool = False
    """Delete the runs in the folder first."""
    dry_run: bool = False
    """Print the commands only."""


def main(argv: list[str]) -> int:
    """Check the whole grid, run it, print its table."""
    rest, wants_json = as_json(argv)
    own, swept = split(rest)
    config = parse(Config, own, "bnn sweep")
    out = config.out or Path("runs") / f"sweep-{config.recipe}"
    cells = list(grid(config, out, swept))
    if config.dry_run:
        print("\n".join(continuation(["train", *cell.argv], resume=config.resume) for cell in cells))
        return 0
    check_place("bnn sweep", out, config.resume, config.overwrite)
    record: dict[str, Any] = {}
    try:
        for number, cell in enumerate(cells, 1):
            print(f"[{number}/{len(cells)}] {cell.step.folder}", file=sys.stderr, flush=True)
            cell.run()
            record = {"recipe": config.recipe, "runs": [c.record() for c in cells], "table": summary(cells)}
            out.mkdir(parents=True, exist_ok=True)  # a run that fails at once has made none
            write_text(out / "sweep.json", json.dumps(record, indent=2) + "\n")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; continue with: {continuation(['sweep', *argv])}") from None
    print(json.dumps(record, indent=2) if wants_json else markdown(rounded(record["table"]), (*COLUMNS, "runs")))
    failed = [cell for cell in cells if cell.problem]
    for cell in failed:
        print(f"bnn: {cell.step.folder} failed: {cell.problem}", file=sys.stderr)
    return 1 if failed else 0


@dataclass
class Cell:
    """One run of the grid: `fields` are the swept ones with their values, `argv` what `bnn train` would take."""

    step: Step
    fields: dict[str, str]
    argv: list[str]
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    problem: str = ""

    def run(self) -> None:
        """Fill `rows`, or `problem` if the run fails. A finished run is only read."""
        step, table = self.step, self.step.folder / "table.json"
        try:
            if table.is_file() and step.config.resume:
                asked = {"recipe": step.recipe, **to_dict(step.config)}
                auto = [name for name, value in asked.items() if value == "auto"]  # recorded as resolved
                check_folder(
                    step.folder, {n: v for n, v in asked.items() if n not in auto}, resume=True, overwrite=False
                )
                rows: Any = read_json(table)
                self.rows = rows
            else:
                self.rows = recipes.find(step.recipe).run(step.config).rows
        except Exception as problem:
            self.problem = " ".join(str(problem).split()) or type(problem).__name__
            if not isinstance(problem, TOLD):
                traceback.print_exc()

    def record(self) -> dict[str, Any]:
        """For sweep.json."""
        status = "failed" if self.problem else "finished" if self.rows else "waiting"
        told = {"problem": self.problem} if self.problem else {}
        return {"folder": str(self.step.folder), "fields": self.fields, "status": status, **told, "rows": self.rows}


def split(argv: list[str]) -> tuple[list[str], list[list[str]]]:
    """Arguments of the sweep itself, and those of the recipe as groups: a flag and what follows it."""
    found: list[list[str]] = [[]]
    for token in argv:
        if is_flag(token):
            name, equals, value = token.partition("=")
            found.append([name.replace("_", "-"), *([value] if equals else [])])
        else:
            found[-1].append(token)

    def is_own(group: list[str]) -> bool:
        return not group or group[0] in FLAGS or not is_flag(group[0])

    own = [token for group in found if is_own(group) for token in group]
    return own, [group for group in found if not is_own(group)]


def grid(config: Config, out: Path, swept: list[list[str]]) -> Iterator[Cell]:
    """Every combination with its complete Config.

    Raises:
        ValueError: an unknown flag or value, the same run twice.
    """
    recipe = recipes.find(config.recipe).Config
    known = flags(recipe)
    choices: dict[str, list[list[str]]] = {}
    for group in swept:
        positive = "--" + group[0].removeprefix("--no-")
        name = positive if positive in known else group[0]
        choices.setdefault(name, []).extend(alternatives(group, name in _lists(recipe)))
    places: set[Path] = set()
    order = sorted(choices, key=lambda name: name == "--seed")  # seeds change fastest
    for chosen in itertools.product(*(choices[name] for name in order)):
        argv = [token for part in chosen for token in part]
        fields = {name: " ".join(part[1:]) or part[0] for name, part in zip(order, chosen, strict=True)}
        varied = {name.removeprefix("--"): value for name, value in fields.items() if len(choices[name]) > 1}
        if "--seed" in known:
            varied["seed"] = fields.get("--seed", str(recipe.seed))
        folder = out / (folder_name(varied) or config.recipe)
        if folder in places:
            raise ValueError(f"{folder} would hold two runs: give each value once")
        places.add(folder)
        passed = [f"--{n}" for n, wanted in (("resume", config.resume), ("overwrite", config.overwrite)) if wanted]
        whole = [*argv, "--out", str(folder)]
        built = parse(recipe, [*whole, *passed], f"bnn sweep {config.recipe}")
        yield Cell(Step(config.recipe, built, folder), varied, [config.recipe, *whole])


def alternatives(group: list[str], one_list: bool) -> list[list[str]]:
    """What a flag with its values stands for: one choice a value, unless the values are one list or there is none."""
    return [group] if one_list or len(group) == 1 else [[group[0], value] for value in group[1:]]


def _lists(config: type) -> set[str]:
    """Flags of a dataclass whose fields are tuples."""
    found = set()
    for name, hint in get_type_hints(config).items():
        if tuple in [get_origin(part) for part in (hint, *get_args(hint))]:
            found.add(f"--{name.replace('_', '-')}")
    return found


def folder_name(fields: dict[str, str]) -> str:
    """loss-ce_seed-0: names and values joined, what a path can't hold replaced by a dash."""
    parts = [
        value.removeprefix("--") if value.startswith("--") else f"{name}-{value}" for name, value in fields.items()
    ]
    return "_".join(re.sub(r"[^\w.+-]+", "-", part) for part in parts)


def summary(cells: list[Cell]) -> list[dict[str, Any]]:
    """One row a setting and row of its tables: mean and <name>_std of every figure over the seeds, `runs` of them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        setting = folder_name({name: value for name, value in cell.fields.items() if name != "seed"})
        for row in cell.rows:
            found.setdefault(f"{setting}: {row['name']}" if setting else row["name"], []).append(row)
    return [means(name, members) for name, members in found.items()]


def means(name: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of `summary`."""
    row: dict[str, Any] = {"name": name, "runs": len(members)}
    for figure in members[0]:
        values = [member[figure] for member in members if isinstance(member.get(figure), float)]
        if values and not figure.endswith(("_low", "_high")):
            row[figure] = statistics.fmean(values)
            row[f"{figure}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return row


def rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `summary` for `markdown`: mean ± std in one cell."""

    def cell(row: dict[str, Any], name: str) -> Any:
        spread = row.get(f"{name}_std")
        return row.get(name) if spread is None else f"{row[name]:.2f} ± {spread:.2f}"

    return [{name: cell(row, name) for name in ("name", *COLUMNS, "runs")} for row in rows]
