"""Corrections of a trained classifier that need no training: temperature, logit adjustment, Prior2Posterior.

All yield what `apply` (and a packed model) computes: logits / temperature + offsets. Where both are used, fit the
temperature first and estimate the offsets on logits / temperature. N images, K classes; computed in float64.
A constant added to all offsets changes neither class nor probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.metrics import check_counts, check_logits

SMALLEST_PRIOR = 1e-8
LOG_T_BOUND = 6.9


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """T > 0 that minimizes the mean of -log softmax(z / T)_y, by L-BFGS on log T.

    logits [N, K], labels int [N] of images that were not trained on. There is one minimum; it lies at 0 where every
    label has the largest logit, at infinity where the labels' logits are no larger than the others' on average: T then
    stays between 1/1000 and 1000 times the spread of the logits. Logits that are all equal give 1.
    ValueError: shapes, labels, NaN, -inf, probabilities instead of logits.
    Source: Guo et al., ICML 2017, section 4.2.
    """
    z, labels = check_logits(logits, labels)
    if z.isinf().any():
        raise ValueError("logits: expected finite values, got -inf; a temperature can't scale it")
    spread = z.std(1, correction=0).square().mean().sqrt().item()
    if spread == 0:
        return 1.0
    z = z / spread
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_t], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(z / log_t.clamp(-LOG_T_BOUND, LOG_T_BOUND).exp(), labels)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return spread * log_t.detach().clamp(-LOG_T_BOUND, LOG_T_BOUND).exp().item()


def logit_adjustment(counts: Tensor | Sequence[int], tau: float = 1.0) -> Tensor:
    """Offsets -tau log pi to add to logits, float32 [K], for a model trained with plain cross-entropy.

    pi = counts / sum(counts), counts [K] of the training set, each at least 1. Source: Menon et al., ICLR 2021, eq. 9.
    """
    counts = check_counts(counts)
    return (-tau * (counts / counts.sum()).log()).float()


def prior2posterior(
    logits: Tensor, counts: Tensor | Sequence[int] | None = None, *, strength: float = 1.0, tau: float = 1.0
) -> Tensor:
    """Offsets that replace the prior a model has learned by the uniform one, float32 [K].

    Case 1, trained with plain cross-entropy (counts None):
        P_m = (1/N) sum_i softmax(z_i),   offsets = strength (log(1/K) - log P_m)
    Case 2, trained with the loss -log softmax(z + tau log pi)_y (counts given, pi = counts / sum(counts)):
        q = (1/N) sum_i softmax(z_i + tau log pi),   P_eff ~ q / pi^tau,   offsets = strength (log(1/K) - log P_eff)
    P_m and q are clamped at 1e-8 and normalized again; strength 1 is the method, 0 changes nothing.

    logits [N, K]: evaluation-mode outputs, without augmentation, for images distributed like the training set (that set
    itself, or better a held-out part of it): labels aren't used. A balanced set is wrong here. Using case 1 for a
    logit-adjusted model over-corrects. ValueError: shapes, counts, NaN, probabilities instead of logits.
    Source: Bhat et al., Prior2Posterior, WACV 2025.
    """
    z, _ = check_logits(logits)
    num_classes = z.shape[1]
    log_pi = torch.zeros(num_classes, dtype=torch.float64)
    if counts is not None:
        counts = check_counts(counts, num_classes)
        log_pi = tau * (counts / counts.sum()).log()
    q = (z + log_pi).softmax(1).mean(0).clamp_min(SMALLEST_PRIOR)
    log_prior = ((q / q.sum()).log() - log_pi).log_softmax(0)
    return (strength * (-log_prior - math.log(num_classes))).float()


def apply(logits: Tensor, temperature: float = 1.0, offsets: Tensor | None = None) -> Tensor:
    """logits [N, K] / temperature + offsets [K]. ValueError: temperature not above 0, number of offsets."""
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    if offsets is None:
        return logits / temperature
    if offsets.shape != logits.shape[-1:]:
        raise ValueError(f"offsets: expected shape {list(logits.shape[-1:])}, got {list(offsets.shape)}")
    return logits / temperature + offsets.to(logits.device)
