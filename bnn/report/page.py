"""The page: what `render` fills page.html with.

Figures are inline SVG in the colors of the page, so that they follow its light or dark scheme. Text from run folders is
data: the template escapes all of it, and the page's content security policy allows neither scripts nor requests.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bnn import __version__, metrics, plotting
from bnn.data.longtail import FEW_BELOW, MANY_ABOVE, groups
from bnn.report.runs import Entries, Evaluated, check_same_data, group
from bnn.report.tables import Cell, Column, Table, band, figure_column, plain_table, tabulate

if TYPE_CHECKING:
    from markupsafe import Markup

ACCURACY = [figure_column(name, name, better=1) for name in ("mean", "many", "medium", "few")]
COMPARISON = [*ACCURACY, figure_column("ECE", "ece", -1), figure_column("NLL", "nll", -1, 2)]
CALIBRATION = [
    *(figure_column(f"ECE, {name}" if name else "ECE", f"ece_{name}" if name else "ece", -1)
      for name in ("", "many", "medium", "few")),
    figure_column("adaptive ECE", "ece_adaptive", -1), figure_column("class-wise ECE", "ece_classwise", -1, 2),
    figure_column("Brier", "brier", -1, 3),
]  # fmt: skip
COST = [
    Column("training MB", lambda run: run.cost.get("training MB"), digits=2),
    Column("packed MB", lambda run: run.cost.get("packed MB"), better=-1, digits=3),
    Column("ratio", lambda run: _ratio(run, "training MB", "packed MB")),
    Column("packed ms", lambda run: run.cost.get("ms"), better=-1, digits=2),
    Column("twin ms", lambda run: run.cost.get("twin ms"), digits=2),
    Column("twin / packed", lambda run: _ratio(run, "twin ms", "ms")),
]
RECORDED = ("name", "split", "mean", "many", "medium", "few", "accuracy", "ece", "nll")
SHOWN_APART = ("classes", "class_counts", "network", "preprocess", "versions", "command")
EVALUATIONS = {
    "ood": "Images of other classes",
    "corruptions": "Corrupted images",
    "shift": "Other class frequencies",
}
# What matplotlib writes -> a color of the page
INK = {
    "#ffffff": "surface", "#000000": "ink", "#444444": "axis", "#e3e3e3": "grid", "#b5b5b5": "bar", "#fbe3d3": "over",
    "#d3e8f5": "under", **{shade.lower(): name for name, shade in plotting.SHADES.items()},
}  # fmt: skip


def render(runs: Sequence[Evaluated], machine: Mapping[str, Any], title: str | None = None) -> str:
    """The page as HTML.

    machine: processor, threads, load and versions behind the figures of cost. Raises ValueError for runs on different
    data; ImportError if Jinja2 is missing.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("bnn report needs jinja2: pip install 'bnn-torch[run]'", name="jinja2") from error
    check_same_data({run.name: run.config for run in runs})
    entries = group(runs)
    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("page.html")
    config = runs[0].config
    return template.render(
        title=title or f"{len(runs)} run{'s' if len(runs) > 1 else ''} on {config['data']}",
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        version=__version__,
        machine=machine,
        facts=data_facts(runs[0]),
        bests=bests(entries),
        runs=runs,
        disagreeing=[run for run in runs if run.disagreement > 0.05],
        comparison=tabulate(entries, COMPARISON),
        calibration=tabulate(entries, CALIBRATION, singles=False),
        shift=tabulate(entries, shift_columns(runs[0]), singles=False),
        cost=tabulate(entries, COST, singles=False),
        twins=sorted({run.cost["twin"] for run in runs if run.cost.get("twin")}),
        evaluations=evaluations(runs),
        classes=class_table(entries),
        details=[details(run) for run in runs],
        several=any(len(members) > 1 for members in entries.values()),
        figures=draw(entries, runs),
    )


def data_facts(run: Evaluated) -> list[tuple[str, str]]:
    """What the runs were trained and tested on, in a few words each."""
    counts = run.counts
    sizes = {name: int(mask.sum()) for name, mask in groups(counts).items()}
    return [
        ("data set", str(run.config["data"])),
        ("classes", f"{len(counts)}: " + ", ".join(f"{n} {name}" for name, n in sizes.items())),
        ("training images", f"{int(counts.sum()):,}, {int(counts.max())} to {int(counts.min())} a class"),
        ("test images", f"{len(run.labels):,}"),
        ("many, medium, few", f"above {MANY_ABOVE}, {FEW_BELOW} to {MANY_ABOVE}, below {FEW_BELOW} training images"),
    ]


def bests(entries: Entries) -> list[dict[str, str]]:
    """The entry that leads in a figure, for the figures that people ask for first."""
    asked = [("highest mean accuracy", ACCURACY[0], " %"), ("highest accuracy on few", ACCURACY[3], " %"),
             ("lowest ECE", COMPARISON[4], " %"), ("smallest file", COST[1], " MB")]  # fmt: skip
    found = []
    for what, column, unit in asked:
        values = {label: value[0] for label, runs in entries.items() if (value := band(runs, column)) is not None}
        if len(set(values.values())) > 1:
            label = max(values, key=lambda name: column.better * values[name])
            found.append({"what": what, "value": f"{values[label]:.{column.digits}f}{unit}", "who": label})
    return found


