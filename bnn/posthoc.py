"""Corrections of a trained classifier: temperature, logit adjustment, Prior2Posterior, DROPS, tau-normalization, GLA.

All but the last two yield what `apply` (and a packed model) computes: logits / temperature + offsets. Where both are
used, fit the temperature first and estimate the offsets on logits / temperature. tau-normalization rescales the rows of
a linear classifier, GLA adds the logits of a second model. N images, K classes, D features; computed in float64. A
constant added to all offsets changes neither class nor probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.metrics import check_counts, check_logits, class_accuracy

SMALLEST_PRIOR = 1e-8
LOG_T_BOUND = 6.9
TAUS = tuple(i / 20 for i in range(21))
DELTA = 0.9
DROPS_STEPS = 1000


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """T > 0 that minimizes the mean of -log softmax(z / T)_y, by L-BFGS on log T.

    logits [N, K], labels int [N] of images that were not trained on. There is one minimum; it lies at 0 where every
    label has the largest logit, at infinity where the labels' logits are no larger than the others' on average: T then
    stays between 1/1000 and 1000 times the spread of the logits. Logits that are all equal give 1.
    ValueError: shapes, labels, NaN, -inf, probabilities instead of logits.
    Source: Guo et al., ICML 2017, section 4.2.
    """
    z, labels = check_logits(logits, labels)
    _check_finite(z, "a temperature can't scale it")
    spread = z.std(1, correction=0).square().mean().sqrt().item()
    if spread == 0:
        return 1.0
    z = z / spread
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    _minimize(log_t, lambda: F.cross_entropy(z / log_t.clamp(-LOG_T_BOUND, LOG_T_BOUND).exp(), labels))
    return spread * log_t.detach().clamp(-LOG_T_BOUND, LOG_T_BOUND).exp().item()


def logit_adjustment(counts: Tensor | Sequence[int], tau: float = 1.0) -> Tensor:
    """Offsets -tau log pi to add to logits, float32 [K], for a model trained with plain cross-entropy.

    pi = counts / sum(counts), counts [K] of the training set, each at least 1. Source: Menon et al., ICLR 2021, eq. 9.
    """
    counts = check_counts(counts)
    return (-tau * (counts / counts.sum()).log()).float()


def prior2posterior(
    logits: Tensor,
    counts: Tensor | Sequence[int] | None = None,
    *,
    strength: float = 1.0,
    tau: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Offsets that replace the prior a model has learned by the uniform one, float32 [K].

    Case 1, trained with plain cross-entropy (counts None):
        P_m = (1/N) sum_i softmax(z_i),   offsets = strength (log(1/K) - log P_m)
    Case 2, trained with the loss -log softmax(z + tau log pi)_y (counts given, pi = counts / sum(counts)):
        q = (1/N) sum_i softmax(z_i + tau log pi),   P_eff ~ q / pi^tau,   offsets = strength (log(1/K) - log P_eff)
    P_m and q are clamped at 1e-8 and normalized again; strength 1 is the method, 0 changes nothing.

    logits [N, K]: evaluation-mode outputs, without augmentation, for images distributed like the training set (that set
    itself, or better a held-out part of it): labels aren't used. A balanced set is wrong here. Using case 1 for a
    logit-adjusted model over-corrects. weights [N], 0 or more: how often an image counts in the mean over i, for a set
    that is distributed otherwise than what the loss saw. ValueError: shapes, counts, weights, NaN, probabilities
    instead of logits.
    Source: Bhat et al., Prior2Posterior, WACV 2025.
    """
    z, _ = check_logits(logits)
    num_classes = z.shape[1]
    log_pi = torch.zeros(num_classes, dtype=torch.float64)
    if counts is not None:
        counts = check_counts(counts, num_classes)
        log_pi = tau * (counts / counts.sum()).log()
    w = torch.ones(len(z), dtype=torch.float64) if weights is None else weights.detach().cpu().double()
    if w.shape != z.shape[:1] or not (w >= 0).all() or not 0 < w.sum() < math.inf:
        raise ValueError(f"weights: expected {len(z)} numbers of 0 or more, not all 0, got shape {list(w.shape)}")
    q = ((w / w.sum()) @ (z + log_pi).softmax(1)).clamp_min(SMALLEST_PRIOR)
    log_prior = ((q / q.sum()).log() - log_pi).log_softmax(0)
    return (strength * (-log_prior - math.log(num_classes))).float()


