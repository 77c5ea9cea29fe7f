"""Tables of runs: one row an entry, which is a run or several that differ only in the seed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnn.report.runs import Entries, Evaluated, describe


@dataclass(frozen=True)
class Column:
    """A figure of a run. better: 1 if high, -1 if low is good, 0 neither."""

    title: str
    of: Callable[[Evaluated], float | None]
    interval: Callable[[Evaluated], tuple[float, float] | None] = lambda run: None
    better: int = 0
    digits: int = 1


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, smaller below it, and whether it is the best of its column."""

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """columns, and rows of cells; single: whether a row is one of the runs of the row above."""

    columns: list[str]
    rows: list[list[Cell]]
    single: list[bool]


def figure_column(title: str, name: str, better: int, digits: int = 1) -> Column:
    """A figure of `metrics.evaluate` with its interval, if it has one."""

    def interval(run: Evaluated) -> tuple[float, float] | None:
        bounds = run.figures.get(f"{name}_low"), run.figures.get(f"{name}_high")
        return None if None in bounds else bounds  # type: ignore[return-value]

    return Column(title, lambda run: run.figures.get(name), interval, better, digits)


def tabulate(entries: Entries, columns: Sequence[Column], *, singles: bool = True) -> Table:
    """A row an entry, mean ± standard deviation over several runs; singles: these runs below."""
    best = {}
    for column in columns:
        means = [found[0] for runs in entries.values() if (found := band(runs, column)) is not None]
        if column.better and len(set(means)) > 1:
            best[column.title] = max(means) if column.better > 0 else min(means)
    rows, single = [], []
    for label, runs in entries.items():
        cells = [_entry_cell(runs, column, best.get(column.title)) for column in columns]
        several = len(runs) > 1
        rows.append([Cell(label, f"mean ± std, {len(runs)} seeds" if several else describe(runs[0])), *cells])
        single.append(False)
        for run in runs if several and singles else ():
            rows.append([Cell(run.name, describe(run)), *(_entry_cell([run], column, None) for column in columns)])
            single.append(True)
    return Table(["", *(column.title for column in columns)], rows, single)


def _entry_cell(runs: Sequence[Evaluated], column: Column, best: float | None) -> Cell:
    found, digits = band(runs, column), column.digits
    if found is None:
        return Cell("–")
    value, low, high = (f"{number:.{digits}f}" for number in found)
    if len(runs) > 1:
        return Cell(f"{value} ± {found[2] - found[0]:.{digits}f}", "", found[0] == best)
    return Cell(value, f"{low} to {high}" if low != high else "", found[0] == best)


def band(runs: Sequence[Evaluated], column: Column) -> tuple[float, float, float] | None:
    """(value, low, high): of one run with its interval, of several their mean ± one standard deviation."""
    values = [value for run in runs if (value := column.of(run)) is not None]
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(runs) == 1:
        return (mean, *(column.interval(runs[0]) or (mean, mean)))
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return mean, mean - spread, mean + spread


def plain_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Flat dicts as they are, one row each; the first column is named by its key like the others."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[Cell(_text(row.get(name))) for name in columns] for row in rows]
    return Table([name.replace("_", " ") for name in columns], cells, [False] * len(rows))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "–" if value is None else str(value)