def shift_columns(run: Evaluated) -> list[Column]:
    """Accuracy, then ECE, under each prior."""

    def column(title: str, prior: str, name: str, better: int) -> Column:
        return Column(f"{title}, {prior}", lambda run: run.priors[prior][name], better=better)

    kinds = (("accuracy", "accuracy", 1), ("ECE", "ece", -1))
    return [column(title, prior, name, better) for title, name, better in kinds for prior in run.priors]


def evaluations(runs: Sequence[Evaluated]) -> list[tuple[str, Table]]:
    """A titled table for every list of rows in the runs' evaluation.json, the run in the first column."""
    names = dict.fromkeys(name for run in runs for name, rows in run.evaluation.items() if isinstance(rows, list))
    tables = []
    for name in names:
        rows = [{"run": run.name, **row} for run in runs for row in run.evaluation.get(name, ())]
        if rows:
            tables.append((EVALUATIONS.get(name, name), plain_table(rows)))
    return tables


def class_table(entries: Entries) -> Table:
    """Every class, the most frequent first: training images and accuracy of each entry."""
    run = next(iter(entries.values()))[0]
    found = {label: class_accuracies(members) for label, members in entries.items()}
    order = run.counts.argsort(descending=True, stable=True).tolist()
    rows = [
        [Cell(str(run.config["classes"][k])), Cell(str(int(run.counts[k])))]
        + [Cell("–" if values[k].isnan() else f"{values[k]:.0f}") for values in found.values()]
        for k in order
    ]
    return Table(["class", "training images", *found], rows, [False] * len(rows))


def class_accuracies(runs: Sequence[Evaluated]) -> torch.Tensor:
    """Percent [K], mean over the runs."""
    return torch.stack([metrics.class_accuracy(run.logits, run.labels) for run in runs]).mean(0)


def details(run: Evaluated) -> dict[str, Any]:
    """What it takes to do a run again, and what it recorded."""
    config = run.config
    fields = {name: value for name, value in config.items() if name not in SHOWN_APART and value not in (None, "")}
    versions = ", ".join(f"{name} {value}" for name, value in config.get("versions", {}).items())
    recorded = [{name: row.get(name) for name in RECORDED} for row in run.table]
    return {
        "name": run.name,
        "commands": [str(c.get("command", "not recorded")) for c in (*reversed(run.origins), config)],
        "seed": config.get("seed", "–"),
        "versions": versions or "not recorded",
        "fields": {name: str(value) for name, value in fields.items()},
        "table": plain_table(recorded),
    }


def draw(entries: Entries, runs: Sequence[Evaluated]) -> dict[str, Any]:
    """The figures by name; per run: "reliability" and "per_class"."""

    def values(columns: Mapping[str, Column]) -> dict[str, dict[str, tuple[float, float, float]]]:
        return {
            label: {name: found for name, column in columns.items() if (found := band(members, column)) is not None}
            for label, members in entries.items()
        }

    names = list(runs[0].priors)
    shift = dict(zip(names, shift_columns(runs[0])[-len(names) :], strict=True))
    accuracies = {label: class_accuracies(members) for label, members in entries.items()}
    rows = [row for run in runs for row in balance(run)]
    return {
        "groups": svg("groups", plotting.compare, values({c.title: c for c in ACCURACY}), "accuracy (%)"),
        "frequency": svg("frequency", plotting.by_frequency, accuracies, runs[0].counts),
        "shift": svg("shift", plotting.compare, values(shift), "ECE (%)"),
        "balance": svg("balance", plotting.curves, rows, ["lambda"]) if rows else None,
        "reliability": [
            svg(f"reliability{i}", plotting.reliability, run.logits.double().softmax(1), run.labels, run.counts)
            for i, run in enumerate(runs)
        ],
        "per_class": [
            svg(f"class{i}", plotting.per_class, metrics.class_accuracy(run.logits, run.labels), run.counts)
            for i, run in enumerate(runs)
        ],
    }


def balance(run: Evaluated) -> list[dict[str, Any]]:
    """lambda over the steps for `plotting.curves`, a line a run, or a line a phase if several have it."""
    rows = [row for row in run.history if isinstance(row.get("lambda"), float)]
    several = len({row["phase"] for row in rows}) > 1
    return [
        {"step": r["step"], "split": f"{run.name}, {r['phase']}" if several else run.name, "lambda": r["lambda"]}
        for r in rows
    ]


def svg(name: str, draw: Callable[..., None], *arguments: Any) -> Markup:
    """What `draw(path, *arguments)` of `plotting` draws, for the page; `name` keeps its ids apart from others'."""
    from markupsafe import Markup

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figure.svg")
        draw(path, *arguments)
        text = path.read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda color: f"var(--{INK[color[0]]})" if color[0] in INK else color[0], text)
    return Markup(text)


def _ratio(run: Evaluated, above: str, below: str) -> float | None:
    return run.cost[above] / run.cost[below] if run.cost.get(above) and run.cost.get(below) else None