def drops(logits: Tensor, labels: Tensor, counts: Tensor | Sequence[int], *, delta: float = DELTA) -> Tensor:
    """Offsets that scale class y's probability by g_y / pi_y, g the worst prior near the uniform one, float32 [K].

        p'_i ~ softmax(z_i) g / pi,   L_y = mean over the images of class y of -log p'_iy,   pi = counts / sum(counts)
        g maximizes sum_y g_y L_y over KL(g || 1/K) <= delta,   offsets = log g - log pi
    From g = 1/K, g <- softmax(s (log g + L)) until it stands still, s in [0, 1] the largest that keeps g in the ball.
    Where the ball binds, this ends at g ~ exp(L / lambda), the stationary point of the authors' code. delta 0 is logit
    adjustment; log K or more minimizes the loss of the worst class.

    logits [N, K], labels int [N]: a validation split with an image of every class; counts [K]: the training set of a
    model trained with plain cross-entropy (equal counts where it was logit-adjusted). ValueError: shapes, labels, a
    class without images, NaN, -inf, probabilities instead of logits, delta below 0.
    Source: Wei et al., DROPS, ICLR 2023, by the authors' code (uniform reference, KL(g || .), cross-entropy, training
    prior). Ours: the projection, where it steps lambda by gradient (25 steps), since that can make lambda negative;
    delta 0.9, which is the example there for CIFAR-10. That code also offers the 0-1 loss, reverse KL, l1 and l2.
    """
    z, labels = check_logits(logits, labels)
    _check_finite(z, "a class of probability 0 can't be scaled up")
    num_classes = z.shape[1]
    counts = check_counts(counts, num_classes)
    images = _images_of_each_class(labels, num_classes)
    if not delta >= 0:
        raise ValueError(f"delta: expected a number of 0 or more, got {delta}")
    log_pi = (counts / counts.sum()).log()
    log_g = torch.full_like(log_pi, -math.log(num_classes))
    for _ in range(DROPS_STEPS):
        losses = F.cross_entropy(z + log_g - log_pi, labels, reduction="none")
        last, log_g = log_g, _into_ball(log_g + labels.bincount(losses, num_classes) / images, delta)
        if torch.allclose(last, log_g, rtol=0, atol=1e-6):
            break
    return (log_g - log_pi).float()


def tau_normalize(weight: Tensor, tau: float) -> Tensor:
    """w_k / ||w_k||^tau for the rows of a linear classifier [K, D], same dtype; its bias is to be dropped.

    tau 0 changes nothing, 1 makes all rows equally long; a row of zeros stays. ValueError: shape, NaN, infinity, tau
    outside 0 to 1. Source: Kang et al., ICLR 2020, tau-normalized classifier.
    """
    _check_weight(weight)
    if not 0 <= tau <= 1:
        raise ValueError(f"tau: expected a number from 0 to 1, got {tau}")
    w = weight.detach().double()
    length = w.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return (w / length**tau).to(weight.dtype)


def fit_tau(weight: Tensor, features: Tensor, labels: Tensor, taus: Sequence[float] = TAUS) -> float:
    """The smallest of `taus` with the highest mean class accuracy of features @ tau_normalize(weight, tau).T.

    weight [K, D], features [N, D] and labels int [N] of a validation split; classes without images don't count.
    ValueError: as `tau_normalize`; shapes, labels, NaN, no tau. Source: Kang et al., ICLR 2020: tau is chosen on
    validation data; the default grid, 0 to 1 in steps of 0.05, is ours.
    """
    _check_weight(weight)
    if not taus:
        raise ValueError("taus: expected at least one number from 0 to 1, got none")
    if features.ndim != 2 or features.shape[1:] != weight.shape[1:]:
        raise ValueError(f"features: expected shape [N, {weight.shape[1]}], got {list(features.shape)}")
    weight, features = weight.detach().cpu().double(), features.detach().cpu().double()
    accuracies = {t: class_accuracy(features @ tau_normalize(weight, t).T, labels).nanmean().item() for t in taus}
    return max(sorted(accuracies), key=accuracies.__getitem__)


