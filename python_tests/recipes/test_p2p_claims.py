"""What Prior2Posterior promises, on a problem where everything is known: `python test_p2p_claims.py` prints the table.

A linear softmax is trained to its stationary point on ten Gaussian classes of unit variance, their means on a sphere.
With a free bias the learned prior is the class frequencies and P2P is logit adjustment; with weight decay instead of a
bias, or label smoothing, it is another prior, and P2P gains.
"""

import functools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bnn import metrics, posthoc

CLASSES, FEATURES, RADIUS = 10, 20, 2.05
LARGEST, IMBALANCE, HELD_OUT = 2000, 100, 500  # training points of the first class, its ratio to the last; test points
SEEDS = range(5)
TRAINING = {  # bias, weight decay on W, label smoothing
    "bias": (True, 0.0, 0.0),
    "bias, weight decay 1e-2 on W": (True, 1e-2, 0.0),
    "no bias, weight decay 1e-2": (False, 1e-2, 0.0),
    "bias, label smoothing 0.1": (True, 0.0, 0.1),
}
COLUMNS = ("raw", "minus log pi", "P2P", "max abs(P_m/pi - 1)", "LA raw", "LA, case 1", "LA, case 2", "tau", "DROPS")


@functools.cache
def gaussians(seed: int) -> tuple[Tensor, ...]:
    """Training counts, then points and labels for training, test and validation."""
    generator = torch.Generator().manual_seed(seed)
    means = RADIUS * F.normalize(torch.randn(CLASSES, FEATURES, generator=generator, dtype=torch.float64))
    counts = (LARGEST * IMBALANCE ** (-torch.arange(CLASSES) / (CLASSES - 1))).round().long()

    def draw(sizes: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.arange(CLASSES).repeat_interleave(sizes)
        return means[y] + torch.randn(len(y), FEATURES, generator=generator, dtype=torch.float64), y

    held_out = torch.full((CLASSES,), HELD_OUT)
    return counts, *draw(counts), *draw(held_out), *draw(held_out // 10)


def stationary(seed: int, training: str, adjusted: bool) -> tuple[Tensor, Tensor]:
    """W [K, D] and b [K] after L-BFGS; `adjusted`: the loss sees softmax(z + log pi)."""
    counts, x, y, *_ = gaussians(seed)
    bias, decay, smoothing = TRAINING[training]
    w = torch.zeros(CLASSES, FEATURES, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=bias)
    offset = (counts / counts.sum()).double().log() * adjusted
    optimizer = torch.optim.LBFGS([w, b][: 1 + bias], max_iter=300, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ w.T + b + offset, y, label_smoothing=smoothing) + decay / 2 * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return w.detach(), b.detach()


@functools.cache
def figures(seed: int, training: str) -> dict[str, float]:
    """One row of the table: mean class accuracies on the balanced test points, and how far the learned prior is off."""
    counts, x, _, test, labels, val, val_labels = gaussians(seed)
    pi = counts / counts.sum()

    def accuracy(logits: Tensor, offsets: Tensor | None = None) -> float:
        return metrics.class_accuracy(posthoc.apply(logits, offsets=offsets), labels).mean().item()

    w, b = stationary(seed, training, adjusted=False)
    v, a = stationary(seed, training, adjusted=True)
    z, adjusted = test @ w.T + b, test @ v.T + a
    tau = posthoc.fit_tau(w, val, val_labels)
    values = (
        accuracy(z),
        accuracy(z, posthoc.logit_adjustment(counts)),
        accuracy(z, posthoc.prior2posterior(x @ w.T + b)),
        ((x @ w.T + b).softmax(1).mean(0) / pi - 1).abs().max().item(),
        accuracy(adjusted),
        accuracy(adjusted, posthoc.prior2posterior(x @ v.T + a)),
        accuracy(adjusted, posthoc.prior2posterior(x @ v.T + a, counts)),
        accuracy(test @ posthoc.tau_normalize(w, tau).T),
        accuracy(z, posthoc.drops(val @ w.T + b, val_labels, counts)),
    )
    return dict(zip(COLUMNS, values, strict=True))


each_seed = pytest.mark.parametrize("seed", SEEDS)


@each_seed
@pytest.mark.parametrize("training", list(TRAINING)[:2])
def test_p2p_is_logit_adjustment_where_a_free_bias_learned_the_class_frequencies(seed, training):
    """A stationary bias means sum_i p(y | x_i) = n_y."""
    row = figures(seed, training)
    assert row["max abs(P_m/pi - 1)"] < 1e-3
    assert row["P2P"] == pytest.approx(row["minus log pi"], abs=0.1)
    assert row["P2P"] > row["raw"] + 5


@each_seed
@pytest.mark.parametrize("training", list(TRAINING)[2:])
def test_p2p_gains_where_the_learned_prior_is_another(seed, training):
    row = figures(seed, training)
    assert row["max abs(P_m/pi - 1)"] > 1
    assert row["P2P"] > row["minus log pi"] + 3
    assert row["P2P"] > row["raw"] + 5


@each_seed
@pytest.mark.parametrize("training", TRAINING)
def test_case_2_is_not_below_logit_adjusted_training(seed, training):
    row = figures(seed, training)
    assert row["LA, case 2"] > row["LA raw"] - 0.1


def test_case_1_over_corrects_a_logit_adjusted_model():
    rows = [figures(seed, training) for seed in SEEDS for training in TRAINING]
    assert all(row["LA, case 2"] > row["LA, case 1"] for row in rows)


def table() -> str:
    """Mean ± standard deviation over the seeds, in Markdown."""
    lines = [f"| training | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for training in TRAINING:
        rows = torch.tensor([list(figures(seed, training).values()) for seed in SEEDS])
        cells = [f"{mean:.1f} ± {std:.1f}" for mean, std in zip(rows.mean(0), rows.std(0), strict=True)]
        lines.append(f"| {training} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
