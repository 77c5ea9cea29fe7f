"""Figures of a run: reliability diagram, accuracy per class, training curves; figures that compare several runs.

Every function writes one file (PNG, or what the ending says: pdf, svg) in one move, so that a reader never sees half of
one. 8 inches wide at 200 dpi, legible when shown 800 pixels wide; colors from Okabe and Ito, distinct to color-blind
readers. Needs matplotlib, which is imported on the first call.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bnn import metrics
from bnn.data.longtail import groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
MARKS = tuple(zip((BLUE, RED, GREEN, ORANGE, PURPLE, SKY), "os^Dvp", strict=True))  # color and marker, one an entry
SHADES = {"many": "#D5E6F2", "medium": "#FAECCB", "few": "#F6DACB"}
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10,
}
SUFFIXES = tuple(f"_{group}{bound}" for group in ("many", "medium", "few") for bound in ("", "_low", "_high"))
MOST_PANELS = 12


def reliability(path: str | Path, probabilities: Tensor, labels: Tensor, class_counts: Tensor | Sequence[int]) -> None:
    """Reliability diagram of all images and of those of many, medium and few classes; 15 bins of equal width.

    Black: accuracy in the bin; hatched: from there to the mean confidence, the gap that ECE weighs; below: how many
    images. probabilities [N, K], labels int [N], class_counts [K] of the training set. ValueError as in `metrics.ece`.
    """
    p, labels = metrics.check_probabilities(probabilities, labels)
    counts = metrics.check_counts(class_counts, p.shape[1], smallest=0)
    panels = {"all": counts >= 0, **groups(counts)}
    panels = {name: mask[labels] for name, mask in panels.items() if mask[labels].any()}
    down = math.ceil(len(panels) / 2)

    with _figure(path, height=0.4 + 3.9 * down) as figure:
        grid = figure.add_gridspec(down, 2, hspace=0.08, wspace=0.06)
        for i, (name, rows) in enumerate(panels.items()):
            cell = grid[i].subgridspec(2, 1, height_ratios=[4, 1.2], hspace=0.02)
            top = figure.add_subplot(cell[0])
            below = figure.add_subplot(cell[1], sharex=top)
            _reliability_panel(top, below, p[rows], labels[rows])
            error = metrics.ece(p[rows], labels[rows])
            top.set_title(f"{name}: {int(rows.sum())} images, ECE {error:.1f} %")
            if i % 2 == 0:
                top.set_ylabel("accuracy (%)")
                below.set_ylabel("images")
            if i >= len(panels) - 2:
                below.set_xlabel("confidence (%)")
            if i == 0:
                figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=3)


def per_class(path: str | Path, accuracies: Tensor | Sequence[float], class_counts: Tensor | Sequence[int]) -> None:
    """Accuracy of each class, the most frequent first, over the shades of many, medium and few, with each group's mean.

    accuracies [K] in percent, NaN where a class has no test images (`metrics.class_accuracy`); class_counts [K] of the
    training set, drawn below on a log scale. ValueError: shapes.
    """
    values = torch.as_tensor(accuracies).detach().cpu().double()
    counts = metrics.check_counts(class_counts, smallest=0)
    if values.shape != counts.shape:
        raise ValueError(f"accuracies: expected shape {list(counts.shape)}, one per class, got {list(values.shape)}")
    order = counts.argsort(descending=True, stable=True)
    masks = {name: mask[order].numpy() for name, mask in groups(counts).items()}
    heights, sizes = values[order].numpy(), counts[order].numpy()
    x = np.arange(len(heights))

    with _figure(path, height=4.8) as figure:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1.25])
        top.bar(x, heights, width=0.86, color=BLUE)
        for name, mask in masks.items():
            if not mask.any():
                continue
            first, last, size = int(x[mask][0]) - 0.5, int(x[mask][-1]) + 0.5, int(mask.sum())
            mean = torch.from_numpy(heights[mask]).nanmean().item()
            label = f"{name}: {size} class{'es' if size > 1 else ''}\n"
            label += "no test images" if math.isnan(mean) else f"mean {mean:.1f} %"
            top.axvspan(first, last, color=SHADES[name], zorder=0, linewidth=0, label=label)
            below.axvspan(first, last, color=SHADES[name], zorder=0, linewidth=0)
            top.plot([first, last], [mean, mean], color="black", linewidth=2)
        top.set(ylim=(0, 101), ylabel="accuracy (%)")
        below.stairs(sizes.clip(0.5), [*(x - 0.5), len(x) - 0.5], baseline=None, color="#444444", linewidth=1.8)
        below.set(yscale="log", xlim=(-0.5, len(x) - 0.5), ylabel="training\nimages")
        below.set_xlabel("rank of the class, most frequent first")
        below.xaxis.get_major_locator().set_params(integer=True)
        figure.align_ylabels()
        figure.legend(loc="outside upper center", ncols=3, handlelength=1.2, columnspacing=3)


def curves(path: str | Path, rows: Iterable[Mapping[str, Any]], names: Sequence[str] | None = None) -> None:
    """Training curves over the step, one panel per metric, one line per split (and phase, if there are several).

    rows: dicts with `step`, `split` and any number of name: value, as in metrics.jsonl; values that are no numbers are
    left out. names: the metrics to draw; None: the first 12 without those of a single group. <name>_low and <name>_high
    become a band; beyond 100 points the thick line is a running mean of 5 %. ValueError: nothing to draw, unknown name.
    """
    series = _series(list(rows))
    found = [name for name in series if not name.endswith(("_low", "_high"))]
    if missing := [name for name in names or () if name not in found]:
        raise ValueError(f"names: no values of {missing} in the rows; there are {found}")
    names = names or [name for name in found if not name.endswith(SUFFIXES)][:MOST_PANELS]
    if not names:
        raise ValueError("rows: no metric to draw; expected dicts with step, split and at least one name: number")
    splits = list(dict.fromkeys(split for name in names for split in series[name]))
    colors = {split: MARKS[i % len(MARKS)][0] for i, split in enumerate(splits)}

    across = min(len(names), 2 if len(names) <= 4 else 3)
    down = math.ceil(len(names) / across)
    with _figure(path, height=0.7 + (3.1 if across < 3 else 2.2) * down) as figure:
        panels = figure.subplots(down, across, squeeze=False, sharex=True).flatten()
        for axes, name in zip(panels, names, strict=False):
            for split, points in series[name].items():
                bounds = [series.get(name + bound, {}).get(split, {}) for bound in ("_low", "_high")]
                _curve(axes, points, bounds, colors[split])
            axes.set_title(name)
            axes.yaxis.set_major_formatter("{x:g}")
        for axes in panels[len(names) :]:
            axes.remove()
        for axes in panels[max(0, len(names) - across) : len(names)]:
            axes.set_xlabel("step")
            axes.tick_params(labelbottom=True)
        handles = [panels[0].plot([], [], color=colors[split], linewidth=2, label=_label(split))[0] for split in splits]
        figure.legend(handles=handles, loc="outside upper right", ncols=min(4, len(splits)))


def compare(path: str | Path, values: Mapping[str, Mapping[str, Sequence[float]]], ylabel: str) -> None:
    """Several entries side by side in each category: a point with its interval.

    values: entry -> category -> (value, low, high); an entry may lack a category. ValueError: no value at all.
    """
    categories = list(dict.fromkeys(category for points in values.values() for category in points))
    if not categories:
        raise ValueError("values: nothing to draw; expected entry -> category -> (value, low, high)")
    with _figure(path, height=4.2) as figure:
        axes = figure.subplots()
        for i, (entry, points) in enumerate(values.items()):
            color, marker = MARKS[i % len(MARKS)]
            shift = 0.72 * ((i + 0.5) / len(values) - 0.5)
            x = np.array([categories.index(category) + shift for category in points])
            y, low, high = np.array([points[category] for category in points], dtype=float).T
            bar: dict[str, Any] = {"capsize": 4, "elinewidth": 1.8, "capthick": 1.8, "markersize": 7}
            axes.errorbar(x, y, [y - low, high - y], fmt=marker, color=color, label=_label(entry), **bar)
        for edge in range(1, len(categories)):
            axes.axvline(edge - 0.5, color="#E3E3E3", linewidth=0.8)
        axes.set(ylabel=ylabel, xlim=(-0.5, len(categories) - 0.5), ylim=(0, None))
        axes.set_xticks(range(len(categories)), categories)
        axes.tick_params(axis="x", length=0)
        figure.legend(loc="outside upper center", ncols=min(3, len(values)))


def by_frequency(path: str | Path, accuracies: Mapping[str, Tensor], class_counts: Tensor | Sequence[int]) -> None:
    """Accuracy of every class over its training images, log scale: points, and a line through means of neighbours.

    accuracies: entry -> percent [K], NaN where a class has no test images; class_counts [K]. A mean is over a fifth of
    the classes by rank, at least 3. ValueError: shapes.
    """
    counts = metrics.check_counts(class_counts, smallest=0)
    with _figure(path, height=4.2) as figure:
        axes = figure.subplots()
        for i, (entry, values) in enumerate(accuracies.items()):
            if values.shape != counts.shape:
                raise ValueError(
                    f"accuracies: expected shape {list(counts.shape)}, got {list(values.shape)} of {entry}"
                )
            color, marker = MARKS[i % len(MARKS)]
            known = ~values.isnan()
            order = counts[known].argsort(stable=True)
            x, y = counts[known][order].clamp_min(0.5).numpy(), values[known][order].double().numpy()
            axes.plot(x, y, marker, color=color, alpha=0.3, markersize=4, markeredgewidth=0)
            half = max(1, len(x) // 10)
            near = [slice(max(0, k - half), k + half + 1) for k in range(len(x))]
            middle = [np.exp(np.log(x[part]).mean()) for part in near]
            axes.plot(middle, [y[part].mean() for part in near], color=color, linewidth=2.2, label=_label(entry))
        axes.set(xscale="log", ylim=(0, 101), xlabel="training images of the class", ylabel="accuracy (%)")
        axes.xaxis.set_major_formatter("{x:g}")
        figure.legend(loc="outside upper center", ncols=min(3, len(accuracies)))


def _label(text: str) -> str:
    """A name as matplotlib shows it unchanged: no formula between dollars, no label hidden by a first underscore."""
    text = text if len(text) <= 36 else text[:35] + "…"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


@contextmanager
def _figure(path: str | Path, height: float) -> Iterator[Figure]:
    """A figure to draw on, written when the block ends without an error. No pyplot: the caller's backend stays."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError("bnn.plotting needs matplotlib: pip install 'bnn-torch[run]'") from error
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        yield figure
        try:
            figure.savefig(partial, format=path.suffix[1:] or "png", dpi=200)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _reliability_panel(top: Axes, below: Axes, p: Tensor, labels: Tensor) -> None:
    bins = {name: values.numpy() for name, values in metrics.reliability_bins(p, labels).items()}
    left, count, accuracy, confidence = bins["edges"][:-1], bins["count"], bins["accuracy"], bins["confidence"]
    bar: dict[str, Any] = {"width": 100 / metrics.BINS, "align": "edge", "linewidth": 0.8}
    gap = confidence - accuracy
    over, under = np.where(gap > 0, gap, np.nan), np.where(gap < 0, -gap, np.nan)
    top.bar(left, np.minimum(accuracy, confidence), color=BLUE, edgecolor="white", **bar)
    top.bar(left, over, bottom=accuracy, color="#FBE3D3", edgecolor=RED, hatch="////", label="overconfident", **bar)
    top.bar(
        left, under, bottom=confidence, color="#D3E8F5", edgecolor=BLUE, hatch="....", label="underconfident", **bar
    )
    top.hlines(accuracy, left, left + 100 / metrics.BINS, color="black", linewidth=2.2, label="accuracy")
    top.plot([0, 100], [0, 100], color="#444444", linewidth=1.2, linestyle="--")
    top.set(xlim=(0, 100), ylim=(0, 101))
    top.tick_params(labelbottom=False)
    below.bar(left, count, color="#B5B5B5", edgecolor="white", **bar)
    for x, n in zip(left, count.astype(int), strict=True):
        if n:
            middle, above = x + 50 / metrics.BINS, n + 0.07 * count.max()
            below.text(middle, above, n, ha="center", va="bottom", fontsize=8.5, rotation=90)
    below.set(ylim=(0, 2.1 * count.max()), yticks=[])
    below.grid(False)


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[float, float]]]:
    """name -> line -> step -> value. Every phase counts its steps from 0, so two of them are two lines."""
    series: dict[str, dict[str, dict[float, float]]] = {}
    several = len({row.get("phase") for row in rows}) > 1
    for row in rows:
        line = f"{row.get('phase')}: {row['split']}" if several else str(row["split"])
        for name, value in row.items():
            if name in ("step", "epoch", "split") or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            series.setdefault(name, {}).setdefault(line, {})[row["step"]] = value
    return series


def _curve(axes: Axes, points: dict[float, float], bounds: list[dict[float, float]], color: str) -> None:
    steps = sorted(points)
    values = [points[step] for step in steps]
    if len(steps) > 100:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        half = len(steps) // 40
        windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
        values = [sum(window) / len(window) for window in windows]
    axes.plot(steps, values, color=color, linewidth=1.8, marker="o" if len(steps) <= 12 else None, markersize=4)
    low, high = bounds
    both = [step for step in steps if step in low and step in high]
    if both:
        axes.fill_between(both, [low[s] for s in both], [high[s] for s in both], color=color, alpha=0.15, linewidth=0)
