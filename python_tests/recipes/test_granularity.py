import json
import os
import signal

import pytest
import torch
from PIL import Image
from processes import start

from bnn.cli import main
from bnn.data import lookalikes, neighbors
from bnn.recipes import granularity, p2p
from bnn.recipes.granularity import Config
from bnn.training import checkpoint
from bnn.training.run import load_model, read_config

pytestmark = pytest.mark.usefixtures("no_plots", "few_auxiliary_images")
FEW = {"neighbors_per_class": (1, 2, 3), "per_class": 4}


@pytest.fixture(scope="module")
def few_auxiliary_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookalikes, "PER_CLASS", 6)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, no_plots, few_auxiliary_images, tiny):
    """Run folder of a training with back silencing and mixup."""
    folder = tmp_path_factory.mktemp("granularity") / "run"
    granularity.run(Config(**tiny, **FEW, silencing="back", mixup=True, out=folder))
    return folder


def test_the_run_is_an_ordinary_network_of_the_target_classes(trained):
    config, table = read_config(trained), json.loads((trained / "table.json").read_text())
    assert config["network"]["num_classes"] == len(config["classes"]) == 8
    assert list(config["neighbor_map"]) == config["classes"]
    found = load_model(trained).state_dict()
    wide = checkpoint.load(trained / "state" / "train.pt")["modules"]
    everything = 8 + len(neighbors.auxiliary_classes(config["neighbor_map"]))
    assert wide["classifier.weight"].shape[0] == wide["classifier.bias"].shape[0] == everything > 16
    for name, value in found.items():
        assert torch.equal(value, wide[name][:8] if name.startswith("classifier.") else wide[name]), name
    assert table[0]["name"] == "reactnet_tiny, granularity, lookalikes back"


