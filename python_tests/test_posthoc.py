import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from bnn import metrics, posthoc

PROPERTY = settings(max_examples=20, deadline=None, derandomize=True)


def calibration_set(temperature=1.0, images=2000, classes=8):
    """Labels drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    return logits, (logits / temperature).softmax(1).multinomial(1, generator=generator)[:, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fit_temperature_finds_the_minimum(temperature):
    logits, labels = calibration_set(temperature)
    fitted = posthoc.fit_temperature(logits, labels)
    assert fitted == pytest.approx(temperature, rel=0.1)
    lowest = F.cross_entropy(logits / fitted, labels)
    assert all(F.cross_entropy(logits / (fitted * factor), labels) > lowest for factor in (0.5, 0.99, 1.01, 2))
    expected_logit = ((logits / fitted).softmax(1) * logits).sum(1).mean()
    torch.testing.assert_close(expected_logit, logits[range(2000), labels].mean(), rtol=0, atol=1e-6)


@PROPERTY
@given(st.floats(-4, 4), st.floats(-100, 100))
def test_fit_temperature_scales_with_the_logits(exponent, constant):
    logits, labels = calibration_set(2.0, images=200)
    scale = 10**exponent
    assert posthoc.fit_temperature(logits * scale + constant, labels) == pytest.approx(
        scale * posthoc.fit_temperature(logits, labels), rel=1e-4
    )


def test_fit_temperature_at_its_ends():
    logits, _ = calibration_set()
    assert 0 < posthoc.fit_temperature(logits, logits.argmax(1)) < 0.1
    assert 100 < posthoc.fit_temperature(logits, logits.argmin(1)) < 1e4
    assert posthoc.fit_temperature(torch.ones(4, 3), torch.tensor([0, 1, 2, 0])) == 1


def test_fit_temperature_works_without_gradients():
    logits, labels = calibration_set()
    with torch.no_grad():
        assert posthoc.fit_temperature(logits.float(), labels) == pytest.approx(1, rel=0.1)


def test_logit_adjustment():
    offsets = posthoc.logit_adjustment([90, 9, 1], tau=2.0)
    assert offsets.dtype == torch.float32
    torch.testing.assert_close(offsets, -2 * torch.tensor([0.9, 0.09, 0.01]).log())


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_prior2posterior_equals_the_derivation(tau):
    """Step by step as derived, with P^t = 1/K."""
    logits, _ = calibration_set()
    counts = torch.tensor([400, 200, 100, 50, 20, 10, 5, 2]).double()
    target = torch.full((8,), 1 / 8, dtype=torch.float64)
    pi = counts / counts.sum()

    prior = logits.softmax(1).mean(0)
    torch.testing.assert_close(posthoc.prior2posterior(logits), (target.log() - prior.log()).float())

    effective = (logits + tau * pi.log() - target.log()).softmax(1).mean(0)
    residual = effective * target / pi**tau
    residual /= residual.sum()
    expected = target.log() - residual.log()
    torch.testing.assert_close(posthoc.prior2posterior(logits, counts, tau=tau), expected.float())
    half = posthoc.prior2posterior(logits, counts, tau=tau, strength=0.5)
    torch.testing.assert_close(half, (expected / 2).float())


def test_prior2posterior_of_an_unbiased_model_is_nothing():
    symmetric = torch.stack([torch.arange(6.0).roll(i) for i in range(6)])
    assert posthoc.prior2posterior(symmetric).abs().max() < 1e-6
    assert posthoc.prior2posterior(calibration_set()[0], strength=0.0).abs().max() == 0


def test_prior2posterior_with_equal_counts_is_case_1():
    logits, _ = calibration_set()
    torch.testing.assert_close(posthoc.prior2posterior(logits, [5] * 8), posthoc.prior2posterior(logits))


def test_prior2posterior_bounds_a_class_that_is_never_predicted():
    logits, _ = calibration_set(classes=4)
    logits[:, 2] = -1e4
    offsets = posthoc.prior2posterior(logits)
    assert offsets[2].item() == pytest.approx(torch.tensor(1e8 / 4).log().item(), rel=1e-4)


def test_prior2posterior_weights_are_repetitions():
    logits, _ = calibration_set(images=40)
    times = torch.arange(40) % 4
    weighted = posthoc.prior2posterior(logits, weights=times)
    torch.testing.assert_close(weighted, posthoc.prior2posterior(logits.repeat_interleave(times, dim=0)))
    torch.testing.assert_close(posthoc.prior2posterior(logits, weights=7.0 * times), weighted)


def test_learned_prior_is_the_one_the_model_brought_along():
    """p(y | x) = softmax(z), labels of class shares f; a model that says softmax(z + log r) has the prior f r."""
    logits, labels = calibration_set(images=40000)
    r, f = torch.arange(1, 9).double().square(), labels.bincount(minlength=8) / len(labels)
    found = posthoc.learned_prior(logits + r.log(), labels)
    torch.testing.assert_close(found, (f * r / (f * r).sum()).float(), rtol=0.1, atol=0)
    shift = torch.randn(40000, 1, dtype=torch.float64)
    torch.testing.assert_close(posthoc.learned_prior(logits + r.log() + shift, labels), found)


def test_learned_prior_is_a_minimum():
    """A slow search finds the same: gradient descent over the simplex by softmax parameters."""
    logits, labels = calibration_set(images=400, classes=4)
    logits = logits + torch.tensor([2.0, 0.0, -1.0, 0.5])
    frequency = labels.bincount(minlength=4) / 400
    a = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for _ in range(1000):
        loss = F.cross_entropy(logits + frequency.log() - a.log_softmax(0), labels)
        a.data -= torch.autograd.grad(loss, a)[0]
    found = posthoc.learned_prior(logits, labels)
    torch.testing.assert_close(found, a.detach().softmax(0).float(), rtol=1e-4, atol=0)
    assert found.sum().item() == pytest.approx(1)


def test_generalized_logit_adjustment_combines_what_each_model_knows():
    """Two views of a label, each read by a model of its own prior: the sum of the corrected logits is Bayes' rule."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(999) % 3
    views = [
        F.one_hot(labels, 3) * 1.5 + torch.randn(999, 3, generator=generator, dtype=torch.float64) for _ in range(2)
    ]
    exact = [1.5 * x for x in views]  # log p(x | y) up to a constant
    counts, prior = torch.tensor([80, 15, 5]), torch.tensor([0.6, 0.3, 0.1])
    tuned, zero_shot = exact[0] + (counts / 100).log(), exact[1] + prior.log()
    both = posthoc.generalized_logit_adjustment(tuned, zero_shot, prior, counts)
    torch.testing.assert_close(both.log_softmax(1), (exact[0] + exact[1]).log_softmax(1))
    free = posthoc.generalized_logit_adjustment(exact[0], zero_shot, prior)
    torch.testing.assert_close(free.log_softmax(1), both.log_softmax(1))
    estimated = posthoc.learned_prior(zero_shot, labels)
    torch.testing.assert_close(estimated, prior, rtol=0.1, atol=0.01)
    accuracy = [metrics.accuracy(z, labels) for z in (tuned, zero_shot, tuned + zero_shot, both)]
    assert accuracy[3] > max(accuracy[:3]) + 3


