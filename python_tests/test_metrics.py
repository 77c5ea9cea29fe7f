import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnn import metrics

PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)


def sample(seed=0, images=600, classes=7, sharpness=2.0, dtype=torch.float64):
    """Logits with a say about their labels, every class present."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(images), labels] += 1
    return (sharpness * logits).to(dtype), labels


def longtail(per_class=30, classes=100, shift=0.0):
    counts = (200 * 0.01 ** (torch.arange(classes) / (classes - 1))).long()
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(classes).repeat_interleave(per_class)
    logits = torch.randn(len(labels), classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(len(labels)), labels] += 3 + shift * counts[labels].double().log()
    return logits, labels, counts


@pytest.mark.parametrize("bins", [10, 15])
@pytest.mark.parametrize("sharpness", [0.3, 2.0, 6.0])
def test_ece_equals_torchmetrics(bins, sharpness):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = sample(sharpness=sharpness)
    p = logits.softmax(1)
    expected = 100 * multiclass_calibration_error(p, labels, 7, n_bins=bins, norm="l1").item()
    assert metrics.ece(p, labels, bins) == pytest.approx(expected, abs=1e-3)


def test_ece_classwise_equals_torchmetrics_one_vs_rest():
    from torchmetrics.functional.classification import binary_calibration_error

    logits, labels = sample(classes=70)
    p = logits.softmax(1)
    one_vs_rest = [
        binary_calibration_error(p[:, k].contiguous(), (labels == k).long(), n_bins=15, norm="l1") for k in range(70)
    ]
    assert metrics.ece_classwise(p, labels) == pytest.approx(100 * torch.stack(one_vs_rest).mean().item(), abs=1e-3)


def test_ece_adaptive_equals_sorting_and_splitting():
    logits, labels = sample(images=15 * 40)
    p = logits.softmax(1).numpy()
    order = np.argsort(p.max(1))
    gap = (p.max(1) - (p.argmax(1) == labels.numpy()))[order]
    expected = 100 * np.mean([abs(part.mean()) for part in np.split(gap, 15)])
    assert metrics.ece_adaptive(torch.from_numpy(p), labels) == pytest.approx(expected, abs=1e-9)


def test_accuracies_nll_and_brier_equal_sklearn():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

    logits, labels = sample(images=500)
    labels[labels == 3] = 2
    labels[0] = 3
    p = logits.softmax(1)
    predicted = p.argmax(1)
    assert metrics.accuracy(logits, labels) == pytest.approx(100 * accuracy_score(labels, predicted))
    mean = metrics.class_accuracy(logits, labels).mean().item()
    assert mean == pytest.approx(100 * balanced_accuracy_score(labels, predicted))
    assert metrics.nll(p, labels) == pytest.approx(log_loss(labels, p.numpy(), labels=range(7)))
    one_hot = np.eye(7)[labels.numpy()]
    assert metrics.brier(p, labels) == pytest.approx(((p.numpy() - one_hot) ** 2).sum(1).mean())


def test_by_hand():
    p = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.35, 0.65]])
    labels = torch.tensor([0, 1, 1, 1])
    assert metrics.accuracy(p, labels) == 75
    assert metrics.class_accuracy(p, labels).tolist() == pytest.approx([100, 200 / 3])
    assert metrics.ece(p, labels) == pytest.approx(50 * 0.45 + 50 * 0.35)
    assert metrics.ece_adaptive(p, labels, bins=2) == pytest.approx(50 * 0.45 + 50 * 0.35)
    assert metrics.ece_classwise(p, labels) == pytest.approx(50 * 0.45 + 50 * 0.35)
    assert metrics.brier(p, labels) == pytest.approx((0.005 + 1.805 + 0.245 + 0.245) / 4)
    bins = metrics.reliability_bins(p, labels)
    assert bins["count"].tolist() == [0] * 9 + [2] + [0] * 4 + [2]
    assert bins["accuracy"][[9, 14]].tolist() == [100, 50] and bins["accuracy"][0].isnan()


def test_an_edge_belongs_to_the_bin_below_and_certainty_to_the_last():
    p = torch.tensor([[0.8, 0.2], [1.0, 0.0]], dtype=torch.float64)
    assert metrics.reliability_bins(p, torch.tensor([0, 0]), bins=5)["count"].tolist() == [0, 0, 0, 1, 1]


def test_certain_and_wrong():
    p, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    assert metrics.ece(p, labels) == 100
    assert metrics.brier(p, labels) == 2
    assert metrics.nll(p, labels) == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))


@PROPERTY
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 6), st.floats(0, 8), st.booleans())
def test_properties(seed, images, classes, sharpness, rounded):
    """Bounds, and no dependence on the order of images or classes; rounding makes ties."""
    logits, labels = sample(seed, images, classes, sharpness)
    logits = logits.round() if rounded else logits
    p = logits.softmax(1)
    shuffle = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    for metric in (metrics.ece, metrics.ece_adaptive, metrics.ece_classwise, metrics.brier, metrics.nll):
        assert metric(p, labels) >= 0
        if metric in (metrics.brier, metrics.nll, metrics.ece_classwise):
            flipped = metric(p.flip(1), classes - 1 - labels)
            assert flipped == pytest.approx(metric(p, labels), abs=1e-9)
        assert metric(p[shuffle], labels[shuffle]) == pytest.approx(metric(p, labels), abs=1e-9)
    bias = abs(100 * p.amax(1).mean().item() - metrics.accuracy(p, labels))
    assert bias - 1e-9 <= metrics.ece(p, labels) <= 100 + 1e-9
    assert bias - 1e-9 <= metrics.ece_adaptive(p, labels) <= 100 + 1e-9
    bins = metrics.reliability_bins(p, labels)
    weighed = (bins["count"] / images * (bins["accuracy"] - bins["confidence"]).abs()).nansum().item()
    assert weighed == pytest.approx(metrics.ece(p, labels), abs=1e-9)


def test_evaluate_equals_the_single_functions():
    logits, labels, counts = longtail()
    result = metrics.evaluate(logits, labels, counts, bootstrap=0)
    p = logits.softmax(1)
    for name in ("ece", "ece_adaptive", "ece_classwise", "nll", "brier"):
        metric = getattr(metrics, name)
        assert result[name] == pytest.approx(metric(p, labels), abs=1e-9)
        if name != "ece_classwise":
            few = counts[labels] < 20
            assert result[f"{name}_few"] == pytest.approx(metric(p[few], labels[few]), abs=1e-9)
    by_class = metrics.class_accuracy(logits, labels)
    assert result["few"] == pytest.approx(by_class[counts < 20].mean().item())
    assert result["many"] == pytest.approx(by_class[counts > 100].mean().item())
    sizes = {name: int(mask.sum()) for name, mask in metrics.groups(counts).items()}
    for name in ("ece_classwise", "mean"):
        parts = [result[f"{name}_{g}" if name != "mean" else g] * size for g, size in sizes.items()]
        assert sum(parts) / 100 == pytest.approx(result[name])
    assert not any(key.endswith(("_low", "_high")) for key in result)


def test_evaluate_keys():
    logits, labels, counts = longtail(per_class=3)
    calibration = {"ece", "ece_adaptive", "ece_classwise", "nll", "brier"}
    groups = {"many", "medium", "few"}
    bounded = {"mean", "ece"} | groups | {f"ece_{g}" for g in groups}
    expected = {"accuracy", "mean"} | groups | calibration | {f"{c}_{g}" for c in calibration for g in groups}
    expected |= {name + bound for name in bounded for bound in ("_low", "_high")}
    result = metrics.evaluate(logits, labels, counts, bootstrap=10)
    assert set(result) == expected
    assert all(type(value) is float and math.isfinite(value) for value in result.values())


def test_evaluate_leaves_out_what_is_not_there():
    logits, labels = sample(images=60, classes=3)
    result = metrics.evaluate(logits, labels, [500, 400, 50], bootstrap=10)
    assert "many" in result and "medium" in result and not any("few" in key for key in result)
    rows = labels != 1
    without = metrics.evaluate(logits[rows], labels[rows], [500, 400, 50], bootstrap=10)
    by_class = metrics.class_accuracy(logits[rows], labels[rows])
    assert by_class[1].isnan() and without["many"] == pytest.approx(by_class[0].item())
    rows = labels != 2
    assert not any("medium" in key for key in metrics.evaluate(logits[rows], labels[rows], [500, 400, 50], bootstrap=9))


def test_evaluate_ignores_a_constant_and_the_input_type():
    logits, labels, counts = longtail(per_class=4)
    exact = metrics.evaluate(logits, labels, counts, bootstrap=20)
    assert metrics.evaluate(logits + 7, labels, counts, bootstrap=20) == pytest.approx(exact)
    assert metrics.evaluate(logits.float(), labels.int(), counts.tolist(), bootstrap=20) == pytest.approx(
        exact, abs=1e-4
    )
    assert metrics.evaluate(logits.numpy(), labels.numpy(), counts.numpy(), bootstrap=20) == exact


def test_evaluate_takes_the_log_of_probabilities_with_zeros():
    logits, labels, counts = longtail(per_class=4)
    p = (logits * 60).float().softmax(1)
    assert (p == 0).any()
    result = metrics.evaluate(p.log(), labels, counts, bootstrap=0)
    assert result["ece"] == pytest.approx(metrics.ece(p, labels), abs=1e-4)
    assert result["nll"] == pytest.approx(metrics.nll(p, labels), rel=1e-6)


def test_a_wide_logit_gap_counts_in_full():
    result = metrics.evaluate(torch.tensor([[200.0, 0.0]]), torch.tensor([1]), [9, 9], bootstrap=0)
    assert result["nll"] == pytest.approx(200)


def test_intervals_depend_on_the_seed_only_and_hold_the_estimate():
    logits, labels, counts = longtail(shift=0.3)
    first = metrics.evaluate(logits, labels, counts, bootstrap=200)
    assert first == metrics.evaluate(logits, labels, counts, bootstrap=200)
    assert first != metrics.evaluate(logits, labels, counts, bootstrap=200, seed=1)
    for key in [key[:-4] for key in first if key.endswith("_low")]:
        assert 0 <= first[f"{key}_low"] <= first[key] <= first[f"{key}_high"] <= 100


def test_interval_of_a_mean_has_the_width_of_its_standard_error():
    logits, labels, counts = longtail()
    result = metrics.evaluate(logits, labels, counts, bootstrap=2000)
    for name, mask in metrics.groups(counts).items():
        q = metrics.class_accuracy(logits, labels)[mask] / 100
        error = 100 * (q * (1 - q) / 30).sum().sqrt().item() / int(mask.sum())
        assert result[f"{name}_high"] - result[f"{name}_low"] == pytest.approx(2 * 1.96 * error, rel=0.12)


def test_interval_of_the_ece_of_a_calibrated_model_comes_near_zero():
    """The percentile interval would not: here it starts above 5 %."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(300, 20, generator=generator, dtype=torch.float64)
    labels = logits.softmax(1).multinomial(1, generator=generator)[:, 0]
    result = metrics.evaluate(logits, labels, [50] * 20)
    assert result["ece"] > 3 and result["ece_low"] < 1.5 and result["ece_high"] >= result["ece"]


