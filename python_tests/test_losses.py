import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn import functional as F

from bnn import losses

PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)
COUNTS = torch.tensor([200, 90, 30, 7, 2])


def batch(seed=0, images=12, classes=5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(classes, (images,), generator=generator)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_balanced_softmax_equals_the_formula(tau):
    logits, labels = batch()
    weighted = logits.exp() * (COUNTS / COUNTS.sum()) ** tau
    expected = -(weighted / weighted.sum(1, keepdim=True))[range(12), labels].log().mean()
    torch.testing.assert_close(losses.balanced_softmax(logits, labels, COUNTS, tau), expected)
    one_hot = F.one_hot(labels, 5).double()
    torch.testing.assert_close(losses.balanced_softmax(logits, one_hot, COUNTS, tau), expected)


@PROPERTY
@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_balanced_softmax_with_equal_counts_is_cross_entropy(seed, count):
    logits, labels = batch(seed)
    loss = losses.balanced_softmax(logits, labels, [count] * 5)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


def test_balanced_softmax_leaves_the_balanced_posterior():
    """Minimized over a constant input, raw logits are equal: the prior went into the offset."""
    labels = torch.repeat_interleave(torch.arange(5), COUNTS)
    z = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    loss = losses.balanced_softmax(z.expand(len(labels), 5), labels, COUNTS)
    assert torch.autograd.grad(loss, z)[0].abs().max() < 1e-12


def test_label_aware_smoothing_equals_a_loop():
    logits, labels = batch()
    log_p = logits.log_softmax(1)
    terms = []
    for row, y in zip(log_p, labels.tolist(), strict=True):
        e = 0.1 + (0.4 - 0.1) * math.sin(math.pi * (COUNTS[y].item() - 2) / (2 * (200 - 2)))
        terms.append(-(1 - e) * row[y] - e * row.mean())
    loss = losses.label_aware_smoothing(logits, labels, COUNTS, head=0.4, tail=0.1)
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_label_aware_smoothing_of_one_class_is_label_smoothing():
    logits, _ = batch()
    for label, smoothing in ((0, 0.3), (4, 0.05)):
        labels = torch.full((12,), label)
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        loss = losses.label_aware_smoothing(logits, labels, COUNTS, head=0.3, tail=0.05)
        torch.testing.assert_close(loss, expected)
        equal = losses.label_aware_smoothing(logits, labels, [50] * 5, head=smoothing)
        torch.testing.assert_close(equal, expected)


NEAR = torch.tensor([[True, False, True], [False, True, True]])  # 2 target and 3 auxiliary classes


def silencing_by_loops(logits, labels, weight, rows="both", others=False):
    """Mean of -log(pi_y e^{z_y} / sum_j w_yj pi_j e^{z_j}), pair by pair; silent classes are left out of the sum."""
    total = 0.0
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        terms = []
        for j in range(5):
            target, auxiliary = min(y, j), max(y, j) - 2
            pair = y != j and target < 2 <= max(y, j) and bool(NEAR[target, auxiliary])
            pair = pair and rows in ("both", "target" if y < 2 else "auxiliary")
            pair = pair or (others and rows != "target" and y != j and y >= 2 and j >= 2)
            terms.append((weight if pair else 1.0) * COUNTS[j].item() * math.exp(z[j]))
        total -= math.log(COUNTS[y].item() * math.exp(z[y]) / math.fsum(terms))
    return total / len(labels)


@pytest.mark.parametrize("rows", ["both", "target", "auxiliary"])
@pytest.mark.parametrize(("weight", "others"), [(0.0, False), (0.0, True), (0.1, False), (1.0, False)])
def test_neighbor_silencing_equals_a_loop(rows, weight, others):
    logits, labels = batch()
    weights = losses.neighbor_weights(NEAR, weight, rows=rows, others=others)
    loss = losses.neighbor_silencing(logits, labels, COUNTS, weights).item()
    assert loss == pytest.approx(silencing_by_loops(logits, labels, weight, rows, others), rel=1e-6)  # float32 weights
    if weight == 1:
        torch.testing.assert_close(loss, losses.balanced_softmax(logits, labels, COUNTS).item())


def test_a_mixture_has_the_row_of_each_of_its_labels():
    logits, labels = batch()
    other, share = labels.flip(0), torch.linspace(0, 1, 12, dtype=torch.float64)
    loss = losses.neighbor_silencing(
        logits, labels, COUNTS, losses.neighbor_weights(NEAR), mixture=(other, share)
    ).item()
    terms = []
    for z, y, second, s in zip(logits[:, None], labels[:, None], other[:, None], share.tolist(), strict=True):
        terms.append(s * silencing_by_loops(z, y, 0.0) + (1 - s) * silencing_by_loops(z, second, 0.0))
    assert loss == pytest.approx(sum(terms) / 12)


def test_silenced_logits_get_no_gradient_and_the_rest_stays_finite():
    weights = losses.neighbor_weights(NEAR)
    z = torch.tensor([[0.0, 0.0, 1e4, -1e4, 50.0]], requires_grad=True)
    loss = losses.neighbor_silencing(z, torch.tensor([0]), COUNTS, weights)
    gradient = torch.autograd.grad(loss, z)[0][0]
    assert loss.isfinite() and gradient.isfinite().all()
    assert gradient[2] == gradient[4] == 0 and gradient[0] < 0 < gradient[1]
    assert (weights.diagonal() == 1).all()


def slow_weighted_mean(rows, labels, beta):
    """Rows of logits, margins applied: weighted cross-entropy, an image at a time."""
    total = weights = 0.0
    for z, y in zip(rows, labels.tolist(), strict=True):
        w = (1 - beta) / (1 - beta ** COUNTS[y].item())
        total += w * (math.log(sum(math.exp(v - max(z)) for v in z)) + max(z) - z[y])
        weights += w
    return total / weights


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_class_balanced_and_ldam_equal_a_loop(beta):
    logits, labels = batch()
    loss = losses.class_balanced(logits, labels, COUNTS, beta)
    assert loss.item() == pytest.approx(slow_weighted_mean(logits.tolist(), labels, beta))
    rows = logits.tolist()
    for z, y in zip(rows, labels.tolist(), strict=True):
        z[y] -= 10 * 0.4 * (2 / COUNTS[y].item()) ** 0.25
    loss = losses.ldam(logits, labels, COUNTS, max_margin=0.4, scale=10.0, beta=beta)
    assert loss.item() == pytest.approx(slow_weighted_mean(rows, labels, beta))


def test_without_weights_and_margins_they_are_cross_entropy():
    logits, labels = batch()
    expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(losses.class_balanced(logits, labels, COUNTS, 0.0), expected)
    torch.testing.assert_close(losses.ldam(logits, labels, COUNTS, max_margin=0.0), expected)
    torch.testing.assert_close(losses.label_over_smoothing(logits, labels, 0.0), expected)


def test_class_weights_keep_their_digits_in_float32():
    n = torch.tensor([1.0, 2.0, 1000.0])
    expected = torch.tensor([1 / (1 - 0.9999**k) for k in (1, 2, 1000)])
    torch.testing.assert_close(losses.class_weights(n), expected, rtol=1e-6, atol=0)


def test_label_over_smoothing_equals_a_loop_and_ends_at_one_gap_for_every_class():
    logits, labels = batch()
    total = 0.0
    for z, y in zip(logits.log_softmax(1).tolist(), labels.tolist(), strict=True):
        total -= sum((0.03 / 5 + (0.97 if k == y else 0)) * v for k, v in enumerate(z))
    assert losses.label_over_smoothing(logits, labels, 0.03).item() == pytest.approx(total / 12)
    z = (math.log(1 + 5 * 0.02 / 0.98) * torch.eye(5, dtype=torch.float64)).requires_grad_()
    loss = losses.label_over_smoothing(z, torch.arange(5))
    assert torch.autograd.grad(loss, z)[0].abs().max() < 1e-12


def test_kl_distillation_equals_the_formula():
    student, _ = batch(0)
    teacher, _ = batch(1)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    expected = 16 * (p * (p / q).log()).sum(1).mean()
    loss = losses.kl_distillation(student, teacher, 4.0)
    torch.testing.assert_close(loss, expected)
    gradient, none = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert none is None
    torch.testing.assert_close(gradient, 4 * (q - p) / 12)


@PROPERTY
@given(st.integers(0, 10**6), st.floats(0.2, 20), st.floats(-50, 50))
def test_kl_distillation_properties(seed, temperature, constant):
    student, _ = batch(seed)
    teacher, _ = batch(seed + 1)
    loss = losses.kl_distillation(student, teacher, temperature)
    assert loss >= 0
    torch.testing.assert_close(losses.kl_distillation(student + constant, teacher, temperature), loss)
    assert losses.kl_distillation(student, student + constant, temperature).abs() < 1e-10


def test_feature_cosine():
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    assert losses.feature_cosine(a, 3 * a).item() == pytest.approx(0)
    assert losses.feature_cosine(a, -a).item() == pytest.approx(2)
    assert losses.feature_cosine(a, a.flip(1)).item() == pytest.approx(1)
    assert losses.feature_cosine(a, torch.zeros_like(a)).item() == pytest.approx(1)
    assert torch.autograd.grad(losses.feature_cosine(a.detach() + 1, a) + a.sum(), a)[0].tolist() == [[1, 1], [1, 1]]


def test_gradients():
    logits, labels = batch()
    other, _ = batch(1)
    assert gradcheck(lambda z: losses.balanced_softmax(z, labels, COUNTS), logits)
    assert gradcheck(lambda z: losses.label_aware_smoothing(z, labels, COUNTS), logits)
    weights = losses.neighbor_weights(NEAR, dtype=torch.float64)
    assert gradcheck(lambda z: losses.neighbor_silencing(z, labels, COUNTS, weights), logits)
    assert gradcheck(lambda z: losses.class_balanced(z, labels, COUNTS), logits)
    assert gradcheck(lambda z: losses.ldam(z, labels, COUNTS, beta=0.9999), logits)
    assert gradcheck(lambda z: losses.kl_distillation(z, other, 2.0), logits)
    assert gradcheck(lambda z: losses.feature_cosine(z, other), logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, labels = batch()
    z = logits.detach().to(dtype).requires_grad_()
    for loss in (
        lambda x: losses.balanced_softmax(x, labels, COUNTS),
        lambda x: losses.label_aware_smoothing(x, labels, COUNTS),
        lambda x: losses.neighbor_silencing(x, labels, COUNTS, losses.neighbor_weights(NEAR)),
        lambda x: losses.class_balanced(x, labels, COUNTS),
        lambda x: losses.ldam(x, labels, COUNTS),
        lambda x: losses.label_over_smoothing(x, labels),
        lambda x: losses.kl_distillation(x, x.flip(0), 2.0),
        lambda x: losses.feature_cosine(x, x.flip(0)),
    ):
        assert loss(z).dtype == torch.float32
        torch.testing.assert_close(loss(z), loss(z.detach().float()))
        assert torch.autograd.grad(loss(z), z)[0].dtype == dtype


def test_no_look_at_values_on_a_device():
    """Reading a value there would wait for it; the meta device can't be read at all."""
    logits, labels, counts = torch.randn(12, 5, device="meta"), Y.to("meta"), COUNTS.to("meta")
    assert losses.balanced_softmax(logits, labels, counts).shape == ()
    assert losses.label_aware_smoothing(logits, labels, counts).shape == ()
    weights = losses.neighbor_weights(NEAR.to("meta"))
    assert losses.neighbor_silencing(logits, labels, counts, weights).shape == ()
    assert losses.class_balanced(logits, labels, counts).shape == ()
    assert losses.ldam(logits, labels, counts, beta=0.9999).shape == ()
    with pytest.raises(ValueError, match="class counts: expected shape"):
        losses.balanced_softmax(logits, labels, counts[:3])


Z, Y = batch()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.balanced_softmax(Z, Y, COUNTS[:4]), r"class counts: expected shape \[5\].* got \[4\]"),
        (lambda: losses.balanced_softmax(Z, Y, [9, 9, 0, 9, 9]), "class counts: class 2 has 0 training images"),
        (lambda: losses.balanced_softmax(Z, Y[:3], COUNTS), r"balanced_softmax: labels: expected shape \[12\]"),
        (lambda: losses.balanced_softmax(Z[0], Y, COUNTS), r"logits: expected shape \[N, K\], got \[5\]"),
        (
            lambda: losses.label_aware_smoothing(Z, Y[:3], COUNTS),
            r"label_aware_smoothing: labels: expected shape \[12\]",
        ),
        (lambda: losses.label_aware_smoothing(Z, Y, COUNTS, head=1.2), r"head and tail in \[0, 1\), got head=1.2"),
        (lambda: losses.neighbor_weights(NEAR.int()), r"near: expected bool \[K, M\], got torch.int32"),
        (lambda: losses.neighbor_weights(NEAR, 1.5), "silenced: expected 0 to 1, got 1.5"),
        (lambda: losses.neighbor_weights(NEAR, rows="all"), "rows: expected both, target or auxiliary, got 'all'"),
        (
            lambda: losses.neighbor_silencing(Z, Y, COUNTS, torch.ones(4, 5)),
            r"neighbor_silencing: weights: expected \[5, 5\], got \[4, 5\]",
        ),
        (
            lambda: losses.neighbor_silencing(Z, Y, COUNTS, torch.ones(5, 5), mixture=(Y, torch.ones(3))),
            r"neighbor_silencing: shares: expected shape \[12\], got \[3\]",
        ),
        (lambda: losses.class_balanced(Z, Y[:3], COUNTS), r"class_balanced: labels: expected shape \[12\]"),
        (lambda: losses.class_balanced(Z, Y, COUNTS, 1.0), r"beta: expected a number in \[0, 1\), got 1.0"),
        (lambda: losses.ldam(Z, F.one_hot(Y, 5).double(), COUNTS), r"ldam: labels: expected shape \[12\]"),
        (lambda: losses.ldam(Z, Y, COUNTS, scale=0.0), "scale above 0, got max_margin=0.5, scale=0.0"),
        (lambda: losses.ldam(Z, Y, COUNTS, max_margin=-1.0), "max_margin of 0 or more.*max_margin=-1.0"),
        (lambda: losses.label_over_smoothing(Z, Y, 1.0), r"smoothing: expected a number in \[0, 1\), got 1.0"),
        (lambda: losses.label_over_smoothing(Z[0], Y), r"logits: expected shape \[N, K\], got \[5\]"),
        (lambda: losses.label_over_smoothing(Z, Y[:3]), r"label_over_smoothing: labels: expected shape \[12\]"),
        (lambda: losses.kl_distillation(Z, Z[:, :3], 1.0), r"kl_distillation: .*\[12, 5\].*\[12, 3\].*same classes"),
        (lambda: losses.kl_distillation(Z, Z, 0.0), "temperature: expected a number above 0, got 0"),
        (lambda: losses.feature_cosine(Z, Z[:, :3]), "feature_cosine: .*project the student"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
