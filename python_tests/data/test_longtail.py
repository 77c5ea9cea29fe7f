import pytest
import torch

from bnn.data.longtail import class_counts, groups, largest_n_max, subsample


@pytest.mark.parametrize(
    ("n_max", "num_classes", "imbalance", "total"),
    [
        (5000, 10, 100, 12406),
        (500, 100, 100, 10847),
        (500, 100, 50, 12608),
        (500, 100, 10, 19573),
        (200, 100, 100, 4311),
    ],
)
def test_exponential_totals_are_the_published_ones(n_max, num_classes, imbalance, total):
    counts = class_counts("exponential", num_classes, n_max, imbalance)
    assert counts.dtype == torch.int64
    assert int(counts.sum()) == total
    assert int(counts[0]) == n_max and int(counts[-1]) == n_max // imbalance
    assert (counts.diff() <= 0).all()


def test_step_halves():
    assert class_counts("step", 5, 50, 10).tolist() == [50, 50, 5, 5, 5]


def test_truncation_loses_no_image_to_rounding():
    for imbalance in range(1, 200):
        assert int(class_counts("exponential", 7, imbalance, imbalance)[-1]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("linear", 10, 100, 10), "profile: expected one of exponential, step; got 'linear'"),
        (("step", 1, 100, 10), "num_classes: .* at least 2 classes; got 1"),
        (("step", 10, 100, 0.5), "imbalance: .* at least 1 .* got 0.5"),
        (("step", 10, 100, float("nan")), "imbalance: .* got nan"),
        (("exponential", 10, 50, 100), "n_max: 50 images at imbalance 100 .* use n_max >= 100"),
    ],
)
def test_bad_profiles_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        class_counts(*arguments)


def test_largest_n_max_is_the_largest():
    available = torch.tensor([90, 80, 11])
    n_max = largest_n_max("exponential", available, 9)
    assert (class_counts("exponential", 3, n_max, 9) <= available).all()
    assert n_max == 90
    assert largest_n_max("exponential", torch.tensor([90, 20, 11]), 9) == 62  # int(62 / 3) = 20


def test_subsample_counts_nested_and_seeded():
    labels = torch.arange(300) % 3
    large = subsample(labels, torch.tensor([100, 40, 10]), seed=1)
    small = subsample(labels, torch.tensor([50, 20, 5]), seed=1)
    assert torch.bincount(labels[large]).tolist() == [100, 40, 10]
    assert torch.isin(small, large).all() and (large.diff() > 0).all()
    assert not torch.equal(large, subsample(labels, torch.tensor([100, 40, 10]), seed=2))


def test_subsample_names_what_is_wrong():
    with pytest.raises(ValueError, match="counts: class 1 has 2 images, 3 are wanted; lower n_max"):
        subsample(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([3, 3]), 0)
    with pytest.raises(ValueError, match="labels: expected 0 to 1 for 2 counts; got 0 to 2"):
        subsample(torch.tensor([0, 1, 2]), torch.tensor([1, 1]), 0)


def test_group_thresholds():
    found = groups(torch.tensor([101, 100, 20, 19, 1]))
    assert {name: mask.int().tolist() for name, mask in found.items()} == {
        "many": [1, 0, 0, 0, 0],
        "medium": [0, 1, 1, 0, 0],
        "few": [0, 0, 0, 1, 1],
    }
