"""--tracker: what a run logs arrives in TensorBoard's event files and in an offline run of wandb."""

import json
import math
import time

import pytest

from bnn import plotting
from bnn.cli import main
from bnn.training import tracker
from bnn.training.device import start
from bnn.training.run import Run

TINY = (
    "--data digits --n-max 20 --imbalance 10 --image-size 16 --batch-size 32 --epochs 1 --device cpu --precision no"
).split()
CONFIG = {"recipe": "plain", "tracker": "tensorboard"}


@pytest.fixture(autouse=True)
def accelerate():
    start("cpu")  # its trackers ask which process this is


def scalars(folder):
    """tag -> [(step, value)] of the event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_figure_of_a_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    for name in ("reliability", "per_class"):
        monkeypatch.setattr(plotting, name, lambda *_: None)
    folder = tmp_path / "run"
    assert main(["train", "plain", *TINY, "--out", str(folder), "--tracker", "tensorboard"]) == 0
    found = scalars(folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    loss = [(row["step"], row["loss"]) for row in rows if row["split"] == "train"]
    assert [step for step, _ in found["train/train/loss"]] == [step for step, _ in loss]
    assert [value for _, value in found["train/train/loss"]] == pytest.approx([value for _, value in loss])
    assert found["train/val/ece"] == [(rows[-1]["step"], pytest.approx(rows[-1]["ece"]))]
    table = json.loads((folder / "table.json").read_text())[0]
    assert found["test/reactnet_tiny, ce/mean"][0][1] == pytest.approx(table["mean"])


def test_an_interrupted_run_has_every_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    run = Run(tmp_path / "r", CONFIG)
    run.track()
    run.log({"loss": 3.0}, step=1, epoch=0, split="train", phase="a")
    run.save_state("a", {"finished": False})
    run.log({"loss": 2.0}, step=2, epoch=0, split="train", phase="a")  # after the checkpoint: made again
    again = Run(tmp_path / "r", CONFIG, resume=True)
    again.track()
    again.log({"loss": 2.5}, step=2, epoch=0, split="train", phase="a")
    again.finish([{"name": "r", "split": "test", "mean": math.pi}])
    assert scalars(tmp_path / "r")["a/train/loss"] == [(1, 3.0), (2, 2.5)]


def test_wandb_works_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = Run(tmp_path / "r", {**CONFIG, "tracker": "wandb"})
    run.track()
    for phase in ("a", "b"):  # whose steps both begin at 1
        run.log({"loss": 0.015625}, step=1, epoch=0, split="train", phase=phase)
    run.finish([{"name": "student", "split": "test", "mean": 78.125}])
    (file,) = (tmp_path / "r" / "wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 60
    while b"78.125" not in (content := file.read_bytes()):  # its own process writes it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for expected in (b"a/train/loss", b"b/train/loss", b"a/step", b"0.015625", b"test/student/mean"):
        assert expected in content


def test_another_process_has_no_tracker(tmp_path):
    run = Run(tmp_path / "r", CONFIG, main=False)
    run.track()
    run.log({"loss": 3.0}, step=1, epoch=0, split="train", phase="a")
    run.finish([])
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_before_anything_is_deleted(name, tmp_path, monkeypatch, capsys):
    Run(tmp_path / "r", {"recipe": "plain"})
    monkeypatch.setattr(tracker, "find_spec", lambda asked: None if asked == name else object())
    assert main(["train", "plain", *TINY, "--out", str(tmp_path / "r"), "--overwrite", "--tracker", name]) == 1
    line = f"bnn: --tracker {name} needs {name}: pip install 'bnn-torch[track]'\n"
    assert capsys.readouterr().err == line and (tmp_path / "r" / "config.json").exists()
