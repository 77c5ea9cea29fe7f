import copy
import json

import pytest
import torch

import bnn
from bnn import models
from bnn.nn.split_masks import extract_slim, kels
from bnn.recipes import ke
from bnn.recipes._session import load_data
from bnn.training import checkpoint
from bnn.training.run import load_model, read_config

pytestmark = pytest.mark.usefixtures("no_plots")


def rows(folder, split="val"):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["split"] == split]


def weights(folder, phase):
    return checkpoint.load(folder / "state" / f"{phase}.pt")["modules"]


@pytest.fixture(scope="module")
def evolved(tiny, tmp_path_factory):
    config = ke.Config(**{**tiny, "epochs": 2}, generations=3, out=tmp_path_factory.mktemp("ke") / "run")
    return config, ke.run(config)


def test_every_generation_leaves_its_rows_and_its_checkpoint(evolved):
    config, result = evolved
    names = [f"generation {g}, {network}" for g in (1, 2, 3) for network in ("dense", "slim")]
    assert [row["name"] for row in result.rows] == names
    assert [row["generation"] for row in result.rows] == [1, 1, 2, 2, 3, 3]
    assert {path.name for path in (result.folder / "state").iterdir()} == {f"generation-{g}.pt" for g in (1, 2, 3)}
    val = rows(result.folder)
    assert [(row["phase"], row["epoch"]) for row in val] == [(f"generation-{g}", e) for g in (1, 2, 3) for e in (0, 1)]
    assert all({"mean", "slim_mean", "slim_accuracy"} <= set(row) for row in val)
    assert read_config(result.folder)["split_rate"] == 0.5
    dense, slim = result.rows[-2:]
    assert slim["binary_macs"] * 4 == dense["binary_macs"] and dense["real_macs"] > slim["real_macs"] > 0


def test_the_folder_holds_the_last_dense_network_and_the_packed_slim_one(evolved):
    config, result = evolved
    dense, last = load_model(result.folder), weights(result.folder, "generation-3")
    assert all(torch.equal(value, last[name]) for name, value in dense.state_dict().items())
    packed = bnn.load(result.folder / "slim.safetensors")
    slim = extract_slim(dense, kels(dense, 0.5))
    x = torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), slim(x), rtol=1e-4, atol=1e-4)
    assert packed.classes == read_config(result.folder)["classes"] and packed.preprocess["size"] == [16, 16]


def test_a_generation_starts_from_the_fit_hypothesis_of_the_one_before(evolved, tmp_path, monkeypatch):
    config, result = evolved
    starts = {}
    train = ke.train

    def spy(config, session, model, split, images, generation):
        starts[generation] = copy.deepcopy(model.state_dict())
        train(config, session, model, split, images, generation)

    monkeypatch.setattr(ke, "train", spy)
    again = ke.run(ke.Config(**{**vars(config), "out": tmp_path / "run"}))
    assert again.rows == result.rows
    split = kels(models.build(**read_config(result.folder)["network"]), 0.5)
    for generation in (2, 3):
        before = weights(again.folder, f"generation-{generation - 1}")
        for name, value in starts[generation].items():
            if name not in split or value.dim() == 1:
                assert torch.equal(value, before[name]), name
            else:
                mask = split[name]
                assert torch.equal(value[mask], before[name][mask])
                assert not (value[~mask] == before[name][~mask]).any()
    drawn = [starts[g]["body.2.conv.weight"][20:] for g in (1, 2, 3)]
    assert not (drawn[1] == drawn[2]).any() and not (drawn[0] == drawn[1]).any()
    last = starts[3], weights(again.folder, "generation-3")  # both hypotheses are trained
    assert all((last[0][n][part] != last[1][n][part]).any() for n in ("body.2.conv.weight", "classifier.weight")
               for part in (split[n], ~split[n]))  # fmt: skip


def test_optimizer_and_schedule_restart_and_the_augmentation_goes_on(evolved, tmp_path, monkeypatch):
    config, _ = evolved
    seen, optimizers = [], []
    augmented, make = ke.TrainingImages.augmented, ke.make_optimizer

    def spy(self, images, index, epoch):
        seen.append(epoch)
        return augmented(self, images, index, epoch)

    def collect(*arguments):
        optimizers.append(make(*arguments))
        assert not optimizers[-1].state
        return optimizers[-1]

    monkeypatch.setattr(ke.TrainingImages, "augmented", spy)
    monkeypatch.setattr(ke, "make_optimizer", collect)
    ke.run(ke.Config(**{**vars(config), "out": tmp_path / "run", "generations": 2, "optimizer": "sgd", "lr": 0.05}))
    assert sorted(set(seen)) == [0, 1, 2, 3] and seen == sorted(seen)
    assert len(optimizers) == 2 and all(isinstance(o, torch.optim.SGD) for o in optimizers)
    assert all(o.param_groups[0]["initial_lr"] == 0.05 and o.param_groups[0]["momentum"] == 0.9 for o in optimizers)


