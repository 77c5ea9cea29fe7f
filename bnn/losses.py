"""Losses for long-tailed training and distillation. Every loss returns a scalar, the mean over the batch.

Half-precision inputs are computed in float32. N images, K classes, D features; pi = counts / sum(counts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.metrics import check_counts

SILENT = -1e30  # log 0 in finite arithmetic: its exponential is 0 beside any logit
EFFECTIVE_BETA = 0.9999  # of the class-balanced weights


def balanced_softmax(logits: Tensor, labels: Tensor, counts: Tensor | Sequence[int], tau: float = 1.0) -> Tensor:
    """Logit-adjusted cross-entropy: L = -log softmax(z + tau log pi)_y. Predict with the raw z.

    logits [N, K]; labels int64 [N], or probabilities [N, K]; counts [K] of the training set, each at least 1; tau 0 is
    plain cross-entropy. Equals F.cross_entropy(logits + tau * (counts / counts.sum()).log(), labels).
    ValueError: shapes, counts (values only where they lie on the CPU; elsewhere a look would stall the device).
    Source: Ren et al., "Balanced Meta-Softmax", NeurIPS 2020; Menon et al., ICLR 2021, eq. 10.
    """
    n = _counts(logits, counts)
    if labels.shape not in (logits.shape[:1], logits.shape):
        raise ValueError(
            f"balanced_softmax: labels: expected shape {list(logits.shape[:1])} or {list(logits.shape)}, "
            f"got {list(labels.shape)}"
        )
    z = _at_least_float32(logits)
    return F.cross_entropy(z + tau * (n / n.sum()).log().to(z), labels)


def label_aware_smoothing(
    logits: Tensor, labels: Tensor, counts: Tensor | Sequence[int], head: float = 0.3, tail: float = 0.0
) -> Tensor:
    """Cross-entropy with more smoothing the more images a class has (MiSLAS, concave form).

    e_y = tail + (head - tail) sin(pi/2 (n_y - n_min) / (n_max - n_min)),   pi = 3.14..., e_y = head if all n are equal
    L = (1 - e_y) (-log p_y) + e_y (-(1/K) sum_k log p_k),   p = softmax(z)

    logits [N, K]; labels int64 [N]; counts n [K] of the training set, each at least 1; head, tail in [0, 1): smoothing
    of the largest and of the smallest class. ValueError: shapes, range, counts as in `balanced_softmax`.
    Source: Zhong et al., "Improving Calibration for Long-Tailed Recognition" (MiSLAS), CVPR 2021.
    """
    n = _counts(logits, counts)
    _check_labels("label_aware_smoothing", logits, labels)
    if not (0 <= head < 1 and 0 <= tail < 1):
        raise ValueError(f"label_aware_smoothing: expected head and tail in [0, 1), got head={head}, tail={tail}")
    spread = n.max() - n.min()
    rank = torch.where(spread > 0, (n - n.min()) / spread.clamp_min(1), 1.0)
    smoothing = tail + (head - tail) * (math.pi / 2 * rank).sin()
    log_p = _at_least_float32(logits).log_softmax(1)
    e = smoothing.to(log_p)[labels]
    loss = (1 - e) * -log_p.gather(1, labels[:, None])[:, 0] + e * -log_p.mean(1)
    return loss.mean()


def neighbor_weights(
    near: Tensor, silenced: float = 0.0, *, rows: str = "both", others: bool = False, dtype: torch.dtype = torch.float32
) -> Tensor:
    """What every class weighs in the denominator for every label: w [K + M, K + M] for `neighbor_silencing`.

    w_ij = silenced if (i, j) is a target class and one of its neighbors, else 1. With `others` an auxiliary label also
    silences every other auxiliary class, with the same weight; w_ii = 1 always.

    near: bool [K, M], whether auxiliary class a is a neighbor of target class k. silenced: 0 (hard) to 1 (nothing is).
    rows: "both", or the labels that silence at all, "target" or "auxiliary". ValueError: range, rows.
    """
    if near.ndim != 2 or near.dtype != torch.bool:
        raise ValueError(f"neighbor_weights: near: expected bool [K, M], got {near.dtype} {list(near.shape)}")
    if not 0 <= silenced <= 1:
        raise ValueError(f"neighbor_weights: silenced: expected 0 to 1, got {silenced}")
    if rows not in ("both", "target", "auxiliary"):
        raise ValueError(f"neighbor_weights: rows: expected both, target or auxiliary, got {rows!r}")
    k, m = near.shape
    quiet = torch.zeros(k + m, k + m, dtype=torch.bool, device=near.device)
    if rows != "auxiliary":
        quiet[:k, k:] = near
    if rows != "target":
        quiet[k:, :k] = near.T
        quiet[k:, k:] = others
    quiet.fill_diagonal_(False)
    return torch.ones_like(quiet, dtype=dtype).masked_fill_(quiet, silenced)


def neighbor_silencing(
    logits: Tensor,
    labels: Tensor,
    counts: Tensor | Sequence[int],
    weights: Tensor,
    *,
    mixture: tuple[Tensor, Tensor] | None = None,
    tau: float = 1.0,
) -> Tensor:
    """Balanced softmax over K target and M auxiliary classes in which a class does not compete with its neighbors.

    L(x, y) = -log( pi_y^tau e^{z_y} / sum_j w_yj pi_j^tau e^{z_j} )

    logits [N, K + M]; labels int64 [N]; counts [K + M]: images of every class in an epoch, each at least 1;
    weights [K + M, K + M] in [0, 1] with w_ii = 1, see `neighbor_weights`; all 1 is `balanced_softmax`.
    mixture: labels y' and shares s of x in the mixtures s x + (1 - s) x', each [N]: every label has its own row,
    s L(x, y) + (1 - s) L(x, y'). ValueError: shapes, counts as in `balanced_softmax`.
    Source: Zhao et al., "Granularity Matters in Long-Tail Learning", arXiv 2410.15980 (CVPR 2025).
    """
    n = _counts(logits, counts)
    if weights.shape != (logits.shape[1],) * 2:
        raise ValueError(f"neighbor_silencing: weights: expected {[logits.shape[1]] * 2}, got {list(weights.shape)}")
    for name, value in (("labels", labels), *zip(("labels'", "shares"), mixture or (), strict=False)):
        if value.shape != logits.shape[:1]:
            raise ValueError(
                f"neighbor_silencing: {name}: expected shape {list(logits.shape[:1])}, got {list(value.shape)}"
            )
    z = _at_least_float32(logits)
    z = z + tau * (n / n.sum()).log().to(z)

    def loss(y: Tensor) -> Tensor:
        log_w = weights[y].to(z).log().clamp_min(SILENT)
        return F.cross_entropy(z + log_w, y, reduction="none")

    if mixture is None:
        return loss(labels).mean()
    other, share = mixture
    return (share * loss(labels) + (1 - share) * loss(other)).mean()


def class_balanced(
    logits: Tensor, labels: Tensor, counts: Tensor | Sequence[int], beta: float = EFFECTIVE_BETA
) -> Tensor:
    """Cross-entropy weighted by the inverse effective number of images of the label's class.

    w_k ~ (1 - beta) / (1 - beta^n_k),   L = sum_i w_{y_i} (-log softmax(z_i)_{y_i}) / sum_i w_{y_i}

    logits [N, K]; labels int64 [N]; counts n [K] of the training set, each at least 1; beta in [0, 1): 0 is plain
    cross-entropy, towards 1 w_k becomes 1 / n_k. The mean is a weighted one (the factor of w drops out), over the
    images of this process where there are several. Equals F.cross_entropy(logits, labels, weight=w).
    ValueError: shapes, range, counts as in `balanced_softmax`.
    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
    """
    n = _counts(logits, counts)
    _check_labels("class_balanced", logits, labels)
    z = _at_least_float32(logits)
    return F.cross_entropy(z, labels, weight=class_weights(n, beta).to(z))


def class_weights(counts: Tensor, beta: float = EFFECTIVE_BETA) -> Tensor:
    """The weights of `class_balanced` up to a factor, 1 / (1 - beta^n): counts n [K] floating point -> [K].

    ValueError: beta outside [0, 1). By expm1, since 1 - 0.9999 has few digits left in float32.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"class weights: beta: expected a number in [0, 1), got {beta}")
    return 1 / -(counts * (math.log(beta) if beta else -math.inf)).expm1()


