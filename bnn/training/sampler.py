"""Which images form a batch: a function of (seed, epoch), so resumed and multi-process runs see the same batches."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bnn.data.hashing import hash64
from bnn.training import seed as seeds


class BatchSampler(torch.utils.data.Sampler):
    """Lists of `batch_size` indices; each epoch is a permutation that depends on (seed, epoch) only.

    Args:
        labels: int64 [N], the class of every image, in [0, K).
        batch_size: images a batch, over all processes together (Accelerate deals them out); the last, incomplete
            batch of an epoch is dropped.
        seed: any integer.
        balanced: draw the same number of images of every class (up to 1, the odd ones go to random classes), N an
            epoch in all; rare images are repeated. The class-balanced sampling of decoupled training
            (Kang et al., ICLR 2020).

    Attributes:
        epoch: the epoch the next iteration belongs to; whoever iterates sets it.

    Raises:
        ValueError: there are fewer images than `batch_size`.
    """

    def __init__(self, labels: Tensor, batch_size: int, *, seed: int, balanced: bool = False) -> None:
        if batch_size < 1 or len(labels) < batch_size:
            raise ValueError(
                f"batch_size: expected 1 to {len(labels)} (the number of training images), got {batch_size}"
            )
        self.labels, self.batch_size, self.seed, self.balanced = labels, batch_size, seed, balanced
        self.drop_last = True  # read by Accelerate
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order(self.epoch).tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]

    def order(self, epoch: int) -> Tensor:
        """The N indices of an epoch, int64 [N]."""
        random = seeds.generator("batches", self.seed, epoch)
        if self.balanced:
            return self._balanced_order(random)
        return torch.randperm(len(self.labels), generator=random)

    def _balanced_order(self, random: torch.Generator) -> Tensor:
        classes = self.labels.unique()
        share, rest = divmod(len(self.labels), len(classes))
        lucky = torch.randperm(len(classes), generator=random) < rest
        chosen = []
        for label, extra in zip(classes.tolist(), lucky.tolist(), strict=True):
            members = (self.labels == label).nonzero().flatten()
            wanted = share + extra
            rounds = -(-wanted // len(members))
            shuffles = [members[torch.randperm(len(members), generator=random)] for _ in range(rounds)]
            chosen.append(torch.cat(shuffles)[:wanted] if shuffles else members[:0])
        order = torch.cat(chosen)
        return order[torch.randperm(len(order), generator=random)]


class PartSampler(BatchSampler):
    """As `BatchSampler`, from counts[c] images of every class c an epoch, chosen by a hash of (seed, epoch, image).

    Args:
        labels: int64 [N] in [0, C).
        counts: int64 [C], images of every class an epoch, at most as many as there are.
        batch_size: as above.
        length: batches an epoch, at most sum(counts) // batch_size; the images left over differ from epoch to epoch.
        seed: any integer.

    Raises:
        ValueError: an epoch has fewer images than `batch_size`.
    """

    def __init__(self, labels: Tensor, counts: Tensor, batch_size: int, *, length: int, seed: int) -> None:
        super().__init__(labels, min(batch_size, len(labels)), seed=seed)
        if int(counts.sum()) < batch_size:
            raise ValueError(f"batch_size: expected 1 to {int(counts.sum())} (images of an epoch), got {batch_size}")
        self.counts, self.length = counts, length
        self._ordered: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return self.length

    def order(self, epoch: int) -> Tensor:
        """The indices of an epoch, int64 [sum(counts)]; the last one asked for is kept."""
        if self._ordered is None or self._ordered[0] != epoch:
            labels = self.labels.numpy()
            keys = hash64(seeds.derive("part", self.seed), epoch, np.arange(len(labels)))
            by_class = np.lexsort((keys, labels))
            available = np.bincount(labels, minlength=len(self.counts))
            rank = np.arange(len(labels)) - np.repeat(np.cumsum(available) - available, available)
            chosen = torch.from_numpy(by_class[rank < self.counts.numpy()[labels[by_class]]])
            random = seeds.generator("batches", self.seed, epoch)
            self._ordered = epoch, chosen[torch.randperm(len(chosen), generator=random)]
        return self._ordered[1]
