"""Evaluation beyond the test split: strangers among the images, and other class frequencies.

Figures are in percent, sums run in float64 on the CPU. Errors as in `bnn.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bnn.data.longtail import groups
from bnn.metrics import BINS, check_counts, check_logits

TRUE_POSITIVES = 0.95


def scores(logits: Tensor) -> dict[str, Tensor]:
    """How much each image looks like one of the classes, float64 [N] by name; logits [N, K].

    msp: largest softmax probability (Hendrycks and Gimpel 2017). max_logit: largest logit (Hendrycks et al. 2022).
    energy: log sum_k exp z_k, the negative free energy at temperature 1 (Liu et al. 2020).
    """
    z, _ = check_logits(logits)
    return {"msp": z.softmax(1).amax(1), "max_logit": z.amax(1), "energy": z.logsumexp(1)}


def auroc(known: Tensor, strange: Tensor) -> float:
    """Probability that a known image scores above a strange one, an equal score counting half; percent.

    known [N], strange [M]: scores, larger for known. Equals torchmetrics' BinaryAUROC.
    """
    known, order = _checked(known, "known"), _checked(strange, "strange").sort().values
    below, up_to = torch.searchsorted(order, known), torch.searchsorted(order, known, right=True)
    return 50 * (below + up_to).double().mean().item() / len(order)


def fpr95(known: Tensor, strange: Tensor) -> float:
    """Share of strange images that pass the highest threshold which 95 % of the known ones pass; percent."""
    known, strange = _checked(known, "known"), _checked(strange, "strange")
    threshold = known.sort(descending=True).values[math.ceil(TRUE_POSITIVES * len(known)) - 1]
    return 100 * (strange >= threshold).double().mean().item()


def out_of_distribution(known: Tensor, strange: Tensor) -> dict[str, float]:
    """auroc_<score> and fpr95_<score> for every one of `scores`. known [N, K], strange [M, K]: logits."""
    inside, outside = scores(known), scores(strange)
    pairs = {"auroc": auroc, "fpr95": fpr95}
    return {f"{name}_{score}": f(inside[score], outside[score]) for score in inside for name, f in pairs.items()}


def priors(class_counts: Tensor | Sequence[int]) -> dict[str, Tensor]:
    """Class frequencies to be tested under, float64 [K] with sum 1.

    balanced: equal. train: those of training. reversed: the k-th largest class gets the share of the k-th smallest.
    """
    counts = check_counts(class_counts)
    order = counts.argsort(descending=True, stable=True)
    reverse = torch.empty_like(counts)
    reverse[order] = counts[order].flip(0)
    return {"balanced": torch.ones_like(counts) / len(counts), "train": counts / counts.sum(),
            "reversed": reverse / counts.sum()}  # fmt: skip


def evaluate_under(
    prior: Tensor, logits: Tensor, labels: Tensor, class_counts: Tensor | Sequence[int]
) -> dict[str, float]:
    """Expected figures on images whose classes have the frequencies `prior` [K], by importance weights.

    w_i = prior_y / (share of class y among the images), y the label of i: p(x | y) stays, p(y) changes. accuracy
    = sum w 1[correct] / sum w; ece = sum_b |sum_{i in b} w (correct - top probability)| / sum w over 15 equal-width
    bins; nll likewise; the same three with _many, _medium, _few over the images of a group of `class_counts`.
    effective: (sum w)^2 / sum w^2, the number of equally weighted images that would be as certain.

    Raises ValueError if a class that the prior gives a share has no image.
    """
    z, labels = check_logits(logits, labels)
    counts, share = check_counts(class_counts, z.shape[1], smallest=0), torch.as_tensor(prior).double()
    present = torch.bincount(labels, minlength=z.shape[1]).double()
    lost = torch.nonzero((share > 0) & (present == 0)).flatten()
    if len(lost):
        raise ValueError(f"shift: class {int(lost[0])} has no image here; evaluate on a split with every class")
    weight = (share / present.clamp(min=1))[labels]
    log_p = z.log_softmax(1)
    confidence, predicted = log_p.exp().max(1)
    gap = (predicted == labels).double() - confidence
    bin_of = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1])
    nll = -log_p.gather(1, labels[:, None])[:, 0].clamp(min=math.log(torch.finfo(torch.float32).tiny))

    result = {"effective": (weight.sum().square() / weight.square().sum()).item()}
    for suffix, mask in {"": counts >= 0, **{f"_{name}": mask for name, mask in groups(counts).items()}}.items():
        rows = mask[labels]
        w, total = weight[rows], weight[rows].sum()
        if not total:
            continue
        result["accuracy" + suffix] = 100 * (w @ (predicted == labels)[rows].double() / total).item()
        result["ece" + suffix] = 100 * (torch.bincount(bin_of[rows], w * gap[rows], BINS).abs().sum() / total).item()
        result["nll" + suffix] = (w @ nll[rows] / total).item()
    return result


def _checked(values: Tensor, name: str) -> Tensor:
    values = torch.as_tensor(values).detach().cpu().double()
    if values.ndim != 1 or not len(values) or values.isnan().any():
        raise ValueError(f"{name}: expected scores [N] with N >= 1 and no NaN; got {list(values.shape)}")
    return values