def test_low_precision_probabilities_are_accepted():
    logits, labels = sample(dtype=torch.float32, classes=100)
    exact = metrics.ece(logits.softmax(1), labels)
    assert metrics.ece(logits.softmax(1).bfloat16(), labels) == pytest.approx(exact, abs=0.5)
    assert metrics.ece(logits.softmax(1).half(), labels) == pytest.approx(exact, abs=0.5)


LOGITS, LABELS = sample(images=6, classes=3)
P = LOGITS.softmax(1)
NAN = LOGITS.clone()
NAN[2, 1] = float("nan")


@pytest.mark.parametrize(
    "metric", [metrics.ece, metrics.ece_adaptive, metrics.ece_classwise, metrics.nll, metrics.brier]
)
def test_probabilities_are_told_from_logits(metric):
    with pytest.raises(ValueError, match="looks like logits"):
        metric(LOGITS, LABELS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.evaluate(P, LABELS, [9, 9, 9]), "looks like probabilities"),
        (lambda: metrics.evaluate(NAN, LABELS, [9, 9, 9]), "logits: 1 of 6 rows hold NaN"),
        (lambda: metrics.evaluate(LOGITS * math.inf, LABELS, [9, 9, 9]), "logits: .*inf"),
        (lambda: metrics.evaluate(LOGITS, LABELS, [9, 9]), r"class counts: expected shape \[3\].* got \[2\]"),
        (lambda: metrics.evaluate(LOGITS, LABELS, [9, -1, 9]), "class counts: class 1 has -1"),
        (lambda: metrics.evaluate(LOGITS[0], LABELS, [9, 9, 9]), r"logits: expected .*\[N, K\].* got .*\[3\]"),
        (lambda: metrics.ece(P, LABELS[:4]), r"labels: expected integers of shape \[6\].*\[4\]"),
        (lambda: metrics.ece(P, LABELS.double()), "labels: expected integers"),
        (lambda: metrics.ece(P, LABELS + 1), r"labels: expected 0\.\.2.* got 1\.\.3"),
        (lambda: metrics.ece(P, LABELS - 1), r"labels: expected 0\.\.2.* got -1\.\.1"),
        (lambda: metrics.ece(P[:0], LABELS[:0]), "N >= 1"),
        (lambda: metrics.accuracy(LABELS[:, None].expand(6, 3), LABELS), "scores: expected floating point"),
        (lambda: metrics.ece(NAN, LABELS), "probabilities: 1 of 6 rows hold NaN"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
