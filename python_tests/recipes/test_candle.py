import json

import pytest
import torch
from torch import nn

from bnn import models
from bnn.recipes import candle
from bnn.recipes._distillation import Teacher
from bnn.recipes._images import TrainingImages, views
from bnn.training.run import load_model, read_config

ADVERSARIAL = candle.Config()


def rows(folder, phase, split):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["phase"] == phase and row["split"] == split]


@pytest.fixture(scope="module")
def distilled(tiny, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("candle") / "run"
    config = candle.Config(**tiny, teacher=str(teacher), calibration_steps=30, calibration_views=1, out=folder)
    return config, candle.run(config)


def test_phases_leave_their_metrics_and_checkpoints(distilled):
    config, result = distilled
    assert {path.name for path in (result.folder / "state").iterdir()} == {"calibrate.pt", "distil.pt"}
    assert [row["name"] for row in result.rows] == ["reactnet_tiny, candle", "teacher, calibrated"]
    assert "mean" in rows(result.folder, "calibrate", "val")[0]
    assert {"loss", "features", "kl", "lambda"} <= set(rows(result.folder, "distil", "train")[0])
    assert isinstance(load_model(result.folder), nn.Module)  # the student alone, under its own names
    assert read_config(result.folder)["temperature"] == 8.0


def test_resume_skips_the_finished_phases_and_gives_the_same_figures(distilled):
    config, result = distilled
    before = (result.folder / "metrics.jsonl").read_text()
    again = candle.run(candle.Config(**{**vars(config), "resume": True}))
    assert again.rows == result.rows
    assert (result.folder / "metrics.jsonl").read_text() == before


def test_an_unfinished_distillation_continues_with_the_calibrated_teacher(distilled, tmp_path, monkeypatch):
    config, result = distilled
    folder = tmp_path / "run"

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(candle, "distil", stop)
        with pytest.raises(KeyboardInterrupt):
            candle.run(candle.Config(**{**vars(config), "out": folder}))
    resumed = candle.run(candle.Config(**{**vars(config), "out": folder, "resume": True}))
    assert resumed.rows == result.rows
    assert (folder / "metrics.jsonl").read_bytes() == (result.folder / "metrics.jsonl").read_bytes()
    assert (folder / "model.safetensors").read_bytes() == (result.folder / "model.safetensors").read_bytes()


def test_the_teacher_encoder_is_frozen_and_stays_in_eval_mode():
    teacher = Teacher(models.build("resnet_tiny", 5, 1, 16), 3)
    before = {name: value.clone() for name, value in teacher.encoder.state_dict().items()}
    teacher.train()
    logits = teacher(torch.randn(4, 1, 16, 16))
    logits.sum().backward()
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None for p in teacher.encoder.parameters())
    assert teacher.classifier.weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in teacher.encoder.state_dict().items())