@pytest.mark.parametrize("generation, epoch", [(1, 1), (2, 0)])
def test_an_interrupted_run_continues_to_the_same_figures(evolved, tmp_path, monkeypatch, generation, epoch):
    config, result = evolved
    folder = tmp_path / "run"
    train = ke.train

    def stop(config, session, model, split, images, current):
        if current == generation:
            log = session.run.log

            def interrupt(values, **where):
                if where["epoch"] == epoch:
                    raise KeyboardInterrupt
                log(values, **where)

            monkeypatch.setattr(session.run, "log", interrupt)
        train(config, session, model, split, images, current)

    with monkeypatch.context() as patch:
        patch.setattr(ke, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            ke.run(ke.Config(**{**vars(config), "out": folder}))
    resumed = ke.run(ke.Config(**{**vars(config), "out": folder, "resume": True}))
    assert resumed.rows == result.rows
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (folder / name).read_bytes() == (result.folder / name).read_bytes(), name
    slim, same = (bnn.load(place / "slim.safetensors").state_dict() for place in (folder, result.folder))
    assert slim.keys() == same.keys() and all(torch.equal(slim[name], same[name]) for name in slim)


def test_the_long_control_trains_once_for_as_many_epochs(tiny, tmp_path):
    result = ke.run(ke.Config(**tiny, generations=3, control="long", out=tmp_path / "run"))
    assert [row["name"] for row in result.rows] == ["one long training, dense", "one long training, slim"]
    assert [(row["phase"], row["epoch"]) for row in rows(result.folder)] == [("long", 0), ("long", 1), ("long", 2)]


def test_later_layer_forgetting_keeps_the_first_layers(tiny, tmp_path, monkeypatch):
    starts = []
    train = ke.train

    def spy(config, session, model, *rest):
        starts.append(copy.deepcopy(model.state_dict()))
        train(config, session, model, *rest)

    monkeypatch.setattr(ke, "train", spy)
    result = ke.run(ke.Config(**tiny, generations=2, control="llf", reset_vectors=True, out=tmp_path / "run"))
    assert [row["name"] for row in result.rows] == ["generation 1, dense", "generation 2, dense"]
    assert not (result.folder / "slim.safetensors").exists()
    before = weights(result.folder, "generation-1")
    same = [torch.equal(starts[1][n], before[n]) for n in before if before[n].dim() > 1]
    assert same == sorted(same, reverse=True) and 0 < sum(same) < len(same)
    assert not starts[1]["classifier.bias"].any() and before["classifier.bias"].any()
    assert torch.equal(starts[1]["body.1.running_mean"], before["body.1.running_mean"])


def test_wels_real_networks_and_long_tails(tiny, tmp_path):
    options = {"mask": "wels", "split_rate": 0.8, "loss": "balanced_softmax", "model": "resnet_tiny", "init": "torch"}
    result = ke.run(ke.Config(**tiny, **options, generations=2, out=tmp_path / "run"))
    assert [row["name"] for row in result.rows] == ["generation 1, dense", "generation 2, dense"]
    assert "slim_mean" not in rows(result.folder)[0]


def test_the_slim_network_can_have_statistics_of_its_own(tiny, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(ke, "pack", lambda slim: made.append(slim) or bnn.pack(slim))
    options = {"generations": 1, "model": "resnet_tiny", "slim_norm": "reestimated"}
    result = ke.run(ke.Config(**tiny, **options, out=tmp_path / "run"))
    slim, dense, data = made[0], load_model(result.folder), load_data(read_config(result.folder))
    train = data.splits["train"]
    batches = [data.preprocess.normalize(train.images(i)) for i in torch.arange(len(train)).split(32)]
    for name, norm in slim.named_modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            copied = dense.get_submodule(name)
            assert torch.equal(norm.weight, copied.weight[: len(norm.weight)]) and not norm.training
            assert not torch.allclose(norm.running_mean, copied.running_mean[: len(norm.weight)], rtol=0.01)
    with torch.no_grad():
        means = torch.stack([slim.body[0](x).mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(slim.body[1].running_mean, means)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"generations": 0}, "--generations: expected at least 1; got 0"),
        ({"split_rate": 1.0}, "--split-rate: expected above 0 and below 1; got 1.0"),
        ({"llf_keep": 0.0}, "--llf-keep: expected above 0 and below 1; got 0.0"),
        ({"label_smoothing": 1.0}, "--label-smoothing: expected 0 to below 1; got 1.0"),
    ],
)
def test_wrong_fields_are_named_and_leave_nothing_behind(tiny, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        ke.run(ke.Config(**{**tiny, **change}, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
