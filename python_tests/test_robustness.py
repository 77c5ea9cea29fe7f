"""Strangers and other class frequencies, against torchmetrics and against images really repeated."""

import pytest
import torch

from bnn import metrics, robustness


def random_logits(n: int, k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, k, (n,), generator=generator)
    return 2 * torch.randn(n, k, generator=generator) + 2 * torch.nn.functional.one_hot(labels, k), labels


@pytest.mark.parametrize("digits", [1, 6])  # with many equal scores, and few
@pytest.mark.parametrize("seed", range(3))
def test_auroc_and_fpr_are_those_of_torchmetrics(seed, digits):
    classification = pytest.importorskip("torchmetrics.classification")
    generator = torch.Generator().manual_seed(seed)
    known = (torch.randn(301, generator=generator) + 0.8).sigmoid().double().round(decimals=digits)
    strange = torch.randn(170, generator=generator).sigmoid().double().round(decimals=digits)
    both, truth = torch.cat([known, strange]), torch.cat([torch.ones(301), torch.zeros(170)]).long()
    assert robustness.auroc(known, strange) == pytest.approx(
        100 * classification.BinaryAUROC()(both, truth).item(), abs=1e-4
    )
    fpr, tpr, _ = classification.BinaryROC()(both, truth)
    assert robustness.fpr95(known, strange) == pytest.approx(100 * fpr[tpr >= 0.95 - 1e-9].min().item(), abs=1e-4)


def test_scores():
    z = torch.tensor([[2.0, 0.0, -1.0], [5.0, 5.0, 5.0]])
    found = robustness.scores(z)
    assert torch.allclose(found["msp"], z.double().softmax(1).amax(1)) and found["max_logit"].tolist() == [2, 5]
    assert found["energy"][1].item() == pytest.approx(5 + torch.tensor(3.0).log().item())
    figures = robustness.out_of_distribution(z[:1], z[1:])
    assert (figures["auroc_msp"], figures["auroc_energy"], figures["fpr95_energy"]) == (100, 0, 100)
    with pytest.raises(ValueError, match=r"strange: expected scores \[N\]"):
        robustness.auroc(z[0], torch.empty(0))


def test_priors():
    found = robustness.priors(torch.tensor([10, 200, 50]))
    assert found["train"].tolist() == pytest.approx([10 / 260, 200 / 260, 50 / 260])
    assert found["reversed"].tolist() == pytest.approx([200 / 260, 10 / 260, 50 / 260])
    assert found["balanced"].tolist() == pytest.approx([1 / 3] * 3)
    assert robustness.priors(torch.tensor([5, 200, 30, 7]))["reversed"].mul(242).tolist() == pytest.approx(
        [200, 5, 7, 30]
    )


def test_under_the_shares_of_the_images_it_is_the_plain_figure():
    logits, _ = random_logits(19, 3, 0)
    counts = torch.tensor([10, 6, 3])
    labels = torch.arange(3).repeat_interleave(counts)
    found = robustness.evaluate_under(counts / 19, logits, labels, counts)
    p = logits.double().softmax(1)
    expected = {"accuracy": metrics.accuracy(p, labels), "ece": metrics.ece(p, labels), "nll": metrics.nll(p, labels)}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    with pytest.raises(ValueError, match="class counts: expected shape"):
        robustness.evaluate_under(counts / 19, logits, labels, torch.ones(4))


def test_weights_do_what_repeated_images_do():
    counts = torch.tensor([300, 150, 60, 40, 15, 5])
    logits, _ = random_logits(120, 6, 0)
    labels = torch.arange(6).repeat_interleave(20)
    times = torch.tensor([1, 2, 3, 5, 8, 13])
    repeated = torch.arange(120).repeat_interleave(times[labels])
    expected = metrics.evaluate(logits[repeated], labels[repeated], counts, bootstrap=0)
    found = robustness.evaluate_under(times / times.sum(), logits, labels, counts)
    names = [f"{name}{suffix}" for name in ("ece", "nll") for suffix in ("", "_many", "_medium", "_few")]
    assert {name: found[name] for name in names} == pytest.approx({name: expected[name] for name in names})
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["accuracy_few"] == pytest.approx(
        metrics.accuracy(logits[repeated][labels[repeated] > 3], labels[repeated][labels[repeated] > 3])
    )
    uniform = robustness.evaluate_under(torch.ones(6) / 6, logits, labels, counts)
    assert uniform["effective"] == pytest.approx(120) and found["effective"] < 100


def test_a_class_without_images_is_named():
    logits, _ = random_logits(4, 3, 0)
    with pytest.raises(ValueError, match="shift: class 2 has no image here"):
        robustness.evaluate_under(torch.ones(3) / 3, logits, torch.tensor([0, 1, 0, 1]), [5, 5, 5])
    found = robustness.evaluate_under(torch.tensor([0.5, 0.5, 0]), logits, torch.tensor([0, 1, 0, 1]), [200, 5, 0])
    assert "ece_few" in found and "ece_medium" not in found
