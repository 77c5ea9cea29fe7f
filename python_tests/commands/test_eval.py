"""`bnn eval` beyond accuracy: strange images, corruptions, other class frequencies."""

import json

import pictures
import pytest
import torch
from PIL import Image

from bnn.cli import main

TINY = "--data digits --n-max 60 --imbalance 10 --image-size 16 --batch-size 32 --epochs 2 --device cpu --precision no"
CHANGED = ("bnn.plotting.reliability", "bnn.plotting.per_class")  # slower than the training


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained run, its packed file, and a folder of coloured photographs."""
    folder = tmp_path_factory.mktemp("eval")
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGED:
            patch.setattr(name, lambda *_: None)
        assert main(["train", "plain", *TINY.split(), "--out", str(folder / "run")]) == 0
    assert main(["pack", str(folder / "run"), "-o", str(folder / "digits.safetensors")]) == 0
    for name in ("0", "grass", "sky"):  # the model knows a class 0
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (20, 16), (10 * i, 90, 200)).save(folder / "photos" / name / f"{i}.png")
    return folder


def evaluated(capsys, *arguments) -> dict:
    capsys.readouterr()
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments) -> str:
    capsys.readouterr()
    assert main(["eval", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def kept(place) -> dict:
    return json.loads((place / "run" / "evaluation.json").read_text())


def test_strange_images(place, capsys, monkeypatch):
    from bnn.data import glyphs

    monkeypatch.setattr(glyphs, "pool", lambda name: "ABCDEFGH")
    found = evaluated(capsys, place / "run", "--ood", "glyphs", f"folder:{place / 'photos'}")
    assert [(row["name"].split(":")[0], row["known"], row["strange"]) for row in found["ood"]] == [
        ("glyphs", 400, 8 * 30), ("folder", 400, 2)]  # fmt: skip
    for row in found["ood"]:
        for name in ("auroc_msp", "fpr95_msp", "auroc_max_logit", "fpr95_energy", "auroc_energy"):
            assert 0 <= row[name] <= 100
    assert kept(place)["ood"] == [{"on": "test", **row} for row in found["ood"]]
    assert "--ood digits: the model knows all its classes" in fails(capsys, place / "run", "--ood", "digits")
    assert "no such directory: nowhere" in fails(capsys, place / "run", "--ood", "folder:nowhere")


def test_the_data_root_is_that_of_the_strange_images(place, capsys, tmp_path):
    pytest.importorskip("torchvision")
    pictures.write(tmp_path / "eurosat" / "2750", 3, 10, 5)
    found = evaluated(capsys, place / "run", "--ood", "torchvision:EuroSAT", "--data-root", tmp_path)["ood"]
    assert found[0]["strange"] == 4  # 20 % of 10, 7 and 5
    assert "data_root: only the data set torchvision or lists or hf has it" in fails(
        capsys, place / "run", "--data-root", tmp_path
    )


def test_corruptions_and_the_table(place, capsys):
    found = evaluated(capsys, place / "run", "--corruptions", "contrast", "jpeg")["corruptions"]
    assert [(row["name"], row["severity"]) for row in found] == [
        (n, s) for n in ("contrast", "jpeg") for s in range(1, 6)
    ]
    assert all(0 <= row["ece"] <= 100 and "mean_low" not in row for row in found)
    capsys.readouterr()
    data = "--data digits --n-max 60 --imbalance 10 --corruptions contrast --shift"
    assert main(["eval", str(place / "digits.safetensors"), *data.split()]) == 0
    text = capsys.readouterr().out
    means = sum(row["ece"] for row in found[:5]) / 5
    line = next(line for line in text.splitlines() if line.startswith("| contrast"))
    assert float(line.split("|")[-3]) == pytest.approx(means, abs=1.0)
    assert "| classes reversed |" in text and "ece_few" in text
    assert "did you mean jpeg?" in fails(capsys, place / "run", "--corruptions", "jpge")


def test_other_frequencies_are_kept_beside_the_rest(place, capsys):
    first = evaluated(capsys, place / "run", "--shift")
    assert [row["name"] for row in first["shift"]] == ["balanced", "train", "reversed"]
    assert first["shift"][0]["accuracy"] == pytest.approx(first["accuracy"])  # the test split is balanced
    assert first["shift"][0]["ece"] == pytest.approx(first["ece"])
    evaluated(capsys, place / "run", "--shift", "--split", "val")
    evaluated(capsys, place / "run", "--corruptions", "brightness")
    evaluated(capsys, place / "run", "--shift", "--data", "digits")  # says what is recorded: the same images
    all_kept = kept(place)
    assert [(row["on"], row["name"]) for row in all_kept["shift"]] == [
        (split, name) for split in ("test", "val") for name in ("balanced", "train", "reversed")
    ]
    assert {row["severity"] for row in all_kept["corruptions"] if row["name"] == "brightness"} == {1, 2, 3, 4, 5}
    before = len(all_kept["corruptions"])
    evaluated(capsys, place / "run", "--corruptions", "brightness", "--n-max", "40")
    assert len(kept(place)["corruptions"]) == before + 5
    assert "n_max=40" in kept(place)["corruptions"][-1]["on"]


def test_a_plain_evaluation_writes_nothing(place, capsys, tmp_path):
    path = place / "run" / "evaluation.json"
    was = path.read_bytes() if path.exists() else None
    found = evaluated(capsys, place / "run")
    assert not found.keys() & {"ood", "corruptions", "shift"}
    assert (path.read_bytes() if path.exists() else None) == was
    assert torch.isfinite(torch.tensor(found["ece"]))
