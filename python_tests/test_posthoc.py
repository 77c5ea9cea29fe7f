import functools

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


def test_apply():
    logits, offsets = torch.randn(5, 3), torch.tensor([0.0, 1.0, -1.0])
    torch.testing.assert_close(posthoc.apply(logits), logits)
    torch.testing.assert_close(posthoc.apply(logits, 2.0, offsets), logits / 2 + offsets)
    assert posthoc.apply(logits.bfloat16(), 2.0, offsets).dtype == torch.float32


CLASSES = 10
TRAINING = {  # bias, weight decay on W, label smoothing
    "bias": (True, 0.0, 0.0),
    "weight decay": (True, 1e-2, 0.0),
    "no bias": (False, 1e-2, 0.0),
    "label smoothing": (True, 0.0, 0.1),
}


@functools.cache
def gaussians() -> tuple[Tensor, ...]:
    """Ten Gaussian classes in 8 dimensions, 1000 down to 10 training points (imbalance 100), 500 test points each."""
    generator = torch.Generator().manual_seed(0)
    means = 0.6 * torch.randn(CLASSES, 8, generator=generator, dtype=torch.float64)
    counts = (1000 * 0.01 ** (torch.arange(CLASSES) / (CLASSES - 1))).long()

    def draw(sizes: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.arange(CLASSES).repeat_interleave(sizes)
        return means[y] + torch.randn(len(y), 8, generator=generator, dtype=torch.float64), y

    return counts, *draw(counts), *draw(torch.full((CLASSES,), 500))


@functools.cache
def linear_softmax(training: str, adjusted: bool) -> tuple[Tensor, Tensor]:
    """Logits of the training and of the test points; `adjusted`: trained with softmax(z + log pi)."""
    counts, x, y, test_x, _ = gaussians()
    bias, decay, smoothing = TRAINING[training]
    w = torch.zeros(8, CLASSES, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=bias)
    offset = (counts / counts.sum()).double().log() * adjusted
    optimizer = torch.optim.LBFGS([w, b][: 1 + bias], max_iter=300, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ w + b + offset, y, label_smoothing=smoothing) + decay / 2 * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (x @ w + b).detach(), (test_x @ w + b).detach()


def mean_accuracy(logits: Tensor, offsets: Tensor | None = None) -> float:
    return metrics.class_accuracy(posthoc.apply(logits, offsets=offsets), gaussians()[-1]).mean().item()


@pytest.mark.parametrize("training", ["bias", "weight decay"])
def test_free_bias_learns_the_class_frequencies(training):
    """A stationary bias means sum_i p(y|x_i) = n_y, so that Prior2Posterior is logit adjustment."""
    train, test = linear_softmax(training, adjusted=False)
    counts = gaussians()[0]
    frequencies = posthoc.logit_adjustment(counts) - torch.tensor(CLASSES).log()
    torch.testing.assert_close(posthoc.prior2posterior(train), frequencies, rtol=0, atol=1e-3)
    assert mean_accuracy(test, posthoc.prior2posterior(train)) == pytest.approx(
        mean_accuracy(test, posthoc.logit_adjustment(counts)), abs=0.1
    )
    assert mean_accuracy(test, posthoc.prior2posterior(train)) > mean_accuracy(test) + 5


@pytest.mark.parametrize("training", ["no bias", "label smoothing"])
def test_prior2posterior_gains_where_the_learned_prior_is_another(training):
    train, test = linear_softmax(training, adjusted=False)
    corrected = mean_accuracy(test, posthoc.prior2posterior(train))
    assert corrected > mean_accuracy(test, posthoc.logit_adjustment(gaussians()[0])) + 3
    assert corrected > mean_accuracy(test) + 5


@pytest.mark.parametrize("training", TRAINING)
def test_case_2_is_not_below_logit_adjusted_training(training):
    train, test = linear_softmax(training, adjusted=True)
    corrected = mean_accuracy(test, posthoc.prior2posterior(train, gaussians()[0]))
    assert corrected > mean_accuracy(test) - 0.1
    assert corrected > mean_accuracy(test, posthoc.prior2posterior(train)), "case 1 over-corrects here"


Z, Y = calibration_set(images=20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: posthoc.fit_temperature(Z.softmax(1), Y), "looks like probabilities"),
        (lambda: posthoc.prior2posterior(Z.softmax(1)), "looks like probabilities"),
        (lambda: posthoc.fit_temperature(Z, Y[:3]), "labels: expected integers of shape"),
        (lambda: posthoc.fit_temperature(Z.masked_fill(Z > 5, -torch.inf), Y), "got -inf"),
        (lambda: posthoc.prior2posterior(Z, [1, 2]), r"class counts: expected shape \[8\]"),
        (lambda: posthoc.logit_adjustment([3, 0]), "class counts: class 1 has 0 training images"),
        (lambda: posthoc.apply(Z, temperature=0.0), "temperature: expected a number above 0"),
        (lambda: posthoc.apply(Z, offsets=torch.ones(3)), r"offsets: expected shape \[8\], got \[3\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
