import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnn.training import device as devices
from bnn.training.loop import fit
from bnn.training.predict import predict
from bnn.training.run import Run
from bnn.training.sampler import BatchSampler


class Trial:
    """A small network with dropout on noise images; `fit` called as a recipe does."""

    def __init__(self, folder, images, *, epochs=2, bf16=False, resume=False):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(392, 10)
        )
        self.images, self.epochs = images, epochs
        self.device = devices.start("cpu", "bf16" if bf16 else "no")
        self.run = Run(folder, {"recipe": "trial"}, resume=resume)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.seen, self.rates, self.dtypes = [], [], set()

    def step(self, batch):
        self.seen.append((batch["epoch"], batch["index"].tolist()))
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        x = batch["image"].float() / 255
        hidden = self.model[:1](x)
        self.dtypes.add(hidden.dtype)
        return {"loss": F.cross_entropy(self.model[1:](hidden), batch["label"]), "twice": x.mean() * 2}

    def fit(self, **options):
        sampler = BatchSampler(self.images.labels, 32, seed=7)
        fit(
            self.run, "phase", self.model, self.step, self.images, sampler, self.optimizer, self.device,
            epochs=self.epochs, **options,
        )  # fmt: skip
        return self

    @property
    def rows(self):
        return [json.loads(line) for line in (self.run.folder / "metrics.jsonl").read_text().splitlines()]


def test_the_rate_follows_half_a_cosine_and_every_image_comes_once_an_epoch(tmp_path, images):
    trial = Trial(tmp_path, images).fit()
    assert trial.rates == pytest.approx([0.01 * 0.5 * (1 + math.cos(math.pi * i / 16)) for i in range(16)])
    first = [index for epoch, batch in trial.seen for index in batch if epoch == 0]
    assert sorted(first) == list(range(256))


def test_rows_hold_means_of_all_that_step_returns_and_validation(tmp_path, images):
    def evaluate():
        assert not trial.model.training
        return {"mean": 12.5}

    trial = Trial(tmp_path, images)
    trial.fit(evaluate=evaluate)
    train = [row for row in trial.rows if row["split"] == "train"]
    assert [row["step"] for row in train] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert set(train[0]) == {"step", "epoch", "split", "phase", "loss", "twice"}
    assert [row for row in trial.rows if row["split"] == "val"] == [
        {"step": 8, "epoch": 0, "split": "val", "phase": "phase", "mean": 12.5},
        {"step": 16, "epoch": 1, "split": "val", "phase": "phase", "mean": 12.5},
    ]


def test_training_again_gives_the_same_bits(tmp_path, images):
    a, b = Trial(tmp_path / "a", images).fit(), Trial(tmp_path / "b", images).fit()
    assert all(
        torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    )


def test_an_exception_between_two_checkpoints_costs_nothing_but_time(tmp_path, images):
    whole = Trial(tmp_path / "whole", images, epochs=3).fit()
    broken = Trial(tmp_path / "broken", images, epochs=3)
    step = broken.step

    def failing(batch):
        if len(broken.seen) == 13:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return step(batch)

    broken.step = failing
    with pytest.raises(KeyboardInterrupt):
        broken.fit()
    resumed = Trial(tmp_path / "broken", images, epochs=3, resume=True).fit()
    assert resumed.seen[0][0] == 1
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert whole.rows == resumed.rows


def test_a_finished_phase_is_loaded_not_trained(tmp_path, images):
    done = Trial(tmp_path, images).fit()
    again = Trial(tmp_path, images, resume=True).fit()
    assert again.seen == []
    assert torch.equal(done.model[0].weight, again.model[0].weight)
    assert again.run.finished("phase", again.model)
    assert not again.run.finished("other", again.model)


def test_bf16_is_autocast_of_the_step_and_can_be_switched_off_for_a_phase(tmp_path, images):
    assert Trial(tmp_path / "a", images, epochs=1, bf16=True).fit().dtypes == {torch.bfloat16}
    assert Trial(tmp_path / "b", images, epochs=1, bf16=True).fit(float32=True).dtypes == {torch.float32}


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, images):
    trial = Trial(tmp_path, images)
    trial.step = lambda batch: {"loss": trial.model(batch["image"].float()).sum() * float("nan")}
    with pytest.raises(FloatingPointError, match="loss of phase phase is nan at step 2: lower --lr"):
        trial.fit()


def test_device_and_precision_are_resolved_and_checked(monkeypatch):
    assert devices.start("cpu", "bf16").resolved == {"device": "cpu", "precision": "bf16", "processes": 1}
    assert devices.start("cpu", "auto").bf16 == devices.native_bf16(cpu=True)
    with pytest.raises(ValueError, match="--device: expected auto, cpu or cuda, got 'tpu'"):
        devices.start("tpu")
    with pytest.raises(ValueError, match="--precision: expected auto, bf16 or no, got 'fp8'"):
        devices.start("cpu", "fp8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch finds no CUDA device"):
        devices.start("cuda")


def test_predict_keeps_the_order_and_leaves_no_gradient(images):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(256, 3))
    outputs, labels = predict(model, images, lambda x: x.float() / 255, batch_size=100)
    assert outputs.shape == (256, 3) and not outputs.requires_grad and not model.training
    assert torch.equal(labels, images.labels)
    alone = model(images.images([201]).float() / 255)
    assert torch.allclose(outputs[201], alone[0], atol=1e-6)
