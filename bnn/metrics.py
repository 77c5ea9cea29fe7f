"""Accuracy and calibration of a classifier under a long tail.

Accuracies and every ECE are in percent, `nll` is in nats, `brier` is the sum over classes of squared errors (0 to 2).
Sums run in float64 on the CPU. N images, K classes; `labels` are integers [N] in 0..K-1. Every function raises
ValueError for wrong shapes, labels out of range, NaN, and for logits where it takes probabilities (or vice versa).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bnn.data.longtail import groups

BINS = 15


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest score is the label's, in percent. scores [N, K]: logits or probabilities."""
    scores, labels = _checked(scores, labels, "scores")
    return 100 * (scores.argmax(1) == labels).double().mean().item()


def class_accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Percent, float64 [K], NaN for a class without images. scores [N, K]: logits or probabilities."""
    scores, labels = _checked(scores, labels, "scores")
    return _means((scores.argmax(1) == labels).double(), labels, scores.shape[1]).mul(100)


def ece(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error of the top probability over bins of equal width, l1, in percent.

    ECE = 100 * sum_b |B_b| / N * | mean correct in B_b - mean top probability in B_b |,  B_b = (b/bins, (b+1)/bins].
    probabilities [N, K]. Guo et al., ICML 2017, eq. 3. Equals torchmetrics' MulticlassCalibrationError(norm="l1") where
    no probability lies on an edge.
    """
    confidence, gap = _top(probabilities, labels)
    return _binned(gap, _equal_width(confidence, bins), bins)


