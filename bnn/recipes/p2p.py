"""Prior2Posterior on a finished run: remove the class prior the model itself has learned (Bhat et al., WACV 2025).

    case 1, cross-entropy      P_m = mean_i softmax(z_i),              z' = z - log P_m
    case 2, balanced softmax   q = mean_i softmax(z_i + log pi),       z' = z - log(q / pi)

Nothing is trained. The mean runs over the training images without augmentation, the model in eval mode; each class
counts as often as the training loss saw it, so equally often after class-balanced sampling or weights. In case 1 three
controls stand beside it: z - log pi, which knows only the class counts, and two fitted on the labels of the validation
split, tau-normalization (of a linear classifier) and DROPS. For a model that saw the classes balanced, as in case 2,
the first is z itself, and the others are published for plain cross-entropy: it gets none. With the logits of a
zero-shot model there is a row for generalized logit adjustment, which needs both models at every prediction: it is in
the table, not in the run.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bnn import losses, posthoc
from bnn.metrics import check_logits
from bnn.recipes import _report
from bnn.recipes._config import From, RunConfig, require
from bnn.recipes._report import Result
from bnn.recipes._session import Session, begin_from
from bnn.recipes.plain import REWEIGHT_FROM
from bnn.training.run import load_model, read_config


@dataclass(frozen=True)
class Config(RunConfig):
    """Correct the logits of a finished run; its weights stay as they are."""

    from_run: From = None
    """Run to correct (required)."""
    case: Literal["auto", "1", "2"] = "auto"
    """1: trained with cross-entropy or distilled; 2: with balanced_softmax; auto: by the run's loss."""
    reference: Literal["train", "val"] = "train"
    """Images to average over; val is weighted to the class frequencies that the training loss saw."""
    strength: float = 1.0
    """Factor on the correction; 0 changes nothing, 1 is the method."""
    zero_shot: Path | None = None
    """File with the logits of a zero-shot model, for a row GLA: safetensors with val and test [images, classes] in the
    order of the data, metadata "classes": JSON list of their names."""


def run(config: Config) -> Result:
    """Estimate the offsets, evaluate before and after on the test split; returns folder and table."""
    require(config.from_run is not None, "from", "the folder of a finished run", None)
    require(config.strength >= 0, "strength", "0 or more", config.strength)
    origin = Path(config.from_run or "")
    model = load_model(origin)
    zero_shot = None if config.zero_shot is None else read_logits(config.zero_shot, read_config(origin)["classes"])
    session = begin_from("p2p", config, origin, "p2p")
    counts = session.data.class_counts
    often = seen(session.run.config, counts)
    case = detect_case(session.run.config) if config.case == "auto" else int(config.case)

    logits, labels = _report.outputs(
        session, model.to(session.device.torch_device), session.data.splits[config.reference]
    )
    weights = (often / labels.bincount(minlength=len(counts)))[labels]
    offsets = posthoc.prior2posterior(logits, counts if case == 2 else None, strength=config.strength, weights=weights)

    logits, labels = _report.outputs(session, model, session.data.splits["test"])
    after = posthoc.apply(logits, offsets=offsets)
    rows = [
        _report.row("before", logits, labels, counts),
        _report.row(f"p2p, case {case}", after, labels, counts),
    ]
    if case == 1 and torch.equal(often, counts.double()):
        found = controls(session, model, logits)
        rows += [_report.row(f"control: {name}", scores, labels, counts) for name, scores in found.items()]
    if zero_shot is not None:
        found = with_zero_shot(session, logits, zero_shot, often if case == 1 else None)
        rows += [_report.row(name, scores, labels, counts) for name, scores in found.items()]
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


def seen(fields: dict[str, Any], counts: Tensor) -> Tensor:
    """How often the training loss of the run with these fields saw each class, with its weights: float64 [K], relative.

    Weights that set in late count as if they had always been there: what the training ended with is what stays.
    """
    often = torch.ones_like(counts) if fields.get("sampler") == "class_balanced" else counts
    weighted = fields.get("loss") in REWEIGHT_FROM and fields.get("reweight_from") != 1
    return often * losses.class_weights(counts.double()) if weighted else often.double()


def with_zero_shot(
    session: Session, logits: Tensor, zero_shot: dict[str, Tensor], often: Tensor | None
) -> dict[str, Tensor]:
    """Logits of the test split by the zero-shot model alone and by GLA; `logits` are the run's own.

    often: the class frequencies to take out of them, None: none.
    """
    splits = session.data.splits
    require(splits["val"] is not splits["test"], "zero-shot", "a run with a validation split", "none")
    for name, found in zero_shot.items():
        require(len(found) == len(splits[name]), "zero-shot", f"{len(splits[name])} rows of {name}", len(found))
    prior = posthoc.learned_prior(zero_shot["val"], splits["val"].labels)
    both = posthoc.generalized_logit_adjustment(logits, zero_shot["test"], prior, often)
    return {"zero-shot": zero_shot["test"], "GLA: with the zero-shot model": both}


def read_logits(path: Path, classes: list[str]) -> dict[str, Tensor]:
    """val and test [N, K] float32 of a file of logits.

    Raises:
        FileNotFoundError: no such file. ValueError: not such a file, or of other classes.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"--zero-shot {path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            names = json.loads((file.metadata() or {}).get("classes", "null"))
            logits = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError, ValueError) as problem:
        raise ValueError(f"--zero-shot {path}: not a safetensors file with JSON metadata ({problem})") from None
    require(
        names == classes, "zero-shot", 'the classes of the run, in order, in its metadata "classes"', str(names)[:60]
    )
    require(set(logits) == {"val", "test"}, "zero-shot", "the tensors val and test", sorted(logits))
    for name, found in logits.items():
        check_logits(found)
        require(found.shape[1] == len(classes), "zero-shot", f"{len(classes)} columns of {name}", found.shape[1])
    return logits
