import json

import pytest
import torch
from torch import nn

import bnn
from bnn import models
from bnn.nn.real_weights import binary_layers
from bnn.recipes import candle
from bnn.recipes._distillation import Teacher
from bnn.recipes._images import TrainingImages, views
from bnn.recipes._session import load_data
from bnn.training.predict import predict
from bnn.training.run import Run, load_model, read_config

pytestmark = pytest.mark.usefixtures("no_plots")
ADVERSARIAL = candle.Config()


def rows(folder, phase, split):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["phase"] == phase and row["split"] == split]


def run(config, **changes):
    return candle.run(candle.Config(**{**vars(config), **changes}))


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


@pytest.mark.parametrize(
    "change, message",
    [
        ({"temperature": 0.0}, "--temperature: expected a number above 0"),
        ({"fixed_balance": 2.0}, "--fixed-balance: expected 0 to 1"),
        ({"mixup": True, "ce_weight": 1.0}, "--ce-weight: expected 0 with --mixup"),
        ({"teacher": "nowhere"}, "nowhere is not a run folder"),
        ({"two_step": True}, "--epochs: expected at least 2 with --two-step; got 1"),
        ({"two_step": True, "epochs": 2, "model": "resnet_tiny"}, "--model: expected one with binary layers"),
        ({"source_images": -1}, "--source-images: expected 0, or more with --data glyphs, .*; got -1"),
        ({"source_images": 4, "data": "digits"}, "--source-images: expected 0, or more with --data glyphs, .*; got 4"),
        ({"teacher_resolutions": (4,)}, "--teacher-resolutions: expected 8 pixels or more"),
    ],
)
def test_wrong_fields_are_named_before_anything_is_trained(tiny, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        candle.run(candle.Config(**{**tiny, **change}, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def two_step(tiny, teacher, few_source_images, tmp_path_factory):
    """A run with both options, and what was seen by the objective, the images and `fit`."""
    folder = tmp_path_factory.mktemp("two-step") / "run"
    config = candle.Config(
        **{**tiny, "epochs": 5}, teacher=str(teacher), calibration_steps=10, calibration_views=0, two_step=True,
        source_images=8, out=folder,
    )  # fmt: skip
    seen = {"progress": [], "epoch": [], "fit": []}
    objective, mixed, fit = candle.objective, TrainingImages.__call__, candle.fit

    def spy_objective(config, balance, fs, kl, progress):
        seen["progress"].append(progress)
        return objective(config, balance, fs, kl, progress)

    def spy_images(self, batch):
        seen["epoch"].append(batch["epoch"])
        return mixed(self, batch)

    def spy_fit(run, phase, modules, step, dataset, sampler, optimizer, *rest, **options):
        real = {layer.real_weight for layer in binary_layers(modules)}
        seen["fit"].append((phase, real, sampler.order(0), len(optimizer.state)))
        fit(run, phase, modules, step, dataset, sampler, optimizer, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candle, "objective", spy_objective)
        patch.setattr(TrainingImages, "__call__", spy_images)
        patch.setattr(candle, "fit", spy_fit)
        return config, candle.run(config), seen


def test_two_steps_are_two_phases_with_real_and_with_binary_weights(two_step):
    config, result, seen = two_step
    assert {path.stem for path in (result.folder / "state").iterdir()} == {"calibrate", "distil-real", "distil"}
    assert [row["epoch"] for row in rows(result.folder, "distil-real", "val")] == [0, 1]
    assert [row["epoch"] for row in rows(result.folder, "distil", "val")] == [0, 1, 2]
    _, (real, in_real, first, no_moments), (binary, in_binary, second, none_either) = seen["fit"]
    assert (real, in_real, no_moments) == ("distil-real", {True}, 0)
    assert (binary, in_binary, none_either) == ("distil", {False}, 0)
    assert not torch.equal(first, second)
    assert seen["progress"] == pytest.approx([i / len(seen["progress"]) for i in range(len(seen["progress"]))])
    assert sorted(set(seen["epoch"])) == [0, 1, 2, 3, 4] and seen["epoch"] == sorted(seen["epoch"])


def test_two_steps_end_with_binary_weights(two_step):
    config, result, _ = two_step
    model, data = load_model(result.folder), load_data(read_config(result.folder))
    packed = bnn.pack(model)
    logits, labels = predict(model, data.splits["test"], data.preprocess.normalize)
    again, _ = predict(packed, data.splits["test"], data.preprocess.normalize)
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(again.argmax(1), logits.argmax(1))
    assert result.rows[0]["accuracy"] == pytest.approx(100 * (again.argmax(1) == labels).double().mean().item())


@pytest.mark.parametrize("phase", ["distil-real", "distil"])
def test_an_interrupted_step_continues_to_the_same_bits(two_step, tmp_path, monkeypatch, phase):
    config, result, _ = two_step
    log = Run.log

    def interrupt(self, values, **where):
        if where["phase"] == phase and where["epoch"] == 1:
            raise KeyboardInterrupt
        log(self, values, **where)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(config, out=tmp_path / "run")
    resumed = run(config, out=tmp_path / "run", resume=True)
    assert resumed.rows == result.rows
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (result.folder / name).read_bytes(), name


def test_the_teacher_labels_source_images_and_the_cross_entropy_leaves_them_out(
    tiny, teacher, few_source_images, tmp_path, monkeypatch
):
    seen = []

    def spy(name, module):
        original = getattr(module, name)

        def call(first, second, *rest):
            seen.append((name, len(first), second))
            return original(first, second, *rest)

        monkeypatch.setattr(module, name, call)

    spy("feature_cosine", candle.losses)
    spy("kl_distillation", candle.losses)
    spy("cross_entropy", candle.F)
    common = {**tiny, "teacher": str(teacher), "calibration_steps": 10, "calibration_views": 0, "mixup": False}
    candle.run(candle.Config(**common, ce_weight=1.0, source_images=8, out=tmp_path / "run"))
    sizes = {(name, size) for name, size, _ in seen}
    assert sizes == {("feature_cosine", 40), ("kl_distillation", 40), ("cross_entropy", 32)}
    guides = {name: second for name, _, second in seen}
    assert guides["feature_cosine"].shape == (40, 192) and guides["kl_distillation"].shape == (40, 8)
    assert guides["cross_entropy"].shape == (32,)