def test_eval_pack_and_p2p_take_it_like_any_other_run(trained, tmp_path, capsys):
    table = json.loads((trained / "table.json").read_text())
    assert main(["eval", str(trained), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean"] == table[0]["mean"]
    assert main(["pack", str(trained), "-o", str(tmp_path / "packed.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["before"]["mean"] == table[0]["mean"]
    rows = p2p.run(p2p.Config(from_run=str(trained), out=tmp_path / "p2p", device="cpu")).rows
    assert rows[1]["name"] == "p2p, case 2"  # the loss knew the class counts


def test_the_recorded_map_trains_the_same_network_from_a_file(trained, tiny, tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(read_config(trained)["neighbor_map"]))
    out = tmp_path / "run"
    granularity.run(Config(**tiny, **FEW, silencing="back", mixup=True, neighbors=str(path), out=out))
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_steps_are_exactly_as_many_as_asked_for_in_epochs_of_equal_length(tiny, student, tmp_path):
    assert granularity.schedule(Config(steps=804), 134) == (6, 134)
    assert granularity.schedule(Config(steps=804), 133) == (12, 67)  # 7 to 11 do not divide 804
    assert granularity.schedule(Config(steps=100), 134) == (1, 100)
    assert granularity.schedule(Config(epochs=5), 134) == (5, 134)
    out = tmp_path / "run"
    config = Config(**tiny, **FEW, steps=14, silencing="soft", neighbors="random", from_run=str(student), out=out)
    granularity.run(config)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "val"][-1] == 14


def test_weights_by_name():
    near = torch.tensor([[True, False], [False, True]])
    n, h, b, s = (granularity.silencing_weights(Config(silencing=k), near) for k in ("none", "hard", "back", "soft"))
    assert (n == 1).all()
    assert h.tolist() == [[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]]
    assert b.tolist() == [[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]
    torch.testing.assert_close(s, torch.where(h == 0, 0.1, 1.0))
    rows = granularity.silencing_weights(Config(silenced_rows="target"), near)
    assert rows.tolist() == [[1, 1, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_partners_are_images_of_the_same_epoch_by_a_hash():
    order, index = torch.tensor([3, 8, 21, 40]), torch.arange(50)
    share, other = granularity.partners(0, 2, index, order)
    assert set(other.tolist()) == {3, 8, 21, 40} and 0 <= share.min() < share.max() < 1
    again = granularity.partners(0, 2, index[10:20], order)
    assert torch.equal(again[0], share[10:20]) and torch.equal(again[1], other[10:20])
    assert not torch.equal(granularity.partners(0, 3, index, order)[1], other)


def pictures(root, shades, count):
    for name, shade in shades.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (20, 20), (shade, 10 * i, 90)).save(root / name / f"{i}.png")


@pytest.fixture
def photos(tmp_path):
    """Arguments of a training on a folder with auxiliary pictures of four classes."""
    pictures(tmp_path / "data", {"cat": 10, "dog": 200}, 8)
    pictures(tmp_path / "more", {"lynx": 40, "wolf": 170, "fox": 150, "unused": 1}, 5)
    (tmp_path / "map.json").write_text(json.dumps({"cat": ["lynx"], "dog": ["wolf", "fox"]}))
    flags = {"data": f"folder:{tmp_path / 'data'}", "auxiliary": str(tmp_path / "more"), "out": tmp_path / "run"}
    numbers = {"image_size": 16, "batch_size": 4, "epochs": 1, "device": "cpu", "precision": "no", "per_class": 3}
    return {**flags, **numbers, "neighbors": str(tmp_path / "map.json")}


def test_a_folder_with_a_folder_of_auxiliary_classes(photos):
    result = granularity.run(Config(**photos))
    config = read_config(result.folder)
    assert config["neighbor_map"] == {"cat": ["lynx"], "dog": ["wolf", "fox"]} and config["classes"] == ["cat", "dog"]
    wide = checkpoint.load(result.folder / "state" / "train.pt")["modules"]
    assert len(wide["classifier.bias"]) == 5
    assert load_model(result.folder).classifier.out_features == 2


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"cow": ["lynx"]}, "neighbors: the map names 'cow', the data has no such class"),
        ({"cat": ["dog"]}, "neighbors: 'dog' can't be a neighbor: the data has it as a target class"),
        ({"cat": ["puma"]}, "has no images of puma; add a directory of them or edit the map"),
    ],
)
def test_wrong_maps_leave_nothing_behind(photos, found, message):
    with open(photos["neighbors"], "w") as file:
        json.dump(found, file)
    with pytest.raises(ValueError, match=message):
        granularity.run(Config(**photos))
    assert not photos["out"].exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_class": 0}, "--per-class: expected at least 1; got 0"),
        ({"steps": 0}, "--steps: expected at least 1; got 0"),
        ({"soft_weight": 2.0}, "--soft-weight: expected 0 to 1; got 2.0"),
        ({"neighbors_per_class": (0, 0, 0)}, "--neighbors-per-class: expected 0 or more, not all 0"),
        ({"auxiliary": "x"}, "--auxiliary: expected nothing: glyphs draws the images; got 'x'"),
        ({"neighbors": "none.json"}, "neighbors: no such file: none.json"),
        ({"data": "digits", "num_classes": None}, "--neighbors: expected a JSON map with --data digits"),
        (
            {"data": "digits", "num_classes": None, "neighbors": "m.json"},
            "--auxiliary: expected a folder with --data digits; got None",
        ),
        ({"from_run": "nowhere"}, "nowhere is not a run folder"),
    ],
)
def test_wrong_fields_are_named(tiny, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        granularity.run(Config(**{**tiny, **change}, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_killed_run_continues_to_the_same_bits(photos, tmp_path):
    flags = {**photos, "epochs": 8, "mixup": True}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if name not in ("out", "mixup")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    where = {"cwd": tmp_path, "environment": environment}
    process = start("train", "granularity", *arguments, "--mixup", "--out", "killed", **where)
    assert any("train epoch 2/8" in line for line in process.stderr)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "model.safetensors").exists()
    granularity.run(Config(**{**flags, "out": tmp_path / "killed"}, resume=True))
    granularity.run(Config(**flags))
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
