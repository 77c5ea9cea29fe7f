import json

import pytest
import torch

from bnn import metrics, posthoc
from bnn.recipes import p2p, plain, vtst
from bnn.recipes._session import load_data
from bnn.training.predict import predict
from bnn.training.run import load_model, read_config


@pytest.fixture(scope="module")
def corrected(student, tmp_path_factory):
    return p2p.run(p2p.Config(from_run=str(student), device="cpu", out=tmp_path_factory.mktemp("p2p") / "run"))


def test_the_folder_holds_the_same_model_and_the_offsets_of_case_1(student, corrected):
    assert [row["name"] for row in corrected.rows] == [
        "before",
        "p2p, case 1",
        "control: minus log pi",
        "control: tau-normalized",
        "control: DROPS",
    ]
    assert (corrected.folder / "model.safetensors").read_bytes() == (student / "model.safetensors").read_bytes()
    stored = json.loads((corrected.folder / "posthoc.json").read_text())
    data = load_data(read_config(student))
    logits, _ = predict(load_model(student), data.splits["train"], data.preprocess.normalize)
    assert stored["temperature"] == 1.0
    assert stored["logit_offsets"] == pytest.approx(posthoc.prior2posterior(logits).tolist(), abs=1e-5)
    before = json.loads((student / "table.json").read_text())[0]
    assert corrected.rows[0]["mean"] == before["mean"]


def test_a_run_with_balanced_softmax_is_case_2(tiny, tmp_path):
    origin = plain.run(plain.Config(**tiny, loss="balanced_softmax", out=tmp_path / "run")).folder
    result = p2p.run(p2p.Config(from_run=str(origin), device="cpu"))
    assert result.folder == tmp_path / "run-p2p"
    assert [row["name"] for row in result.rows] == ["before", "p2p, case 2"]  # its log pi control is "before"
    forced = p2p.run(p2p.Config(from_run=str(origin), case="1", device="cpu", out=tmp_path / "forced"))
    assert forced.rows[1]["name"] == "p2p, case 1"
    assert (forced.folder / "posthoc.json").read_bytes() != (result.folder / "posthoc.json").read_bytes()


def test_strength_0_changes_nothing(student, tmp_path):
    result = p2p.run(p2p.Config(from_run=str(student), strength=0.0, device="cpu", out=tmp_path / "run"))
    assert result.rows[1]["nll"] == pytest.approx(result.rows[0]["nll"])


def test_a_balanced_reference_is_weighted_to_the_class_frequencies():
    counts = torch.tensor([6, 3, 1])
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    logits = torch.randn(6, 3)
    rows = p2p.as_in_training(logits, labels, counts)
    assert len(rows) == 20  # 2 images a class, repeated 6, 3 and 1 times
    weighted = sum(counts[y] / counts.sum() * logits[labels == y].softmax(1).mean(0) for y in range(3))
    assert torch.allclose(rows.softmax(1).mean(0), weighted, atol=1e-6)


def test_the_validation_split_can_be_the_reference(student, tmp_path):
    result = p2p.run(p2p.Config(from_run=str(student), reference="val", device="cpu", out=tmp_path / "run"))
    assert result.rows[1]["name"] == "p2p, case 1"


def test_wrong_origins_are_named(student, corrected, tmp_path):
    with pytest.raises(ValueError, match="--from: expected the folder of a finished run"):
        p2p.run(p2p.Config())
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        p2p.run(p2p.Config(from_run=str(tmp_path)))
    with pytest.raises(ValueError, match="it is corrected already; give the run it came from"):
        p2p.run(p2p.Config(from_run=str(corrected.folder)))
    with pytest.raises(ValueError, match="holds a run already"):
        p2p.run(p2p.Config(from_run=str(student), device="cpu", out=corrected.folder))


def test_controls_that_do_not_apply_are_left_out(student, tiny, tmp_path, no_plots, few_source_images):
    head = vtst.Config(
        from_run=str(student), latent_features=4, samples=2, views=0, steps=1, batch_size=64, controls=(), loss="ce",
        device="cpu", out=tmp_path / "vtst",
    )  # fmt: skip
    variational = vtst.run(head).folder
    result = p2p.run(p2p.Config(from_run=str(variational), device="cpu"))
    assert [row["name"] for row in result.rows[2:]] == ["control: minus log pi", "control: DROPS"]

    source = plain.run(plain.Config(**tiny, split="source", out=tmp_path / "source")).folder
    result = p2p.run(p2p.Config(from_run=str(source), device="cpu"))
    assert [row["name"] for row in result.rows[2:]] == ["control: minus log pi"], "its val split is its test split"


def test_controls_are_fitted_on_the_validation_split(student, corrected):
    data, model = load_data(read_config(student)), load_model(student)
    val, test = data.splits["val"], data.splits["test"]
    weight, normalize = model.classifier.weight.detach(), data.preprocess.normalize
    predict(model, val, normalize)  # puts it in eval mode
    tau = posthoc.fit_tau(weight, *predict(model.features, val, normalize))
    features, labels = predict(model.features, test, normalize)
    expected = metrics.class_accuracy(features @ posthoc.tau_normalize(weight, tau).T, labels).mean().item()
    assert corrected.rows[3]["mean"] == pytest.approx(expected)
    logits, _ = predict(model, test, normalize)
    offsets = posthoc.drops(*predict(model, val, normalize), data.class_counts)
    expected = metrics.class_accuracy(logits + offsets, labels).mean().item()
    assert corrected.rows[4]["mean"] == pytest.approx(expected)
