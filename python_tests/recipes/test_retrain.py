import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnn import posthoc
from bnn.cli import main
from bnn.recipes import p2p, plain, retrain, vtst
from bnn.recipes._session import load_data
from bnn.training.predict import predict
from bnn.training.run import Run, load_model, read_config

pytestmark = pytest.mark.usefixtures("no_plots")
QUICK = {"views": 1, "steps": 12, "batch_size": 64, "device": "cpu"}
FLAGS = "--views 1 --steps 12 --batch-size 64 --device cpu --json".split()


@pytest.fixture(scope="module")
def trained(student, tmp_path_factory, no_plots):
    """Every method by the command line: its run folder."""
    place = tmp_path_factory.mktemp("retrain")
    for method in retrain.TRAINED_WITH:
        command = ["train", "retrain", "--from", str(student), "--method", method, "--out", str(place / method)]
        assert main([*command, *FLAGS]) == 0
    return place


def rows(folder):
    return json.loads((folder / "table.json").read_text())


@pytest.mark.parametrize("method", list(retrain.TRAINED_WITH))
def test_the_body_stays_and_the_table_has_source_method_and_temperature(student, trained, method):
    source, model = load_model(student).state_dict(), load_model(trained / method).state_dict()
    changed = {name for name in source if not torch.equal(source[name], model[name])}
    assert changed and all(name.startswith("classifier.") for name in changed)
    names = [row["name"] for row in rows(trained / method)]
    assert names[0] == "source" and names[1].startswith(method) and names[2] == f"{names[1]}, temperature scaling"
    assert rows(trained / method)[0]["mean"] == rows(student)[0]["mean"]
    assert rows(trained / method)[1]["mean"] == rows(trained / method)[2]["mean"]


def test_tau_is_the_one_that_the_validation_split_chooses(student, trained):
    data, model = load_data(read_config(student)), load_model(student)
    weight = model.classifier.weight.detach()
    tau = posthoc.fit_tau(weight, *predict(model.features, data.splits["val"], data.preprocess.normalize))
    classifier = load_model(trained / "tau").classifier
    assert torch.equal(classifier.weight, posthoc.tau_normalize(weight, tau)) and classifier.bias.abs().max() == 0
    assert rows(trained / "tau")[1]["name"] == f"tau = {tau:g}"


def test_lws_only_rescales_the_rows(student, trained):
    before, after = load_model(student).classifier, load_model(trained / "lws").classifier
    factors = (after.weight / before.weight).mean(1)
    torch.testing.assert_close(after.weight, factors[:, None] * before.weight)
    torch.testing.assert_close(after.bias, factors * before.bias)
    assert (factors - 1).abs().max() > 1e-4


def test_crt_sees_classes_equally_often_and_lort_smooths(student, monkeypatch, tmp_path):
    """What the loss is given."""
    seen = []

    def cross_entropy(logits, labels, **smoothing):
        seen.append((labels.bincount(minlength=8), smoothing))
        return F_CROSS_ENTROPY(logits, labels, **smoothing)

    F_CROSS_ENTROPY = F.cross_entropy
    with monkeypatch.context() as patch:
        patch.setattr(F, "cross_entropy", cross_entropy)
        retrain.run(retrain.Config(**QUICK, from_run=str(student), method="crt", out=tmp_path / "crt"))
        crt = sum(counts for counts, _ in seen[:4])
        seen.clear()
        retrain.run(retrain.Config(**QUICK, from_run=str(student), method="lort", smoothing=0.9, out=tmp_path / "lort"))
    assert crt.max() < 1.6 * crt.min()
    lort = sum(counts for counts, _ in seen[:4])
    assert lort.max() > 4 * lort.min() and seen[0][1] == {"label_smoothing": 0.9}


def test_resume_continues_where_it_stopped(student, trained, tmp_path, monkeypatch):
    config = {**QUICK, "from_run": str(student), "method": "crt"}
    save = Run.save_state

    def stop(run, phase, state):
        save(run, phase, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_state", stop)
        with pytest.raises(KeyboardInterrupt):
            retrain.run(retrain.Config(**config, out=tmp_path / "run"))
    resumed = retrain.run(retrain.Config(**config, resume=True, out=tmp_path / "run"))
    assert resumed.rows == rows(trained / "crt")


def test_what_follows_knows_how_the_classifier_was_trained(student, trained, tmp_path, capsys):
    config = read_config(trained / "crt")
    assert (config["loss"], config["sampler"], config["base_recipe"]) == ("ce", "class_balanced", "plain")
    corrected = p2p.run(p2p.Config(from_run=str(trained / "crt"), device="cpu", out=tmp_path / "p2p"))
    assert [row["name"] for row in corrected.rows] == ["before", "p2p, case 1"]
    assert main(["pack", str(trained / "crt"), "-o", str(tmp_path / "m.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flips"] == 0


def test_sources_with_other_heads(student, tiny, tmp_path):
    cosine = plain.run(plain.Config(**tiny, head="cosine", out=tmp_path / "cosine")).folder
    for method in ("tau", "lws"):
        with pytest.raises(ValueError, match="--method: expected crt or lort, as .* isn't linear; got"):
            retrain.run(retrain.Config(**QUICK, from_run=str(cosine), method=method))
    result = retrain.run(retrain.Config(**QUICK, from_run=str(cosine)))
    assert result.folder == tmp_path / "cosine-crt" and "head" not in read_config(result.folder)["network"]
    assert isinstance(load_model(result.folder).classifier, nn.Linear)
    head = vtst.Config(
        from_run=str(result.folder), latent_features=4, samples=2, views=0, steps=1, batch_size=64, controls=(),
        device="cpu",
    )  # fmt: skip
    assert read_config(vtst.run(head).folder)["sampler"] == "instance", "its own, not the source's"


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--smoothing 1", "--smoothing: expected 0 or more, below 1; got 1.0"),
        ("--views -1", "--views: expected 0 or more; got -1"),
        ("--steps 0", "--steps: expected at least 1; got 0"),
        ("--batch-size 1", "--batch-size: expected at least 2; got 1"),
        ("--lr 0", "--lr: expected a number above 0; got 0.0"),
        ("--weight-decay -1", "--weight-decay: expected 0 or more; got -1.0"),
        ("--method crd", "invalid choice"),
    ],
)
def test_wrong_flags_are_named(student, tmp_path, capsys, flags, message):
    assert main(["train", "retrain", "--from", str(student), "--out", str(tmp_path / "run"), *flags.split()]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert main(["train", "retrain"]) == 2
    assert "--from: expected the folder of a finished run" in capsys.readouterr().err