def test_apply():
    logits, offsets = torch.randn(5, 3), torch.tensor([0.0, 1.0, -1.0])
    torch.testing.assert_close(posthoc.apply(logits), logits)
    torch.testing.assert_close(posthoc.apply(logits, 2.0, offsets), logits / 2 + offsets)
    assert posthoc.apply(logits.bfloat16(), 2.0, offsets).dtype == torch.float32


def blobs(images=300, classes=6, features=5):
    """Classifier, features and labels: six classes around the rows of the classifier, whose lengths fall by half."""
    generator = torch.Generator().manual_seed(5)
    w = F.normalize(torch.randn(classes, features, generator=generator, dtype=torch.float64))
    labels = torch.arange(images) % classes
    x = 2 * w[labels] + torch.randn(images, features, generator=generator, dtype=torch.float64)
    return w * 0.5 ** torch.arange(classes)[:, None], x, labels


def test_tau_normalize():
    w, _, _ = blobs()
    torch.testing.assert_close(posthoc.tau_normalize(w, 0.0), w)
    torch.testing.assert_close(posthoc.tau_normalize(w, 1.0), F.normalize(w))
    torch.testing.assert_close(posthoc.tau_normalize(w, 0.5), w / w.norm(dim=1, keepdim=True).sqrt())
    assert posthoc.tau_normalize(w.bfloat16(), 0.3).dtype == torch.bfloat16
    assert posthoc.tau_normalize(torch.zeros(2, 3), 1.0).abs().max() == 0


