import pytest
import torch

from bnn.training import seed
from bnn.training.sampler import BatchSampler, PartSampler

LABELS = torch.arange(10).repeat_interleave(torch.tensor([90, 60, 40, 25, 15, 10, 6, 4, 3, 2]))  # 255 images


def test_seeds_depend_on_every_part_of_the_key_and_on_nothing_else():
    assert seed.derive("a", 1) == seed.derive("a", 1) == 5566339428396816726
    assert len({seed.derive("a", 1), seed.derive("a", 2), seed.derive("b", 1), seed.derive("a1")}) == 4


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_only():
    used = BatchSampler(LABELS, 10, seed=3)
    for _ in used:  # iterating leaves no trace
        pass
    used.epoch = 5
    fresh = BatchSampler(LABELS, 10, seed=3)
    assert torch.equal(fresh.order(5), used.order(used.epoch))
    assert [b for b in used] == list(used)
    assert fresh.order(5).sort().values.tolist() == list(range(255))
    assert not torch.equal(fresh.order(4), fresh.order(5))
    assert not torch.equal(BatchSampler(LABELS, 10, seed=4).order(5), fresh.order(5))


def test_the_incomplete_batch_is_dropped():
    batches = list(BatchSampler(LABELS, 100, seed=0))
    assert [len(batch) for batch in batches] == [100, 100]
    assert len(BatchSampler(LABELS, 100, seed=0)) == 2


def test_balanced_epochs_hold_every_class_equally_often_and_as_many_images():
    sampler = BatchSampler(LABELS, 10, seed=0, balanced=True)
    order = sampler.order(0)
    counts = LABELS[order].bincount()
    assert len(order) == len(LABELS)
    assert counts.min() >= 25 and counts.max() <= 26
    rare = order[LABELS[order] == 9].bincount(minlength=255)[-2:]  # two images share 25 or 26 draws
    assert rare.max() - rare.min() <= 1
    assert torch.equal(order, BatchSampler(LABELS, 10, seed=0, balanced=True).order(0))


def test_too_few_images_are_refused_before_training():
    with pytest.raises(ValueError, match="batch_size: expected 1 to 255 .* got 256"):
        BatchSampler(LABELS, 256, seed=0)


def test_a_part_of_the_images_is_drawn_afresh_each_epoch_by_seed_and_epoch_only():
    counts = LABELS.bincount().clamp(max=20)  # 120 images
    sampler = PartSampler(LABELS, counts, 16, length=6, seed=1)
    orders = [sampler.order(epoch) for epoch in (0, 1)]
    for order in orders:
        assert order.unique().numel() == 120 and torch.equal(LABELS[order].bincount(), counts)
    drawn = [set(order[LABELS[order] == 0].tolist()) for order in orders]
    assert len(drawn[0] | drawn[1]) > 20
    assert torch.equal(orders[1], PartSampler(LABELS, counts, 16, length=6, seed=1).order(1))
    assert not torch.equal(orders[1], PartSampler(LABELS, counts, 16, length=6, seed=2).order(1))
    seen = torch.cat([PartSampler(LABELS, counts, 16, length=6, seed=1).order(epoch) for epoch in range(40)])
    assert seen.bincount(minlength=255).min() > 0  # nothing is left out for ever
    batches = list(sampler)
    assert len(batches) == len(sampler) == 6 and all(len(batch) == 16 for batch in batches)
    with pytest.raises(ValueError, match=r"batch_size: expected 1 to 120 \(images of an epoch\), got 121"):
        PartSampler(LABELS, counts, 121, length=1, seed=0)