def learned_prior(logits: Tensor, labels: Tensor) -> Tensor:
    """The class prior p_p that a model brings along, by what it takes to fit labelled images, float32 [K], sums to 1.

        b minimizes the mean of -log softmax(z_i + b)_{y_i},   p_p ~ f exp(-b),   f_k the share of class k in labels
    For a model that was not trained on these images (a zero-shot one, trained on data nobody has); by L-BFGS, the
    problem is convex. logits [N, K], labels int [N]: every class has an image. ValueError: shapes, labels, a class
    without images, NaN, -inf, probabilities instead of logits.
    Source: Zhu et al., "Generalized Logit Adjustment", NeurIPS 2023: the prior is found by optimization on downstream
    data. Theirs is a constrained problem over p_p; its constraint only fixes the constant that the softmax ignores.
    """
    z, labels = check_logits(logits, labels)
    _check_finite(z, "no offset brings the class back")
    frequency = _images_of_each_class(labels, z.shape[1]) / len(labels)
    b = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=True)
    _minimize(b, lambda: F.cross_entropy(z + b, labels))
    return (frequency.log() - b.detach()).softmax(0).float()


def generalized_logit_adjustment(
    logits: Tensor, zero_shot: Tensor, zero_shot_prior: Tensor, counts: Tensor | Sequence[int] | None = None
) -> Tensor:
    """z - log pi + z_zs - log p_p: the sum of two models' logits, each without the prior it was trained under, [N, K].

    logits z [N, K] of a model trained on the downstream data, zero_shot z_zs [N, K] of one that was not, for the same
    images and classes; zero_shot_prior p_p [K], all above 0, from `learned_prior`; counts [K] of the downstream
    training set, pi = counts / sum(counts); None: the loss was logit-adjusted, z is free of it. ValueError: shapes,
    counts, prior, NaN, probabilities instead of logits.
    Source: Zhu et al., "Generalized Logit Adjustment", NeurIPS 2023 (arXiv 2310.08106).
    """
    z, _ = check_logits(logits)
    other, _ = check_logits(zero_shot)
    if z.shape != other.shape or zero_shot_prior.shape != z.shape[1:] or not (zero_shot_prior > 0).all():
        raise ValueError(
            f"zero_shot: expected logits {list(z.shape)} and a prior of {z.shape[1]} numbers above 0, "
            f"got {list(other.shape)} and {list(zero_shot_prior.shape)}"
        )
    log_pi = torch.zeros(())
    if counts is not None:
        counts = check_counts(counts, z.shape[1])
        log_pi = (counts / counts.sum()).log()
    return (z - log_pi + other - zero_shot_prior.detach().cpu().double().log()).to(logits.dtype)


def apply(logits: Tensor, temperature: float = 1.0, offsets: Tensor | None = None) -> Tensor:
    """logits [N, K] / temperature + offsets [K]. ValueError: temperature not above 0, number of offsets."""
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    if offsets is None:
        return logits / temperature
    if offsets.shape != logits.shape[-1:]:
        raise ValueError(f"offsets: expected shape {list(logits.shape[-1:])}, got {list(offsets.shape)}")
    return logits / temperature + offsets.to(logits.device)


def _check_finite(z: Tensor, why: str) -> None:
    if z.isinf().any():
        raise ValueError(f"logits: expected finite values, got -inf; {why}")


def _images_of_each_class(labels: Tensor, num_classes: int) -> Tensor:
    images = labels.bincount(minlength=num_classes)
    if not images.all():
        raise ValueError(f"labels: class {int(images.argmin())} has no image; expected a split that has every class")
    return images


def _minimize(x: Tensor, loss: Callable[[], Tensor]) -> None:
    """Move x, which requires a gradient, to the minimum of a convex loss of it, by L-BFGS."""
    optimizer = torch.optim.LBFGS(
        [x], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)


def _check_weight(weight: Tensor) -> None:
    if weight.ndim != 2 or not weight.is_floating_point() or not weight.isfinite().all():
        found = f"{weight.dtype} {list(weight.shape)}"
        raise ValueError(f"weight: expected finite floating point [K, D], one row a class, got {found}")


def _into_ball(log_g: Tensor, delta: float) -> Tensor:
    """log softmax(s log_g) [K], s in [0, 1] the largest with KL(softmax(s log_g) || 1/K) <= delta; it grows with s."""

    def divergence(log_p: Tensor) -> float:
        return (log_p.exp() * log_p).sum().item() + math.log(len(log_p))

    low, high = 0.0, 1.0
    if divergence(log_g.log_softmax(0)) <= delta:
        return log_g.log_softmax(0)
    for _ in range(50):
        middle = (low + high) / 2
        inside = divergence((middle * log_g).log_softmax(0)) <= delta
        low, high = (middle, high) if inside else (low, middle)
    return (low * log_g).log_softmax(0)