def test_tau_normalize_with_tau_1_forgets_the_lengths():
    w, _, _ = blobs()
    stretched = w * torch.rand(6, 1, dtype=torch.float64).add(0.1)
    torch.testing.assert_close(posthoc.tau_normalize(stretched, 1.0), posthoc.tau_normalize(w, 1.0))


def test_fit_tau_takes_the_best_of_the_grid():
    w, x, y = blobs()
    means = {tau: metrics.class_accuracy(x @ posthoc.tau_normalize(w, tau).T, y).mean() for tau in posthoc.TAUS}
    tau = posthoc.fit_tau(w, x, y)
    assert means[tau] == max(means.values()) > means[0.0] + 10
    assert all(means[other] < means[tau] for other in means if other < tau), "the smallest of the best"
    assert posthoc.fit_tau(100 * w, x / 7, y) == tau
    assert posthoc.fit_tau(F.normalize(w), x, y) == 0
    assert posthoc.fit_tau(w, x, y, taus=(1.0, 0.5)) in (0.5, 1.0)


def hard_class():
    """Logits and labels of a balanced split; class 2 loses to 0 and 1 more often than not."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(600) % 3
    logits = torch.randn(600, 3, generator=generator, dtype=torch.float64)
    return logits + torch.tensor([2.0, 2.0, 0.5])[labels, None] * F.one_hot(labels), labels


def divergence(offsets: Tensor, counts: Tensor) -> float:
    """KL(g || 1/K) of the g in offsets = log g - log pi + constant."""
    log_g = (offsets + counts.log()).log_softmax(0)
    return (log_g.exp() * (log_g - torch.tensor(1 / len(log_g)).log())).sum().item()


@pytest.mark.parametrize("counts", [[1, 1, 1], [100, 10, 1]])
def test_drops_raises_the_worst_class(counts):
    logits, labels = hard_class()
    logits = logits + torch.tensor(counts).log()  # what a model trained with these counts would say
    worst, loss = [], []
    for delta in (0.0, 0.02, 2.0):
        z = posthoc.apply(logits, offsets=posthoc.drops(logits, labels, counts, delta=delta))
        worst.append(metrics.class_accuracy(z, labels).min())
        loss.append(max(F.cross_entropy(z[labels == k], labels[labels == k]) for k in range(3)))
    assert worst[0] < worst[1] < worst[2] and worst[2] > worst[0] + 5
    assert loss[0] > loss[1] > loss[2]


def test_drops_without_a_ball_makes_all_classes_equally_hard():
    logits, labels = hard_class()
    z = logits + posthoc.drops(logits, labels, [1, 1, 1], delta=2.0)
    losses = torch.stack([F.cross_entropy(z[labels == k], labels[labels == k]) for k in range(3)])
    torch.testing.assert_close(losses, losses.mean().expand(3), rtol=0, atol=1e-5)


def test_drops_is_logit_adjustment_where_the_ball_is_a_point():
    logits, labels = calibration_set()
    counts = [400, 200, 100, 50, 20, 10, 5, 2]
    offsets = posthoc.drops(logits, labels, counts, delta=0.0)
    torch.testing.assert_close(offsets.log_softmax(0), posthoc.logit_adjustment(counts).log_softmax(0))


def test_drops_ends_on_the_ball_where_g_is_exponential_in_the_losses():
    logits, labels = hard_class()
    counts = torch.tensor([9.0, 4.0, 2.0])
    offsets = posthoc.drops(logits, labels, counts, delta=0.02)
    assert divergence(offsets, counts) == pytest.approx(0.02, rel=1e-4)
    log_g = (offsets + counts.log()).double()
    losses = torch.stack([F.cross_entropy((logits + offsets)[labels == k], labels[labels == k]) for k in range(3)])
    slope = (log_g[1:] - log_g[:-1]) / (losses[1:] - losses[:-1])  # 1 / lambda
    assert slope[0].item() == pytest.approx(slope[1].item(), rel=1e-3) and slope[0] > 0


def test_drops_does_not_depend_on_what_the_offsets_cancel():
    logits, labels = hard_class()
    counts, shift = torch.tensor([9.0, 4.0, 2.0]), torch.tensor([0.3, -0.7, 1.1])
    offsets = posthoc.drops(logits, labels, counts)
    torch.testing.assert_close(posthoc.drops(logits, labels, 10 * counts).log_softmax(0), offsets.log_softmax(0))
    moved = posthoc.drops(logits + shift + torch.randn(600, 1), labels, counts * shift.exp())
    torch.testing.assert_close((moved + shift).log_softmax(0), offsets.log_softmax(0), rtol=0, atol=1e-5)
    again = torch.cat([torch.arange(600), torch.arange(0, 600, 3).repeat(4)])  # class 0 five times as often
    torch.testing.assert_close(posthoc.drops(logits[again], labels[again], counts), offsets, rtol=0, atol=1e-5)


Z, Y = calibration_set(images=20)
EVERY = torch.arange(20) % 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: posthoc.fit_temperature(Z.softmax(1), Y), "looks like probabilities"),
        (lambda: posthoc.prior2posterior(Z.softmax(1)), "looks like probabilities"),
        (lambda: posthoc.fit_temperature(Z, Y[:3]), "labels: expected integers of shape"),
        (lambda: posthoc.fit_temperature(Z.masked_fill(Z > 5, -torch.inf), Y), "got -inf"),
        (lambda: posthoc.prior2posterior(Z, [1, 2]), r"class counts: expected shape \[8\]"),
        (lambda: posthoc.logit_adjustment([3, 0]), "class counts: class 1 has 0 training images"),
        (lambda: posthoc.drops(Z.softmax(1), Y, [1] * 8), "looks like probabilities"),
        (lambda: posthoc.drops(Z.masked_fill(Z > 5, -torch.inf), Y, [1] * 8), "got -inf; a class of probability 0"),
        (lambda: posthoc.drops(Z, EVERY.clamp_max(6), [1] * 8), "labels: class 7 has no image"),
        (lambda: posthoc.drops(Z, Y, [1, 2]), r"class counts: expected shape \[8\]"),
        (lambda: posthoc.drops(Z, EVERY, [1] * 8, delta=-1.0), "delta: expected a number of 0 or more, got -1"),
        (lambda: posthoc.tau_normalize(Z[0], 0.5), r"weight: expected finite floating point \[K, D\].*got .*\[8\]"),
        (lambda: posthoc.tau_normalize(Z / 0, 0.5), "weight: expected finite"),
        (lambda: posthoc.tau_normalize(Z, 1.5), "tau: expected a number from 0 to 1, got 1.5"),
        (lambda: posthoc.fit_tau(Z[0], Z, Y), "weight: expected finite"),
        (lambda: posthoc.fit_tau(Z, Z[:, :3], Y), r"features: expected shape \[N, 8\], got \[20, 3\]"),
        (lambda: posthoc.fit_tau(Z[:8], Z, Y[:3]), "labels: expected integers of shape"),
        (lambda: posthoc.fit_tau(Z[:8], Z, Y, taus=()), "taus: expected at least one"),
        (lambda: posthoc.prior2posterior(Z, weights=torch.ones(3)), r"weights: expected 20 numbers.*got shape \[3\]"),
        (lambda: posthoc.prior2posterior(Z, weights=torch.zeros(20)), "weights: expected 20 numbers .* not all 0"),
        (lambda: posthoc.learned_prior(Z, EVERY.clamp_max(6)), "labels: class 7 has no image"),
        (lambda: posthoc.learned_prior(Z.masked_fill(Z > 5, -torch.inf), EVERY), "got -inf; no offset"),
        (
            lambda: posthoc.generalized_logit_adjustment(Z, Z[:3], torch.ones(8)),
            r"zero_shot: .* got \[3, 8\] and \[8\]",
        ),
        (
            lambda: posthoc.generalized_logit_adjustment(Z, Z, torch.zeros(8)),
            "zero_shot: .* a prior of 8 numbers above 0",
        ),
        (
            lambda: posthoc.generalized_logit_adjustment(Z, Z, torch.ones(8), [1, 2]),
            r"class counts: expected shape \[8\]",
        ),
        (lambda: posthoc.apply(Z, temperature=0.0), "temperature: expected a number above 0"),
        (lambda: posthoc.apply(Z, offsets=torch.ones(3)), r"offsets: expected shape \[8\], got \[3\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
