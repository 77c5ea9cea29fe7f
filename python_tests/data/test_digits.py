import pytest
import torch

import bnn.data


def test_sizes_and_classes():
    data = bnn.data.load("digits")
    assert sorted(data.classes) == list("0123456789")
    assert torch.bincount(data.splits["val"].labels).tolist() == [15] * 10
    assert torch.bincount(data.splits["test"].labels).tolist() == [40] * 10
    assert torch.equal(torch.bincount(data.splits["train"].labels), data.class_counts)
    assert data.class_counts[0] >= 119 and data.class_counts[-1] == 1
    assert data.splits["test"].images([0]).shape == (1, 1, 32, 32)


def test_splits_are_disjoint_and_hold_every_image_once():
    from sklearn.datasets import load_digits

    data = bnn.data.load("digits", imbalance=1, image_size=8)
    images = torch.cat([s.images(torch.arange(len(s))) for s in data.splits.values()]).flatten(1)
    assert len(torch.unique(images, dim=0)) == len(images)
    original = torch.from_numpy(load_digits().images).flatten(1).mul(255 / 16).round().to(torch.uint8)
    labels = torch.cat([s.labels for s in data.splits.values()])
    where = (images[:, None, :] == original[None]).all(2).int().argmax(1)
    assert [int(data.classes[k]) for k in labels] == load_digits().target[where].tolist()


def test_draw_changes_order_and_splits_and_repeats():
    first, again, other = (bnn.data.load("digits", draw=d) for d in (0, 0, 1))
    assert first.classes == again.classes != other.classes
    for split in first.splits:
        assert torch.equal(first.splits[split].tensor, again.splits[split].tensor)


def test_too_large_n_max_is_refused():
    with pytest.raises(ValueError, match=r"counts: class 0 has 1\d\d images, 500 are wanted; lower n_max"):
        bnn.data.load("digits", n_max=500)


def test_step_profile():
    counts = bnn.data.load("digits", profile="step", imbalance=10, n_max=100).class_counts
    assert counts.tolist() == [100] * 5 + [10] * 5
