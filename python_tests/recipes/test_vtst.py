import json

import pytest
import torch
from torch import nn

import bnn
from bnn import metrics, plotting, posthoc
from bnn.commands._load import open_target
from bnn.nn import VariationalHead
from bnn.recipes import p2p, plain, vtst
from bnn.recipes._session import load_data
from bnn.recipes._two_stage import Kept
from bnn.training.predict import predict
from bnn.training.run import load_model, read_config

QUICK = {"latent_features": 8, "samples": 5, "views": 1, "steps": 24, "batch_size": 64, "device": "cpu"}


def rows(folder, phase, split):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["phase"] == phase and row["split"] == split]


def logits_of(folder, split="test"):
    data = load_data(read_config(folder))
    return predict(load_model(folder), data.splits[split], data.preprocess.normalize)


def body(folder):
    state = load_model(folder).state_dict()
    return {name: value for name, value in state.items() if not name.startswith("classifier.")}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module", autouse=True)
def no_plots():
    """They take most of the time, and other recipes' tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("reliability", "per_class"):
            patch.setattr(plotting, name, lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def trained(student, tmp_path_factory):
    config = vtst.Config(**QUICK, from_run=str(student), out=tmp_path_factory.mktemp("vtst") / "run")
    return config, vtst.run(config)


def test_the_body_is_that_of_the_source_and_the_head_is_new(student, trained):
    config, result = trained
    model = load_model(result.folder)
    assert isinstance(model.classifier, VariationalHead)
    assert (model.classifier.samples, model.classifier.latent_features) == (5, 8)
    assert same(body(result.folder), body(student))
    fields = read_config(result.folder)
    assert fields["base_recipe"] == "plain" and fields["model"] == "reactnet_tiny" and fields["from"] == str(student)
    assert fields["network"]["head"] == {"latent_features": 8, "samples": 5, "seed": 0}


def test_the_table_has_source_temperature_and_every_head(student, trained):
    config, result = trained
    names = ["source", "control: temperature scaling", "TST", "control: new linear classifier", "V-TST"]
    assert [row["name"] for row in result.rows] == names
    assert result.rows[0]["mean"] == json.loads((student / "table.json").read_text())[0]["mean"]
    logits, labels = logits_of(student)
    counts = torch.tensor(read_config(student)["class_counts"])
    temperature = posthoc.fit_temperature(*logits_of(student, "val"))
    assert result.rows[1]["ece"] == pytest.approx(metrics.evaluate(logits / temperature, labels, counts)["ece"])
    log_p, labels = logits_of(result.folder)
    assert result.rows[-1]["nll"] == pytest.approx(-log_p.gather(1, labels[:, None]).mean().item(), rel=1e-5)
    assert not (result.folder / "posthoc.json").exists()


def test_the_pass_with_the_lowest_validation_nll_is_kept(trained):
    config, result = trained
    log_p, labels = logits_of(result.folder, "val")
    kept = -log_p.gather(1, labels[:, None]).mean().item()
    seen = [row["nll"] for row in rows(result.folder, "vtst", "val")]
    assert len(seen) > 3 and kept == pytest.approx(min(seen), rel=1e-5)


def test_kept_follows_the_lowest_figure_and_survives_a_checkpoint():
    kept = Kept(nn.Linear(2, 2))
    weights = []
    for figure in (3.0, 1.0, 2.0, float("nan")):
        nn.init.normal_(kept.module.weight)
        weights.append(kept.module.weight.detach().clone())
        kept.offer(figure)
    assert torch.equal(kept.best.weight, weights[1])
    again = Kept(nn.Linear(2, 2))
    again.load_state_dict(kept.state_dict())
    again.offer(1.5)
    assert torch.equal(again.best.weight, weights[1])


def test_loss_is_ce_plus_kl_over_z(student, trained, tmp_path):
    config, result = trained
    first = rows(result.folder, "vtst", "train")[0]
    assert first["loss"] == pytest.approx(first["ce"] + config.kl_weight * first["kl"], rel=1e-5)
    without = vtst.Config(**QUICK, from_run=str(student), kl_weight=0.0, controls=(), out=tmp_path / "run")
    first = rows(vtst.run(without).folder, "vtst", "train")[0]
    assert first["loss"] == pytest.approx(first["ce"], rel=1e-5) and first["kl"] > 0


def test_resume_skips_what_is_finished_and_continues_what_is_not(trained, tmp_path, monkeypatch):
    config, result = trained
    assert vtst.run(vtst.Config(**{**vars(config), "resume": True})).rows == result.rows

    def stop(config, session, name, *rest):
        if name == "vtst":
            raise KeyboardInterrupt
        return fit_head(config, session, name, *rest)

    fit_head, config = vtst.fit_head, vtst.Config(**{**vars(config), "out": tmp_path / "run"})
    with monkeypatch.context() as patch:
        patch.setattr(vtst, "fit_head", stop)
        with pytest.raises(KeyboardInterrupt):
            vtst.run(config)
    resumed = vtst.run(vtst.Config(**{**vars(config), "resume": True}))
    assert resumed.rows == result.rows
    assert (resumed.folder / "model.safetensors").read_bytes() == (result.folder / "model.safetensors").read_bytes()


def test_tst_alone_on_a_full_precision_run(teacher):
    config = vtst.Config(**QUICK, from_run=str(teacher), variational=False, controls=("tst",))
    result = vtst.run(config)
    assert result.folder == teacher.with_name("run-tst")
    assert [row["name"] for row in result.rows] == ["source", "control: temperature scaling", "TST"]
    assert [type(layer) for layer in load_model(result.folder).classifier] == [nn.Linear, nn.ReLU, nn.Linear, nn.Linear]


def test_as_released_the_batch_norms_move_and_the_weights_stay(student, tmp_path):
    config = vtst.Config(
        **{**QUICK, "batch_size": 32}, from_run=str(student), body_mode="released", stop_on="objective", controls=(),
        out=tmp_path / "run",
    )  # fmt: skip
    result = vtst.run(config)
    before, after = body(student), body(result.folder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in moved)
    val = rows(result.folder, "vtst", "val")
    assert all(row["objective"] > row["nll"] for row in val)
    log_p, labels = logits_of(result.folder, "val")
    best = min(val, key=lambda row: row["objective"])
    assert -log_p.gather(1, labels[:, None]).mean().item() == pytest.approx(best["nll"], rel=1e-4)


def test_vtst_then_p2p_then_pack(student, trained, tmp_path):
    config, result = trained
    corrected = p2p.run(p2p.Config(from_run=str(result.folder), device="cpu", out=tmp_path / "p2p"))
    assert corrected.rows[1]["name"] == "p2p, case 2"  # the head was trained with balanced softmax
    assert corrected.rows[0]["nll"] == pytest.approx(result.rows[-1]["nll"])
    log_p, _ = logits_of(result.folder, "train")
    counts = torch.tensor(read_config(student)["class_counts"])
    offsets = json.loads((corrected.folder / "posthoc.json").read_text())["logit_offsets"]
    assert offsets == pytest.approx(posthoc.prior2posterior(log_p, counts).tolist(), abs=1e-5)

    target = open_target(str(corrected.folder))
    packed = bnn.pack(target.model, exact=True)
    path = bnn.save(packed, tmp_path / "m.safetensors", target.classes, target.preprocess.to_dict(), target.posthoc)
    data = load_data(read_config(student))
    x = data.preprocess.normalize(data.splits["test"].__getitems__(list(range(16)))["image"])
    with torch.no_grad():
        torch.testing.assert_close(bnn.load(path)(x), target.forward(x), rtol=0, atol=1e-5)


def test_plain_continues_the_body_of_a_vtst_run(tiny, trained, tmp_path):
    config, result = trained
    folder = plain.run(plain.Config(**tiny, from_run=str(result.folder), out=tmp_path / "run")).folder
    assert isinstance(load_model(folder).classifier, nn.Linear)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"from_run": None}, "--from: expected the folder of a finished run"),
        ({"from_run": "nowhere"}, "nowhere is not a run folder"),
        ({"latent_features": 0}, "--latent-features: expected at least 1; got 0"),
        ({"samples": 0}, "--samples: expected 1 to 1000; got 0"),
        ({"sampling_seed": -1}, "--sampling-seed: expected 0 to .* got -1"),
        ({"kl_weight": -1.0}, "--kl-weight: expected 0 or more"),
        ({"views": -1}, "--views: expected 0 or more"),
        ({"steps": 0}, "--steps: expected at least 1"),
        ({"batch_size": 100_000}, "batch_size: expected 1 to .* got 100000"),
        ({"lr": 0.0}, "--lr: expected a number above 0"),
    ],
)
def test_wrong_fields_are_named(student, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        vtst.run(vtst.Config(**{**QUICK, "from_run": str(student), **change}, out=tmp_path / "run"))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_corrected_run_is_refused(student, tmp_path):
    corrected = p2p.run(p2p.Config(from_run=str(student), device="cpu", out=tmp_path / "p2p")).folder
    with pytest.raises(ValueError, match="it is corrected already; give the run it came from"):
        vtst.run(vtst.Config(**QUICK, from_run=str(corrected), out=tmp_path / "run"))
