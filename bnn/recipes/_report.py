"""What every recipe does last: figures on the test split, tables, plots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bnn import metrics, plotting
from bnn.data import Images
from bnn.recipes._session import Session
from bnn.training.predict import predict

COLUMNS = ("mean", "many", "medium", "few", "accuracy", "ece", "nll")


@dataclass(frozen=True)
class Result:
    """What a recipe returns: its run folder, the rows of table.json, whether this process is the one that prints."""

    folder: Path
    rows: list[dict[str, Any]]
    main: bool = True


def validation(session: Session, model: Callable[[Tensor], Tensor]) -> Callable[[], dict[str, float]]:
    """For `fit`: the cheap figures (no intervals) of `model` on the validation split."""

    def evaluate() -> dict[str, float]:
        logits, labels = outputs(session, model, session.data.splits["val"])
        return metrics.evaluate(logits, labels, session.data.class_counts, bootstrap=0)

    return evaluate


def outputs(session: Session, model: Callable[[Tensor], Tensor], images: Images) -> tuple[Tensor, Tensor]:
    """Outputs of `model` in float32 and labels, without augmentation."""
    return predict(model, images, session.data.preprocess.normalize, device=session.device.torch_device)


def row(name: str, logits: Tensor, labels: Tensor, class_counts: Tensor, split: str = "test") -> dict[str, Any]:
    """One row of table.json: name, split, then every figure of `metrics.evaluate` with its intervals."""
    return {"name": name, "split": split, **metrics.evaluate(logits, labels, class_counts)}


def write(session: Session, rows: list[dict[str, Any]], logits: Tensor, labels: Tensor) -> Result:
    """Plots of `logits` on the test split; tables of `rows`: table.json, the last file, marks a run as finished."""
    run, counts = session.run, session.data.class_counts
    if run.main:
        plotting.reliability(run.folder / "reliability.png", logits.double().softmax(1), labels, counts)
        plotting.per_class(run.folder / "per_class.png", metrics.class_accuracy(logits, labels), counts)
        run.write_text("table.md", markdown(rows))
        run.write_json("table.json", rows)
    run.finish(rows)
    return Result(run.folder, rows, run.main)


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """A table in Markdown, aligned so that it also reads well in a terminal; a missing figure is a dash."""
    cells = [["", *columns], *([str(r["name"]), *(_figure(r.get(c)) for c in columns)] for r in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [_line(line, widths) for line in cells]
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "-" if value is None else str(value)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "| " + " | ".join(padded) + " |"
