"""Prior2Posterior on a finished run: remove the class prior the model itself has learned (Bhat et al., WACV 2025).

    case 1, cross-entropy      P_m = mean_i softmax(z_i),              z' = z - log P_m
    case 2, balanced softmax   q = mean_i softmax(z_i + log pi),       z' = z - log(q / pi)

Nothing is trained. The mean runs over the training images without augmentation, the model in eval mode. In case 1
three controls stand beside it: z - log pi, which knows only the class counts, and two fitted on the labels of the
validation split, tau-normalization (of a linear classifier) and DROPS. For a model of case 2 the first is z itself, and
the others are published for cross-entropy: it gets none.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from bnn import posthoc
from bnn.recipes import _report
from bnn.recipes._config import From, RunConfig, require
from bnn.recipes._report import Result
from bnn.recipes._session import Session, begin_from
from bnn.training.run import load_model


@dataclass(frozen=True)
class Config(RunConfig):
    """Correct the logits of a finished run; its weights stay as they are."""

    from_run: From = None
    """Run to correct (required)."""
    case: Literal["auto", "1", "2"] = "auto"
    """1: trained with cross-entropy or distilled; 2: with balanced_softmax; auto: by the run's loss."""
    reference: Literal["train", "val"] = "train"
    """Images to average over; val is weighted to the class frequencies of train."""
    strength: float = 1.0
    """Factor on the correction; 0 changes nothing, 1 is the method."""


def run(config: Config) -> Result:
    """Estimate the offsets, evaluate before and after on the test split; returns folder and table."""
    require(config.from_run is not None, "from", "the folder of a finished run", None)
    require(config.strength >= 0, "strength", "0 or more", config.strength)
    origin = Path(config.from_run or "")
    model = load_model(origin)
    session = begin_from("p2p", config, origin, "p2p")
    counts = session.data.class_counts
    case = detect_case(session.run.config) if config.case == "auto" else int(config.case)

    logits, labels = _report.outputs(
        session, model.to(session.device.torch_device), session.data.splits[config.reference]
    )
    if config.reference == "val":
        logits = as_in_training(logits, labels, counts)
    offsets = posthoc.prior2posterior(logits, counts if case == 2 else None, strength=config.strength)

    logits, labels = _report.outputs(session, model, session.data.splits["test"])
    after = posthoc.apply(logits, offsets=offsets)
    rows = [
        _report.row("before", logits, labels, counts),
        _report.row(f"p2p, case {case}", after, labels, counts),
    ]
    if case == 1:
        found = controls(session, model, logits)
        rows += [_report.row(f"control: {name}", scores, labels, counts) for name, scores in found.items()]
    if session.run.main:
        shutil.copyfile(origin / "model.safetensors", session.run.folder / "model.safetensors")
    session.run.write_json("posthoc.json", {"temperature": 1.0, "logit_offsets": offsets.tolist()})
    return _report.write(session, rows, after, labels)


def detect_case(fields: dict[str, Any]) -> int:
    """2 for a run trained with balanced softmax, else 1: what counts is the softmax that the training loss saw."""
    return 2 if fields.get("loss") == "balanced_softmax" else 1


def controls(session: Session, model: Any, logits: Tensor) -> dict[str, Tensor]:
    """Logits of the test split as other corrections have them, by name; `logits` are the model's own."""
    counts, val, test = session.data.class_counts, session.data.splits["val"], session.data.splits["test"]
    found = {"minus log pi": posthoc.apply(logits, offsets=posthoc.logit_adjustment(counts))}
    if val is test:  # the source split: no labels to fit on
        return found
    if isinstance(model.classifier, nn.Linear):
        weight = model.classifier.weight.detach().cpu()
        tau = posthoc.fit_tau(weight, *_report.outputs(session, model.features, val))
        features, _ = _report.outputs(session, model.features, test)
        found["tau-normalized"] = features @ posthoc.tau_normalize(weight, tau).T
    offsets = posthoc.drops(*_report.outputs(session, model, val), counts)
    return found | {"DROPS": posthoc.apply(logits, offsets=offsets)}


def as_in_training(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Rows of logits [N, K] repeated so that the classes are as frequent as `counts` [K] says.

    Exact where every class has equally many rows (a balanced split), else rounded to whole repetitions.
    """
    present = labels.bincount(minlength=len(counts))
    times = (counts * present.max() / present.clamp_min(1)).round().long()
    return logits.repeat_interleave(times[labels], dim=0)
