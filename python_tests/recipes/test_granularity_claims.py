"""What neighbor silencing promises, on a problem where everything is known.

10 Gaussian target classes of 60 to 2 points in 8 dimensions, two auxiliary classes of 20 points beside each, a linear
classifier. The margins are about half of the least difference over seeds 0 to 4.
"""

import torch
from torch import Tensor

from bnn import losses

TARGETS, BESIDE = 10, 2


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x and y of target then auxiliary points, their counts, and a balanced test set of the targets."""
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn(TARGETS, 8, generator=random)
    counts = (60 * (1 / 30) ** (torch.arange(TARGETS) / (TARGETS - 1))).long().clamp(min=2)
    mean = torch.cat([mean, (mean[:, None] + 0.6 * torch.randn(TARGETS, BESIDE, 8, generator=random)).flatten(0, 1)])
    counts = torch.cat([counts, torch.full((TARGETS * BESIDE,), 20)])
    y, test_y = torch.arange(len(mean)).repeat_interleave(counts), torch.arange(TARGETS).repeat_interleave(200)
    x, test_x = (mean[labels] + 0.7 * torch.randn(len(labels), 8, generator=random) for labels in (y, test_y))
    return x, y, counts, test_x, test_y


def accuracy(seed: int, weights: Tensor) -> float:
    """Balanced test accuracy, percent, of a linear classifier trained on the first len(weights) classes."""
    x, y, counts, test_x, test_y = problem(seed)
    used, classes = y < len(weights), len(weights)
    w, b = torch.zeros(classes, 8, requires_grad=True), torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([w, b], lr=0.05)
    for _ in range(300):
        loss = losses.neighbor_silencing(x[used] @ w.T + b, y[used], counts[:classes], weights)
        optimizer.zero_grad()
        (loss + 1e-3 * w.square().sum()).backward()
        optimizer.step()
    logits = test_x @ w[:TARGETS].T + b[:TARGETS]  # auxiliary rows are dropped
    return 100 * (logits.argmax(1) == test_y).double().mean().item()


def test_neighbors_help_and_silencing_helps_them_more():
    near = torch.eye(TARGETS, dtype=torch.bool).repeat_interleave(BESIDE, 1)
    alone = accuracy(0, torch.ones(TARGETS, TARGETS))
    hard, plain = accuracy(0, losses.neighbor_weights(near)), accuracy(0, losses.neighbor_weights(near, 1.0))
    assert hard > alone + 0.9
    assert hard > plain + 0.35