def test_the_student_descends_and_the_balance_ascends():
    balance = candle.Balance()
    fs, kl = torch.tensor(0.3, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    values = candle.objective(ADVERSARIAL, balance, fs, kl, progress=0.5)
    lam = balance(torch.tensor([0.3, 2.0, 0.5]))
    assert values["loss"].item() == pytest.approx(((1 - lam) * 0.3 + lam * 2.0).item())
    values["loss"].backward()
    assert fs.grad.item() == pytest.approx(1 - lam.item()) and kl.grad.item() == pytest.approx(lam.item())
    descended = [p.grad.clone() for p in balance.parameters()]
    balance.zero_grad()
    j = (1 - balance(torch.tensor([0.3, 2.0, 0.5]))) * 0.3 + balance(torch.tensor([0.3, 2.0, 0.5])) * 2.0
    j.backward()
    for ours, of_j in zip(descended, (p.grad for p in balance.parameters()), strict=True):
        assert torch.allclose(ours, -of_j)


def test_lambda_weighs_the_term_that_was_asked_for():
    fs, kl = torch.tensor(1.0), torch.tensor(10.0)
    fixed = {"balance": "fixed", "fixed_balance": 0.25}
    on_kl = candle.objective(candle.Config(**fixed), nn.Identity(), fs, kl, 0.0)
    on_features = candle.objective(candle.Config(**fixed, balance_on="features"), nn.Identity(), fs, kl, 0.0)
    assert on_kl["loss"].item() == pytest.approx(0.75 * 1 + 0.25 * 10)
    assert on_features["loss"].item() == pytest.approx(0.75 * 10 + 0.25 * 1)


def test_several_resolutions_mixup_and_labels_can_be_switched_on(tiny, teacher, tmp_path):
    common = {**tiny, "teacher": str(teacher), "calibration_steps": 10, "calibration_views": 0}
    config = candle.Config(
        **common, teacher_resolutions=(16, 20, 24), multires_in="both", mixup=True, balance="fixed", out=tmp_path / "a"
    )
    several = candle.run(config)
    assert rows(several.folder, "distil", "train")[0]["lambda"] == 0.5
    assert read_config(several.folder)["preprocess"]["size"] == [16, 16]  # the student ships for one resolution
    config = candle.Config(**common, ce_weight=1.0, mixup=False, calibration_loss="ce", out=tmp_path / "b")
    labelled = candle.run(config)
    first = rows(labelled.folder, "distil", "train")[0]
    assert first["loss"] > max(first["features"], first["kl"])


def test_which_sizes_the_teacher_sees():
    several = {"image_size": 32, "teacher_resolutions": (24, 40)}
    for where, calibration, distill in (("calibration", 1, 0), ("distill", 0, 1), ("both", 1, 1)):
        config = candle.Config(**several, multires_in=where)
        assert candle.sizes_in(config, "calibration") == ((24, 40) if calibration else (32,))
        assert candle.sizes_in(config, "distill") == ((24, 40) if distill else (32,))
    x = torch.rand(2, 1, 40, 40)
    small = views(x, [24, 40])
    assert [tuple(v.shape) for v in small] == [(2, 1, 24, 24), (2, 1, 40, 40)]
    assert torch.allclose(small[0], nn.functional.adaptive_avg_pool2d(x, 24))
    assert views(x, [40])[0] is x


def test_mixing_depends_on_the_image_not_on_the_batch(distilled):
    from bnn.recipes._session import Session, load_data
    from bnn.training import device as devices
    from bnn.training.run import Run

    config, result = distilled
    fields = read_config(result.folder)
    data = load_data(fields)
    session = Session(Run(result.folder, fields, resume=True), data, devices.start("cpu", "no"), data.class_counts)
    images = TrainingImages(session, seed=0, size=16, mixup=True)
    batch = data.splits["train"].__getitems__([3, 1, 4, 15])
    mixed = images({**batch, "epoch": 2})
    alone = images({**data.splits["train"].__getitems__([4]), "epoch": 2})
    assert torch.equal(mixed[2:3], alone)
    assert not torch.equal(mixed[2:3], images({**data.splits["train"].__getitems__([4]), "epoch": 3}))

    # A balanced partner is of every class as often.
    images.balanced = True
    several = data.splits["train"].__getitems__([0] * 2000)
    several["index"] = torch.arange(2000)
    _, other = images._mixture(several["index"], 2)
    assert images.dataset.labels[other].bincount().min() > 190  # of 250 expected, 4 standard deviations

    # The labels have the shares that the images have: on flat images of their labels' brightness both say the same.
    shares = images.labels({**batch, "epoch": 2}, 8)
    assert torch.allclose(shares.sum(1), torch.ones(4)) and bool((shares.gather(1, batch["label"][:, None]) > 0).all())
    images.augmented = lambda stored, index, epoch: images.dataset.labels[index].float().view(-1, 1, 1, 1)
    brightness = images({**batch, "epoch": 2}).flatten()
    torch.testing.assert_close(shares @ torch.arange(8.0), brightness)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"temperature": 0.0}, "--temperature: expected a number above 0"),
        ({"fixed_balance": 2.0}, "--fixed-balance: expected 0 to 1"),
        ({"mixup": True, "ce_weight": 1.0}, "--ce-weight: expected 0 with --mixup"),
        ({"teacher": "nowhere"}, "nowhere is not a run folder"),
        ({"teacher_resolutions": (4,)}, "--teacher-resolutions: expected 8 pixels or more"),
    ],
)
def test_wrong_fields_are_named_before_anything_is_trained(tiny, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        candle.run(candle.Config(**{**tiny, **change}, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