def ldam(
    logits: Tensor,
    labels: Tensor,
    counts: Tensor | Sequence[int],
    max_margin: float = 0.5,
    scale: float = 30.0,
    beta: float = 0.0,
) -> Tensor:
    """Label-distribution-aware margin: the rarer the class, the larger the margin its cosine has to win by.

    m_k = max_margin (n_k / n_min)^(-1/4),   z'_k = z_k - scale m_k 1[k = y],   L = weighted mean of -log softmax(z')_y

    logits z = scale cos(theta) [N, K] of a cosine head of that scale (`bnn.nn.CosineLinear`): margins are differences
    of cosines. labels int64 [N]; counts n [K] of the training set, each at least 1; max_margin 0 or more: that of the
    smallest class; scale above 0; beta: weights w as in `class_balanced`, 0: none. DRW is beta = 0 for most of the
    training and 0.9999 afterwards. Predict with the raw z. ValueError: shapes, ranges, counts as in `balanced_softmax`.
    Equals F.cross_entropy(scale * (cosines - F.one_hot(labels, K) * m), labels, weight=w).
    Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019; 0.5,
    30 and the weighted mean are its authors' code's.
    """
    n = _counts(logits, counts)
    _check_labels("ldam", logits, labels)
    if not (max_margin >= 0 and scale > 0):
        raise ValueError(
            f"ldam: expected max_margin of 0 or more and scale above 0, got max_margin={max_margin}, scale={scale}"
        )
    z = _at_least_float32(logits)
    margin = (max_margin * (n.min() / n) ** 0.25).to(z)[labels]
    z = z.scatter_add(1, labels[:, None], -scale * margin[:, None])
    return F.cross_entropy(z, labels, weight=class_weights(n, beta).to(z))


