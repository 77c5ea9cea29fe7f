import dataclasses
import json
import shutil

import pytest
import torch
from torch.nn import functional as F

from bnn import losses, recipes
from bnn.data import Data, Preprocess, TensorImages, fonts
from bnn.recipes import p2p, plain
from bnn.recipes._session import _source_as_data, load_data
from bnn.training.run import load_model, read_config


def test_the_run_folder_holds_what_the_contract_says(student):
    assert {path.name for path in student.iterdir()} == {
        "config.json", "metrics.jsonl", "model.safetensors", "state", "table.json", "table.md", "reliability.png",
        "per_class.png",
    }  # fmt: skip
    config = read_config(student)
    fields = {f.name if f.name != "from_run" else "from" for f in dataclasses.fields(plain.Config)}
    assert fields <= set(config)
    assert config["recipe"] == "plain" and config["precision"] == "no" and config["device"] == "cpu"
    assert config["versions"]["torch"] == torch.__version__
    assert config["network"] == {"name": "reactnet_tiny", "num_classes": 8, "in_channels": 1, "image_size": 16}
    assert len(config["classes"]) == len(config["class_counts"]) == 8
    rows = json.loads((student / "table.json").read_text())
    assert rows[0]["split"] == "test" and 0 <= rows[0]["mean_low"] <= rows[0]["mean"] <= rows[0]["mean_high"] <= 100
    assert "| reactnet_tiny, ce |" in (student / "table.md").read_text()
    metrics = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    assert {row["split"] for row in metrics} == {"train", "val"}
    assert all(isinstance(row["step"], int) and isinstance(row["epoch"], int) for row in metrics)


@pytest.mark.parametrize("name", ["ce", "balanced_softmax", "label_aware_smoothing"])
def test_losses_by_name(name):
    logits, labels, counts = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([50, 20, 5, 2])
    expected = {
        "ce": F.cross_entropy(logits, labels),
        "balanced_softmax": losses.balanced_softmax(logits, labels, counts),
        "label_aware_smoothing": losses.label_aware_smoothing(logits, labels, counts),
    }
    assert plain.make_loss(name, counts)(logits, labels) == expected[name]


def test_balanced_softmax_and_class_balanced_sampling_train(tiny, tmp_path):
    config = plain.Config(**tiny, loss="balanced_softmax", sampler="class_balanced", mixup=True, out=tmp_path / "run")
    assert plain.run(config).rows[0]["name"] == "reactnet_tiny, balanced_softmax"


def test_from_takes_the_body_and_a_new_classifier_for_other_classes(tiny, student, tmp_path):
    config = {**tiny, "lr": 1e-30}  # nothing moves but the running statistics of batch norm
    same = plain.run(plain.Config(**config, from_run=str(student), out=tmp_path / "same")).folder
    other = plain.run(plain.Config(**config, draw=1, from_run=str(student), out=tmp_path / "other")).folder
    origin, same, other = (load_model(folder).state_dict() for folder in (student, same, other))
    weights = [name for name in origin if name.startswith("body.") and "running" not in name and "num_" not in name]
    assert all(torch.equal(origin[name], same[name]) and torch.equal(origin[name], other[name]) for name in weights)
    assert torch.equal(origin["classifier.weight"], same["classifier.weight"])
    assert not torch.equal(origin["classifier.weight"], other["classifier.weight"])


def test_from_another_body_is_refused(tiny, student, tmp_path):
    config = plain.Config(**tiny, model="resnet_tiny", from_run=str(student), out=tmp_path / "run")
    with pytest.raises(ValueError, match="its name is 'reactnet_tiny', this run's is 'resnet_tiny': no common body"):
        plain.run(config)


def test_the_source_split_becomes_a_data_set_with_a_held_out_part():
    images = TensorImages(torch.zeros(120, 1, 8, 8, dtype=torch.uint8), torch.arange(6).repeat_interleave(20))
    preprocess = Preprocess((8, 8), (0.5,), (0.25,), "L")
    data = Data("glyphs", ("a", "b"), {"source": images}, preprocess, torch.tensor([3, 2]), tuple("uvwxyz"))
    source = _source_as_data(data)
    assert source.classes == tuple("uvwxyz")
    assert source.class_counts.tolist() == [19] * 6
    assert len(source.splits["train"]) == 114 and len(source.splits["val"]) == 6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": "resnet"}, "--model: expected one of reactnet_tiny, .*; got 'resnet'"),
        ({"epochs": 0}, "--epochs: expected at least 1; got 0"),
        ({"batch_size": 1}, "--batch-size: expected at least 2; got 1"),
        ({"batch_size": 4000}, "batch_size: expected 1 to .* got 4000"),
        ({"lr": -1.0}, "--lr: expected a number above 0; got -1.0"),
        ({"data": "cifar", "num_classes": None}, "data: expected one of glyphs, digits, folder:PATH; got 'cifar'"),
        ({"data": "digits", "num_classes": None, "split": "source"}, "--split: .* only glyphs has a source"),
        ({"loss": "label_aware_smoothing", "mixup": True}, "--loss: expected ce or balanced_softmax with --mixup"),
        ({"from_run": "nowhere"}, "nowhere is not a run folder"),
    ],
)
def test_wrong_fields_are_named_and_leave_nothing_behind(tiny, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        plain.run(plain.Config(**{**tiny, **change}, out=tmp_path / "run"))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_recipes_are_found_by_name():
    assert recipes.find("plain") is plain
    expected = "recipe: expected one of plain, candle, vtst, ke, granularity, retrain, p2p; got 'mixup'"
    with pytest.raises(ValueError, match=expected):
        recipes.find("mixup")


def test_more_fonts_to_train_on_are_those_of_every_later_step(tiny, tmp_path, no_plots):
    shutil.copy(fonts.shipped("STIXGeneralBol"), tmp_path)
    plain.run(plain.Config(**tiny, fonts=str(tmp_path), out=tmp_path / "run"))
    p2p.run(p2p.Config(from_run=str(tmp_path / "run"), out=tmp_path / "p2p", device="cpu"))
    trained, corrected, usual = (
        load_data(fields).splits["train"].tensor
        for fields in (read_config(tmp_path / "run"), read_config(tmp_path / "p2p"), {**tiny, "fonts": None})
    )
    assert torch.equal(trained, corrected) and not torch.equal(trained, usual)
    with pytest.raises(ValueError, match="fonts: only the data set glyphs has it"):
        plain.run(plain.Config(data="digits", fonts=str(tmp_path), out=tmp_path / "digits"))
