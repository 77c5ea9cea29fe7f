import json

import pytest
import torch

from bnn import models
from bnn.training.run import Run, load_model, read_config

NETWORK = {"name": "resnet_tiny", "num_classes": 5, "in_channels": 1, "image_size": 16}
CONFIG = {"recipe": "plain", "lr": 0.1, "network": NETWORK, "versions": {"torch": "1"}}


def rows(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_needs_resume_or_overwrite_once_it_holds_a_run(tmp_path):
    folder = tmp_path / "a" / "b"
    Run(folder, CONFIG)
    with pytest.raises(ValueError, match="holds a run already: add --resume to continue it or --overwrite"):
        Run(folder, CONFIG)
    Run(folder, CONFIG, resume=True)
    (folder / "model.safetensors").write_text("old")
    Run(folder, {**CONFIG, "lr": 0.2}, overwrite=True)
    assert read_config(folder)["lr"] == 0.2
    assert not (folder / "model.safetensors").exists()


def test_a_folder_that_is_no_run_is_never_deleted(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not a run folder"):
        Run(tmp_path, CONFIG, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_an_empty_folder_may_be_used(tmp_path):
    Run(tmp_path, CONFIG)


def test_resume_names_the_field_that_differs(tmp_path):
    Run(tmp_path / "r", CONFIG)
    with pytest.raises(ValueError, match=r"--resume: lr was 0\.1 when .* began and is 0\.2 now"):
        Run(tmp_path / "r", {**CONFIG, "lr": 0.2}, resume=True)
    Run(tmp_path / "r", {**CONFIG, "versions": {"torch": "2"}}, resume=True)


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        Run(tmp_path / "r", CONFIG, resume=True, overwrite=True)


def test_rows_after_the_last_checkpoint_are_dropped_on_resume(tmp_path):
    run = Run(tmp_path / "r", CONFIG)
    run.log({"loss": 3.0}, step=1, epoch=0, split="train", phase="a")
    run.save_state("a", {"finished": True})
    run.log({"loss": 2.0}, step=2, epoch=0, split="train", phase="b")
    run.save_state("b", {"finished": False})
    run.log({"loss": 1.0}, step=3, epoch=1, split="train", phase="b")
    again = Run(tmp_path / "r", CONFIG, resume=True)
    assert [row["step"] for row in rows(again)] == [1, 2]
    assert rows(again)[0] == {"step": 1, "epoch": 0, "split": "train", "phase": "a", "loss": 3.0}


def test_without_a_checkpoint_resume_starts_the_metrics_again(tmp_path):
    run = Run(tmp_path / "r", CONFIG)
    run.log({"loss": 3.0}, step=1, epoch=0, split="train", phase="a")
    assert rows(Run(tmp_path / "r", CONFIG, resume=True)) == []


def test_another_process_writes_nothing(tmp_path):
    run = Run(tmp_path / "r", CONFIG, main=False)
    run.log({"loss": 3.0}, step=1, epoch=0, split="train", phase="a")
    run.save_state("a", {"finished": False})
    run.write_json("table.json", [])
    assert not (tmp_path / "r").exists()


def test_weights_come_back_into_the_network_of_the_config(tmp_path):
    run, model = Run(tmp_path / "r", CONFIG), models.build(**NETWORK).to(memory_format=torch.channels_last)
    run.save_model(model)
    back = load_model(tmp_path / "r")
    assert not back.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in back.state_dict().items())


def test_missing_and_foreign_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        load_model(tmp_path)
    run = Run(tmp_path / "r", CONFIG)
    with pytest.raises(FileNotFoundError, match="did not finish; continue it with --resume"):
        load_model(tmp_path / "r")
    run.save_model(models.build(**{**NETWORK, "num_classes": 6}))
    with pytest.raises(ValueError, match="does not fit the network of its run"):
        load_model(tmp_path / "r")
    (tmp_path / "r" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_model(tmp_path / "r")
