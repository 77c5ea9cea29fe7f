"""Finished runs side by side: the same data, groups that differ only in the seed."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bnn import metrics
from bnn.robustness import evaluate_under, priors

# Fields that say where a run stands, not what it computes; `from` is compared by what it names
PLACES = ("out", "data_root", "download", "device", "processes", "tracker")
ASIDE = ("seed", "from", "command", "versions", "resume", "overwrite", *PLACES)
SAME_DATA = ("data", "draw", "split", "classes", "class_counts")
PRIOR_TITLES = {"train": "as in training"}


@dataclass(frozen=True)
class Evaluated:
    """A finished run and its predictions on the test split.

    name: as it is shown. config, table, history, evaluation: what config.json, table.json, metrics.jsonl and
    evaluation.json hold. origins: configs of the runs that it came from, the nearest first. logits float [N, K],
    labels int [N]. cost: "training MB", "packed MB", "ms", "twin ms", as far as known, and "twin", its name.
    """

    name: str
    config: dict[str, Any]
    table: list[dict[str, Any]]
    logits: Tensor
    labels: Tensor
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    origins: list[dict[str, Any]] = field(default_factory=list)

    @property
    def counts(self) -> Tensor:
        return torch.tensor(self.config["class_counts"])

    @cached_property
    def figures(self) -> dict[str, float]:
        return metrics.evaluate(self.logits, self.labels, self.counts)

    @cached_property
    def priors(self) -> dict[str, dict[str, float]]:
        """Figures under each of `robustness.priors`; a class without test images has no share."""
        present = self.labels.bincount(minlength=len(self.counts)) > 0
        return {
            PRIOR_TITLES.get(name, name): evaluate_under(prior * present, self.logits, self.labels, self.counts)
            for name, prior in priors(self.counts).items()
        }

    @property
    def disagreement(self) -> float:
        """Points between the accuracy here and that of the nearest row of table.json."""
        recorded = [abs(row["accuracy"] - self.figures["accuracy"]) for row in self.table if "accuracy" in row]
        return min(recorded, default=math.inf)


Entries = Mapping[str, Sequence[Evaluated]]


def check_same_data(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError, naming two runs and the field, unless all have the same classes and long tail.

    configs: name -> config.json.
    """
    (first, config), *others = configs.items()
    for name, other in others:
        for field_name in SAME_DATA:
            one, two = config.get(field_name), other.get(field_name)
            if field_name == "split":  # a recipe that always trains on train records none
                one, two = one or "train", two or "train"
            if one != two:
                shown = f" ({one!r} and {two!r})" if isinstance(one, str | int) else ""
                raise ValueError(f"{first} and {name} differ in {field_name}{shown}: compare runs on one data set")


def group(runs: Sequence[Evaluated]) -> dict[str, list[Evaluated]]:
    """Runs that differ in nothing but the seed under one label, which is what their names have in common."""
    alike: dict[str, list[Evaluated]] = {}
    for run in runs:
        alike.setdefault(repr([_substance(config) for config in (run.config, *run.origins)]), []).append(run)
    entries: dict[str, list[Evaluated]] = {}
    for members in alike.values():
        label = _common_name([run.name for run in members]) or str(members[0].config["recipe"])
        while label in entries:
            label += "'"
        entries[label] = members
    return entries


def _substance(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted((name, value) for name, value in config.items() if name not in ASIDE)


def _common_name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return re.sub(r"[-_./ ]*(seed|s)?[-_=./ ]*$", "", os.path.commonprefix(list(names)))


def describe(run: Evaluated) -> str:
    """Recipe, network, epochs and seed in a few words."""
    config = run.config
    parts = [str(config["recipe"]), str(config["network"]["name"])]
    parts += [f"{config['epochs']} epochs"] if "epochs" in config else []
    return " · ".join([*parts, f"seed {config['seed']}"] if "seed" in config else parts)
