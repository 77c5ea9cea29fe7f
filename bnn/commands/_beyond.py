"""What `bnn eval` adds to the test split: strange images, corruptions, other class frequencies."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnn import data as datasets
from bnn import metrics, robustness
from bnn.commands._load import Target
from bnn.data import Data, Images
from bnn.data.corruptions import CorruptedImages
from bnn.data.images import as_mode
from bnn.recipes._report import COLUMNS, markdown
from bnn.training.checkpoint import write_text
from bnn.training.predict import predict
from bnn.training.run import read_json

OOD_COLUMNS = tuple(f"{figure}_{score}" for score in ("msp", "max_logit", "energy") for figure in ("auroc", "fpr95"))
SHIFT_COLUMNS = ("accuracy", "ece", "ece_many", "ece_medium", "ece_few", "nll", "effective")


@dataclass(frozen=True)
class Subject:
    """A model and the images it is asked about."""

    target: Target
    data: Data
    split: str
    device: torch.device

    def predict(self, images: Images) -> tuple[Tensor, Tensor]:
        """Corrected logits [N, K] and labels [N]; images of the other colour mode are converted."""
        preprocess = self.target.preprocess

        def normalize(batch: Tensor) -> Tensor:
            return preprocess.normalize(as_mode(batch, preprocess.mode))

        return predict(self.target.forward, images, normalize, device=self.device)

    @cached_property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """Of the images as they are."""
        return self.predict(self.data.splits[self.split])


def ood(subject: Subject, spec: str, data_root: Path | None, download: bool) -> dict[str, Any]:
    """A row for the data set `spec`: how well scores tell its test images from those of `subject`.

    Raises ValueError if the model knows all its classes.
    """
    strange, _ = subject.predict(_strangers(subject, spec, data_root, download))
    figures = robustness.out_of_distribution(subject.outputs[0], strange)
    return {"name": spec, "known": len(subject.outputs[0]), "strange": len(strange), **figures}


def _strangers(subject: Subject, spec: str, data_root: Path | None, download: bool) -> Images:
    """The test images of `spec` whose class has no name that the model knows."""
    known, size = subject.data.classes, subject.target.preprocess.size[0]
    if spec == "glyphs":
        from bnn.data import glyphs

        return glyphs.strangers(known, size)
    given: dict[str, Any] = {"data_root": data_root, "download": download}
    data = datasets.load(spec, image_size=size, **{name: given[name] for name in datasets.options(spec)})
    images, strange = data.splits["test"], torch.tensor([name not in known for name in data.classes])
    if not strange.any():
        raise ValueError(f"--ood {spec}: the model knows all its classes; give other images")
    return images if strange.all() else images.subset(torch.nonzero(strange[images.labels]).flatten())


def corrupted(subject: Subject, name: str, severity: int) -> dict[str, Any]:
    """A row of the usual figures (without intervals) on the harmed images."""
    logits, labels = subject.predict(CorruptedImages(subject.data.splits[subject.split], name, severity))
    figures = metrics.evaluate(logits, labels, subject.data.class_counts, bootstrap=0)
    return {"name": name, "severity": severity, **figures}


def shifted(subject: Subject) -> list[dict[str, Any]]:
    """A row for each of the class frequencies in `robustness.priors`."""
    counts = subject.data.class_counts
    return [
        {"name": name, **robustness.evaluate_under(prior, *subject.outputs, counts)}
        for name, prior in robustness.priors(counts).items()
    ]


def keep(path: Path, found: dict[str, list[dict[str, Any]]], condition: str) -> None:
    """Add rows to evaluation.json: {"ood" | "corruptions" | "shift": [row]}.

    A row replaces the one of equal "on" (`condition`), name and severity; all others stay.
    """
    known: dict[str, Any] = read_json(path) if path.exists() else {}
    for kind, rows in found.items():
        merged = {_identity(row): row for row in known.get(kind, [])}
        merged |= {_identity(row): row for row in ({"on": condition, **row} for row in rows)}
        known[kind] = list(merged.values())
    write_text(path, json.dumps(known, indent=2) + "\n")


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return row.get("on"), row.get("name"), row.get("severity")


def tables(figures: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> str:
    """The usual figures with those of the harmed images; beneath them other class frequencies and strange images."""
    rows = [figures]
    harmed = found.get("corruptions", [])
    for name in dict.fromkeys(row["name"] for row in harmed):
        rows.append(_mean(name, [row for row in harmed if row["name"] == name]))
    if len(rows) > 2:
        rows.append(_mean("mean of corruptions", harmed))
    text = markdown(rows)
    if "shift" in found:
        named = [{**row, "name": f"classes {row['name']}"} for row in found["shift"]]
        text += "\n" + markdown(named, SHIFT_COLUMNS)
    if "ood" in found:
        text += "\n" + markdown(found["ood"], OOD_COLUMNS)
    return text


def _mean(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shared = [column for column in COLUMNS if all(column in row for row in rows)]
    return {"name": name, **{column: sum(row[column] for row in rows) / len(rows) for column in shared}}
