import dataclasses
import json
import shutil

import pytest
import torch
from torch.nn import functional as F

from bnn import losses, recipes
from bnn.commands._load import open_target
from bnn.commands.pack import pack_run
from bnn.data import Data, Preprocess, TensorImages, fonts
from bnn.nn import CosineLinear
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


@pytest.mark.parametrize(
    "name", ["ce", "balanced_softmax", "label_aware_smoothing", "class_balanced", "ldam", "label_over_smoothing"]
)
def test_losses_by_name(name):
    logits, labels, counts = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([50, 20, 5, 2])
    expected = {
        "ce": F.cross_entropy(logits, labels),
        "balanced_softmax": losses.balanced_softmax(logits, labels, counts),
        "label_aware_smoothing": losses.label_aware_smoothing(logits, labels, counts),
        "class_balanced": losses.class_balanced(logits, labels, counts),
        "ldam": losses.ldam(logits, labels, counts, scale=5.0, beta=0.9999),
        "label_over_smoothing": losses.label_over_smoothing(logits, labels),
    }
    assert plain.make_loss(name, counts, scale=5.0)(logits, labels) == expected[name]
    unweighted = {"class_balanced": expected["ce"], "ldam": losses.ldam(logits, labels, counts, scale=5.0)}
    torch.testing.assert_close(
        plain.make_loss(name, counts, weighted=False, scale=5.0)(logits, labels), unweighted.get(name, expected[name])
    )


@pytest.fixture(scope="module")
def ldam(tiny, tmp_path_factory):
    """Run folder: cosine head, LDAM, weights in the last of two epochs."""
    folder = tmp_path_factory.mktemp("ldam") / "run"
    config = {**tiny, "epochs": 2, "loss": "ldam", "head": "cosine", "cosine_scale": 10.0, "reweight_from": 0.5}
    plain.run(plain.Config(**config, out=folder))
    return folder


def test_weights_set_in_when_they_are_told_to(tiny, ldam, tmp_path, no_plots):
    def epochs(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [[row["loss"] for row in lines if row["split"] == "train" and row["epoch"] == e] for e in (0, 1)]

    config = {**tiny, "epochs": 2, "loss": "ldam", "head": "cosine", "cosine_scale": 10.0}
    never = epochs(plain.run(plain.Config(**config, reweight_from=1.0, out=tmp_path / "never")).folder)
    assert epochs(ldam)[0] == never[0] and epochs(ldam)[1] != never[1]


def test_a_cosine_head_goes_all_the_way(tiny, ldam, tmp_path, no_plots):
    """p2p, pack, eval and a body for another run, as with a linear head."""
    network = read_config(ldam)["network"]
    assert network["head"] == {"kind": "cosine", "scale": 10.0, "learned": False}
    model = load_model(ldam)
    assert isinstance(model.classifier, CosineLinear) and model.classifier.log_scale.exp().item() == pytest.approx(10)
    corrected = p2p.run(p2p.Config(from_run=str(ldam), device="cpu", out=tmp_path / "p2p"))
    assert [row["name"] for row in corrected.rows] == ["before", "p2p, case 1"]  # it saw the classes balanced
    facts = pack_run(open_target(str(corrected.folder)), tmp_path / "file.safetensors")
    assert facts["flips"] == 0 and facts["largest_logit_difference"] < 1e-3
    assert facts["before"]["ece"] == pytest.approx(corrected.rows[1]["ece"], abs=1e-3)
    linear = plain.run(plain.Config(**{**tiny, "lr": 1e-30}, from_run=str(ldam), out=tmp_path / "linear")).folder
    state = load_model(linear).state_dict()
    assert torch.equal(state["body.0.weight"], model.state_dict()["body.0.weight"])
    assert not torch.equal(state["classifier.weight"], model.classifier.weight), "a linear classifier of its own"


def test_balanced_softmax_and_class_balanced_sampling_train(tiny, tmp_path):
    config = plain.Config(**tiny, loss="balanced_softmax", sampler="class_balanced", mix="cutmix", out=tmp_path / "run")
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
        (
            {"data": "cifar", "num_classes": None},
            "data: expected one of glyphs, digits, folder:PATH, torchvision:NAME, lists:DIR, hf:NAME; got 'cifar'",
        ),
        ({"data": "digits", "num_classes": None, "split": "source"}, "--split: .* only glyphs has a source"),
        ({"loss": "label_aware_smoothing", "mix": "mixup"}, "--loss: expected ce or balanced_softmax with --mix mixup"),
        (
            {"loss": "ldam", "head": "cosine", "mix": "cutmix"},
            "--loss: expected ce or balanced_softmax with --mix cutmix",
        ),
        ({"loss": "ldam"}, "--head: expected cosine with --loss ldam; got 'linear'"),
        ({"loss": "ldam", "head": "cosine", "learn_scale": True}, "--learn-scale: .* got 'ldam'"),
        ({"learn_scale": True}, "--learn-scale: expected the cosine head.* got 'linear'"),
        ({"cosine_scale": 9.0}, "--cosine-scale: expected none with --head linear; got 9.0"),
        ({"head": "cosine", "cosine_scale": 0.0}, "--cosine-scale: expected a number above 0"),
        ({"reweight_from": 0.5}, "--reweight-from: expected none with --loss ce; got 0.5"),
        ({"loss": "class_balanced", "reweight_from": 1.5}, "--reweight-from: expected 0 to 1; got 1.5"),
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
