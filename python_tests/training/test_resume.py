"""kill -9 at any moment, then --resume: the same bits as the run that was left alone."""

import json
import os
import signal

import pytest
from processes import start as start_process

from bnn.cli import main

SMALL = "--num-classes 10 --n-max 60 --imbalance 10 --image-size 16 --batch-size 32 --device cpu"
SHORT, LONG = f"{SMALL} --epochs 8", f"{SMALL} --epochs 400"  # not over before a signal comes on a busy machine


def start(folder, cwd, environment, flags=SHORT):
    return start_process("train", "plain", *flags.split(), "--out", folder, cwd=cwd, environment=environment)


def wait_for(process, text):
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"{text!r} never came")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start("run", folder, environment)
    process.communicate()
    assert process.returncode == 0
    return folder / "run"


def test_a_killed_run_continues_to_the_same_bits(undisturbed, tmp_path, python, environment):
    process = start("run", tmp_path, environment)
    wait_for(process, "train epoch 2/8")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "model.safetensors").exists()
    done = python("-m", "bnn", "train", "plain", *SHORT.split(), "--out", "run", "--resume")
    assert done.returncode == 0, done.stderr
    assert "epoch 1/8" not in done.stderr  # it continued
    for name in ("model.safetensors", "metrics.jsonl", "table.json"):
        assert (undisturbed / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


def test_ctrl_c_leaves_a_folder_that_can_be_resumed_and_says_how(tmp_path, environment):
    process = start("run", tmp_path, environment, LONG)
    wait_for(process, "train epoch 1/400")
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "bnn: interrupted; continue with: bnn train plain --num-classes 10" in stderr
    assert stderr.rstrip().endswith("--out run --resume")
    assert "Traceback" not in stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["epochs"] == 400


def test_resuming_a_finished_run_trains_nothing(undisturbed, capsys):
    before = (undisturbed / "model.safetensors").read_bytes()
    assert main(["train", "plain", *SHORT.split(), "--out", str(undisturbed), "--resume"]) == 0
    assert "epoch" not in capsys.readouterr().err
    assert (undisturbed / "model.safetensors").read_bytes() == before


def test_resuming_with_another_learning_rate_is_refused_by_name(undisturbed, capsys):
    assert main(["train", "plain", *SHORT.split(), "--lr", "1", "--out", str(undisturbed), "--resume"]) == 2
    assert capsys.readouterr().err.startswith("bnn: --resume: lr was 0.0025 when ")
    assert json.loads((undisturbed / "config.json").read_text())["lr"] == 0.0025
