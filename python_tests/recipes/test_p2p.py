import json
import math

import pytest
import torch
from safetensors.torch import save_file

from bnn import metrics, posthoc
from bnn.cli import main
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


def mean_of_classes(folder, split, often):
    """Offsets from the mean over classes, as frequent as `often` says, of the mean softmax over a class's images."""
    data = load_data(read_config(folder))
    logits, labels = predict(load_model(folder), data.splits[split], data.preprocess.normalize)
    often = torch.as_tensor(often).double()
    p = sum(often[y] / often.sum() * logits[labels == y].double().softmax(1).mean(0) for y in range(8))
    return (-p.log() - math.log(8)).tolist()


def test_the_validation_split_can_be_the_reference(student, tmp_path, no_plots):
    result = p2p.run(p2p.Config(from_run=str(student), reference="val", device="cpu", out=tmp_path / "run"))
    assert result.rows[1]["name"] == "p2p, case 1"
    expected = mean_of_classes(student, "val", read_config(student)["class_counts"])
    assert json.loads((result.folder / "posthoc.json").read_text())["logit_offsets"] == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("change", [{"sampler": "class_balanced"}, {"loss": "class_balanced"}])
def test_a_reference_is_weighted_as_the_training_loss_saw_it(tiny, tmp_path, no_plots, change):
    origin = plain.run(plain.Config(**tiny, **change, out=tmp_path / "run")).folder
    result = p2p.run(p2p.Config(from_run=str(origin), device="cpu"))
    assert len(result.rows) == 2, "its controls are published for plain cross-entropy"
    expected = mean_of_classes(origin, "train", [1] * 8)
    found = json.loads((result.folder / "posthoc.json").read_text())["logit_offsets"]
    assert found == pytest.approx(expected, abs=2e-3)  # the weights are 1/n but for n/20000
    counts = torch.tensor([40, 10])
    never = p2p.seen({"loss": "class_balanced", "reweight_from": 1.0}, counts)
    assert torch.equal(never, counts.double())


@pytest.fixture(scope="module")
def data(student):
    return load_data(read_config(student))


def zero_shot_file(path, data, classes=None, **tensors):
    """Logits of a rough but honest second model: nearest mean of the validation images, under a prior of its own."""
    split = {name: data.splits[name] for name in ("val", "test")}
    x = {name: images.images(range(len(images))).flatten(1).float() / 255 for name, images in split.items()}
    means = torch.stack([x["val"][split["val"].labels == y].mean(0) for y in range(8)])
    logits = {name: -torch.cdist(v, means) + torch.arange(8.0) for name, v in x.items()} | tensors
    logits = {name: value for name, value in logits.items() if value is not None}
    save_file(logits, path, {"classes": json.dumps(list(data.classes) if classes is None else classes)})
    return logits


def test_gla_adds_the_logits_of_a_zero_shot_model(student, data, tmp_path, capsys, no_plots):
    logits = zero_shot_file(tmp_path / "zero-shot.safetensors", data)
    command = ["train", "p2p", "--from", str(student), "--device", "cpu", "--out", str(tmp_path / "run"), "--json"]
    assert main([*command, "--zero-shot", str(tmp_path / "zero-shot.safetensors")]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    own, labels = predict(load_model(student), data.splits["test"], data.preprocess.normalize)
    prior = posthoc.learned_prior(logits["val"], data.splits["val"].labels)
    both = own - (data.class_counts / data.class_counts.sum()).log() + logits["test"] - prior.log()
    assert rows["zero-shot"]["nll"] == pytest.approx(metrics.evaluate(logits["test"], labels, data.class_counts)["nll"])
    found, expected = rows["GLA: with the zero-shot model"], metrics.evaluate(both, labels, data.class_counts)
    assert found["mean"] == pytest.approx(expected["mean"]) and found["nll"] == pytest.approx(expected["nll"], rel=1e-5)
    assert "zero-shot" not in json.loads((tmp_path / "run" / "posthoc.json").read_text())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"classes": ["a"]}, "--zero-shot: expected the classes of the run, in order"),
        ({"test": None}, "--zero-shot: expected the tensors val and test; got"),
        ({"test": torch.randn(5, 7)}, "--zero-shot: expected 8 columns of test; got 7"),
        ({"test": torch.randn(5, 8)}, "--zero-shot: expected 240 rows of test; got 5"),
        ({"val": torch.full((96, 8), torch.nan)}, "logits: 96 of 96 rows hold NaN"),
        ("cut", "--zero-shot .*: not a safetensors file"),
        ("gone", "--zero-shot .*: no such file"),
    ],
)
def test_wrong_files_of_logits_are_named(student, data, tmp_path, change, message):
    path = tmp_path / "zero-shot.safetensors"
    zero_shot_file(path, data, **(change if isinstance(change, dict) else {}))
    if change == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif change == "gone":
        path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        p2p.run(p2p.Config(from_run=str(student), zero_shot=path, device="cpu", out=tmp_path / "run"))


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