def label_over_smoothing(logits: Tensor, labels: Tensor, smoothing: float = 0.98) -> Tensor:
    """Cross-entropy with targets that are almost uniform, for a linear classifier on frozen features (LORT).

    q_y = 1 - d + d / K,   q_k = d / K for the others,   L = -sum_k q_k log softmax(z)_k

    At the minimum over free logits z_y lies log(1 + K (1 - d) / d) above the others, whatever the class and its number
    of images. The probabilities stay near 1 / K by design: fit a temperature before you read them.
    logits [N, K]; labels int64 [N]; d = smoothing in [0, 1). ValueError: shapes, range.
    Equals F.cross_entropy(logits, labels, label_smoothing=d).
    Source: Sun et al., "Label Over-Smooth Can Balance" (LORT in its first version), ICLR 2025, arXiv 2403.00250. Its d
    lies close to 1; that 0.98 is the authors' figure could not be verified.
    """
    _check_logits(logits)
    _check_labels("label_over_smoothing", logits, labels)
    if not 0 <= smoothing < 1:
        raise ValueError(f"label_over_smoothing: smoothing: expected a number in [0, 1), got {smoothing}")
    return F.cross_entropy(_at_least_float32(logits), labels, label_smoothing=smoothing)


def kl_distillation(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """L = T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)); the teacher gets no gradient.

    Both [N, K], temperature T > 0; T^2 keeps the size of the gradient. ValueError: shapes, temperature.
    Equals T**2 * F.kl_div(log_softmax(s / T), softmax(t / T), reduction="batchmean").
    Source: Hinton, Vinyals and Dean, 2015, section 2.
    """
    _same_shape("kl_distillation", student_logits, teacher_logits, "logits of both need the same classes")
    if not temperature > 0:
        raise ValueError(f"kl_distillation: temperature: expected a number above 0, got {temperature}")
    student = (_at_least_float32(student_logits) / temperature).log_softmax(1)
    teacher = (_at_least_float32(teacher_logits.detach()) / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def feature_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """L = 1 - cos(student, teacher), in [0, 2]; the teacher gets no gradient.

    Both [N, D]; where the widths differ, project the student's first. A row of zeros counts as cos = 0.
    ValueError: shapes.
    Equals (1 - F.cosine_similarity(student, teacher.detach())).mean().
    """
    _same_shape(
        "feature_cosine", student, teacher, "project the student's features to the teacher's width, e.g. nn.Linear"
    )
    return (1 - F.cosine_similarity(_at_least_float32(student), _at_least_float32(teacher.detach()))).mean()


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _counts(logits: Tensor, counts: Tensor | Sequence[int]) -> Tensor:
    """counts as float64 [K] on their own device (float32 where the device has no float64)."""
    _check_logits(logits)
    counts = torch.as_tensor(counts)
    if counts.device.type == "cpu":
        return check_counts(counts, logits.shape[1])
    if counts.shape != logits.shape[1:]:
        raise ValueError(f"class counts: expected shape {list(logits.shape[1:])}, got {list(counts.shape)}")
    return counts.float()


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 2:
        raise ValueError(f"logits: expected shape [N, K], got {list(logits.shape)}")


def _check_labels(loss: str, logits: Tensor, labels: Tensor) -> None:
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"{loss}: labels: expected shape {list(logits.shape[:1])}, got {list(labels.shape)}")


def _same_shape(loss: str, student: Tensor, teacher: Tensor, advice: str) -> None:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"{loss}: expected two equal shapes [N, ...], got student {list(student.shape)} and teacher "
            f"{list(teacher.shape)}: {advice}"
        )