def ece_adaptive(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """ECE as above over bins that hold equally many images; equal confidences stay together (Nixon et al., 2019)."""
    confidence, gap = _top(probabilities, labels)
    return _binned(gap, _equal_mass(confidence, bins), bins)


def ece_classwise(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Mean over the K classes of the ECE of p(class | x) against 1[label = class], equal-width bins, in percent.

    probabilities [N, K]. Kull et al., NeurIPS 2019 (classwise-ECE).
    """
    p, labels = check_probabilities(probabilities, labels)
    return _classwise(p, labels, bins).mean().item()


def nll(probabilities: Tensor, labels: Tensor) -> float:
    """Mean of -log p(label | x) in nats. A probability of 0 counts as the smallest normal number of its dtype."""
    p, labels = check_probabilities(probabilities, labels)
    return _nll(p.log(), labels, torch.as_tensor(probabilities).dtype).mean().item()


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Mean over images of sum_k (p_k - 1[k = label])^2: 0 is perfect, 2 is certain and wrong."""
    p, labels = check_probabilities(probabilities, labels)
    return _brier(p, labels).mean().item()


def reliability_bins(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> dict[str, Tensor]:
    """What a reliability diagram shows, float64: `edges` [bins + 1], `count`, `confidence`, `accuracy` [bins].

    Edges, mean top probability and accuracy are in percent; the latter two are NaN in an empty bin.
    """
    confidence, gap = _top(probabilities, labels)
    bin_of = _equal_width(confidence, bins)
    return {
        "edges": torch.linspace(0, 100, bins + 1, dtype=torch.float64),
        "count": torch.bincount(bin_of, minlength=bins).double(),
        "confidence": _means(confidence, bin_of, bins).mul(100),
        "accuracy": _means(confidence - gap, bin_of, bins).mul(100),
    }


def evaluate(
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor | Sequence[int],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Every figure of a results table as one flat dict.

    logits [N, K] before the softmax (averaged probabilities: pass their logarithm; -inf is fine); class_counts [K] of
    the training set, which decide many (> 100), few (< 20) and medium.

    Keys: accuracy; mean (of the class accuracies); many, medium, few (the same over a group's classes); ece,
    ece_adaptive, ece_classwise, nll, brier over all images; the same five with suffix _many, _medium, _few over the
    images of the group's classes (ece_classwise_<group>: all images, mean over the group's classes). A class without
    test images is left out of the mean accuracies; a group without any is left out altogether.
    <name>_low and <name>_high for mean, many, medium, few, ece and ece_<group>: 95 % intervals from `bootstrap`
    resamples of the images within each class (0: none). They describe the choice of test images, not of seeds.
    """
    z, labels = check_logits(logits, labels)
    counts = check_counts(class_counts, z.shape[1], smallest=0)
    log_p = z.log_softmax(1)
    p = log_p.exp()
    correct, confidence = (z.argmax(1) == labels).double(), p.amax(1)
    gap, bin_of = confidence - correct, _equal_width(confidence, BINS)
    by_class, by_class_ece = _means(correct, labels, z.shape[1]).mul(100), _classwise(p, labels, BINS)
    nll_of, brier_of = _nll(log_p, labels, torch.as_tensor(logits).dtype), _brier(p, labels)

    classes = {name: mask for name, mask in groups(counts).items() if mask[labels].any()}
    result = {"accuracy": 100 * correct.mean().item(), "mean": by_class.nanmean().item()}
    result |= {name: by_class[mask].nanmean().item() for name, mask in classes.items()}
    for suffix, mask in {"": counts >= 0, **{f"_{name}": mask for name, mask in classes.items()}}.items():
        rows = mask[labels]
        result["ece" + suffix] = _binned(gap[rows], bin_of[rows], BINS)
        result["ece_adaptive" + suffix] = _binned(gap[rows], _equal_mass(confidence[rows], BINS), BINS)
        result["ece_classwise" + suffix] = by_class_ece[mask].mean().item()
        result["nll" + suffix] = nll_of[rows].mean().item()
        result["brier" + suffix] = brier_of[rows].mean().item()
    if bootstrap:
        accuracies, eces = _resample(labels, correct, gap, bin_of, classes, bootstrap, seed)
        result |= _intervals(result, accuracies, eces)
    return result


def check_logits(logits: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same as float64 [N, K] and int64 [N] (zeros if None) on the CPU, or ValueError saying what is wrong."""
    dtype = torch.as_tensor(logits).dtype
    z, labels = _checked(logits, labels, "logits")
    if z.isposinf().any() or z.isneginf().all(1).any():
        raise ValueError("logits: +inf, or a row of -inf only, has no softmax; expected finite values (or some -inf)")
    if (z >= 0).all() and _sum_to_one(z, dtype).all():
        raise ValueError(
            "logits: nonnegative rows that sum to 1: looks like probabilities; pass logits, or probabilities.log()"
        )
    return z, labels


def check_probabilities(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same as float64 [N, K] and int64 [N] on the CPU, or ValueError saying what is wrong."""
    dtype = torch.as_tensor(probabilities).dtype
    p, labels = _checked(probabilities, labels, "probabilities")
    wrong = (p < 0).any(1) | ~_sum_to_one(p, dtype)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"probabilities: row {row} has sum {p[row].sum():.4g} and minimum {p[row].min():.4g}, expected nonnegative "
            "values that sum to 1: looks like logits; pass logits.softmax(1)"
        )
    return p, labels


def check_counts(counts: Tensor | Sequence[int], num_classes: int | None = None, *, smallest: int = 1) -> Tensor:
    """counts as float64 [K] on the CPU, or ValueError naming the class whose count is below `smallest`."""
    counts = torch.as_tensor(counts).detach().cpu().double()
    if counts.ndim != 1 or num_classes not in (None, len(counts)):
        expected = "[K]" if num_classes is None else f"[{num_classes}], one per class"
        raise ValueError(f"class counts: expected shape {expected}, got {list(counts.shape)}")
    wrong = ~(counts >= smallest) | counts.isinf()
    if wrong.any():
        k = int(wrong.nonzero()[0])
        raise ValueError(f"class counts: class {k} has {counts[k]:g} training images, expected at least {smallest}")
    return counts


def _checked(scores: Tensor, labels: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    scores = torch.as_tensor(scores).detach().cpu()
    if scores.ndim != 2 or not scores.shape[0] or scores.shape[1] < 2 or not scores.is_floating_point():
        raise ValueError(
            f"{name}: expected floating point [N, K] with N >= 1 and K >= 2, got {scores.dtype} {list(scores.shape)}"
        )
    if nans := int(scores.isnan().any(1).sum()):
        raise ValueError(f"{name}: {nans} of {len(scores)} rows hold NaN; find where they come from")
    if labels is None:
        return scores.double(), torch.zeros(len(scores), dtype=torch.int64)
    labels = torch.as_tensor(labels).detach().cpu()
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"labels: expected integers of shape [{len(scores)}] as in {name}, got {labels.dtype} {list(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise ValueError(f"labels: expected 0..{scores.shape[1] - 1}, one per column of {name}, got {low}..{high}")
    return scores.double(), labels.long()


def _sum_to_one(rows: Tensor, dtype: torch.dtype) -> Tensor:
    return (rows.sum(1) - 1).abs() <= max(1e-4, 4 * torch.finfo(dtype).eps)


def _at(rows: Tensor, labels: Tensor) -> Tensor:
    return rows.gather(1, labels[:, None])[:, 0]


def _nll(log_p: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    return -torch.nan_to_num(_at(log_p, labels), neginf=math.log(torch.finfo(dtype).tiny))


def _brier(p: Tensor, labels: Tensor) -> Tensor:
    return p.square().sum(1) - 2 * _at(p, labels) + 1


def _means(values: Tensor, index: Tensor, size: int) -> Tensor:
    return torch.bincount(index, values, size) / torch.bincount(index, minlength=size)


def _top(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Top probability [N], and top probability minus correctness [N]."""
    p, labels = check_probabilities(probabilities, labels)
    confidence, predicted = p.max(1)
    return confidence, confidence - (predicted == labels).double()


def _equal_width(values: Tensor, bins: int) -> Tensor:
    return torch.bucketize(values, torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])


def _equal_mass(values: Tensor, bins: int) -> Tensor:
    last = (torch.arange(1, bins) * len(values) + bins - 1) // bins - 1
    return torch.bucketize(values, values.sort().values[last])


def _binned(gap: Tensor, bin_of: Tensor, bins: int) -> float:
    return 100 * torch.bincount(bin_of, gap, bins).abs().sum().item() / len(gap)


def _classwise(p: Tensor, labels: Tensor, bins: int) -> Tensor:
    """One-vs-rest ECE of each class, percent [K]. Few columns at a time: N*K float64 is large for K = 1000."""
    columns = []
    for first in range(0, p.shape[1], 64):
        part = p[:, first : first + 64]
        k = torch.arange(part.shape[1])
        gap = part - (labels[:, None] == first + k).double()
        cells = (_equal_width(part.contiguous(), bins) + bins * k).flatten()
        columns.append(torch.bincount(cells, gap.flatten(), bins * len(k)).view(-1, bins).abs().sum(1))
    return torch.cat(columns) * 100 / len(p)


def _resample(
    labels: Tensor, correct: Tensor, gap: Tensor, bin_of: Tensor, classes: dict[str, Tensor], draws: int, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Means of class accuracies and ECEs, percent [draws] by name, over images redrawn within each class.

    Class sizes stay, so every figure is a sum of fixed weights over the drawn images, kept by group (and bin).
    """
    size = torch.bincount(labels, minlength=len(next(iter(classes.values()))))
    members = [int(size[mask].sum()) for mask in classes.values()]
    present = [int((size[mask] > 0).sum()) for mask in classes.values()]
    order = labels.argsort(stable=True)
    labels = labels[order]
    start, extent = (size.cumsum(0) - size)[labels], size[labels]
    group = torch.stack([mask[labels] for mask in classes.values()]).long().argmax(0)
    cell, gap, share = group * BINS + bin_of[order], gap[order], correct[order] / extent

    generator = torch.Generator().manual_seed(seed)
    shares, gaps = [], []
    for rows in torch.empty(draws, 0, dtype=torch.float64).split(max(1, 2**21 // len(labels))):
        uniform = torch.rand(len(rows), len(labels), generator=generator, dtype=torch.float64)
        drawn = start + (uniform * extent).long()
        shares.append(rows.new_zeros(len(rows), len(classes)).scatter_add_(1, group[drawn], share[drawn]))
        gaps.append(rows.new_zeros(len(rows), len(classes) * BINS).scatter_add_(1, cell[drawn], gap[drawn]))
    share_sums, gap_sums = torch.cat(shares).mul(100), torch.cat(gaps).mul(100).view(draws, -1, BINS)

    accuracies = {"mean": share_sums.sum(1) / sum(present)}
    eces = {"ece": gap_sums.sum(1).abs().sum(1) / sum(members)}
    for i, name in enumerate(classes):
        accuracies[name] = share_sums[:, i] / present[i]
        eces[f"ece_{name}"] = gap_sums[:, i].abs().sum(1) / members[i]
    return accuracies, eces


def _intervals(estimates: dict[str, float], accuracies: dict[str, Tensor], eces: dict[str, Tensor]) -> dict[str, float]:
    """95 % bounds. Accuracies: percentile interval. ECE: basic (reflected) interval, widened to hold the estimate.

    A resample adds to the ECE the upward bias that the estimate has over the truth once more, so that the percentile
    interval of a calibrated model lies above the truth (simulated, 100 classes of 30 images: coverage 0, basic 0.59).
    """
    bounds = {}
    probabilities = torch.tensor([0.025, 0.975], dtype=torch.float64)
    for name, drawn in {**accuracies, **eces}.items():
        low, high = drawn.quantile(probabilities).tolist()
        if name in eces:
            estimate = estimates[name]
            low, high = min(estimate, max(0.0, 2 * estimate - high)), max(estimate, 2 * estimate - low)
        bounds[f"{name}_low"], bounds[f"{name}_high"] = low, high
    return bounds
