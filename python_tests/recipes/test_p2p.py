import json

import pytest
import torch

from bnn import posthoc
from bnn.recipes import p2p, plain
from bnn.recipes._session import load_data
from bnn.training.predict import predict
from bnn.training.run import load_model, read_config


@pytest.fixture(scope="module")
def corrected(student, tmp_path_factory):
    return p2p.run(p2p.Config(from_run=str(student), device="cpu", out=tmp_path_factory.mktemp("p2p") / "run"))


def test_the_folder_holds_the_same_model_and_the_offsets_of_case_1(student, corrected):
    assert [row["name"] for row in corrected.rows] == ["before", "p2p, case 1", "control: minus log pi"]
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
