"""One's own colour pictures through the commands: by folder and by name, trained, packed, evaluated again."""

import json

import pictures
import pytest

from bnn.cli import main

TINY = "--image-size 16 --batch-size 16 --epochs 1 --device cpu --precision no".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures of 8 classes where torchvision looks for EuroSAT, and a run on them."""
    pytest.importorskip("torchvision")
    folder = tmp_path_factory.mktemp("own")
    pictures.write(folder / "sets" / "eurosat" / "2750", 8, 16, 4)
    data = ["--data", "torchvision:eurosat", "--data-root", str(folder / "sets")]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("reliability", "per_class"):
            patch.setattr(f"bnn.plotting.{name}", lambda *_: None)
        assert main(["train", "plain", *data, *TINY, "--out", str(folder / "run")]) == 0
    return folder


def figures(capsys, *arguments) -> dict:
    capsys.readouterr()
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_run_and_file_are_evaluated_again(place, capsys, tmp_path):
    config = json.loads((place / "run" / "config.json").read_text())
    assert config["data_root"] == str(place / "sets") and config["preprocess"]["mode"] == "RGB"
    trained = json.loads((place / "run" / "table.json").read_text())[0]
    assert figures(capsys, place / "run")["nll"] == pytest.approx(trained["nll"], rel=1e-4)
    file = tmp_path / "own.safetensors"
    assert main(["pack", str(place / "run"), "-o", str(file)]) == 0
    by_name = figures(capsys, file, "--data", "torchvision:EuroSAT", "--data-root", place / "sets")
    by_folder = figures(capsys, file, "--data", f"folder:{place / 'sets' / 'eurosat' / '2750'}", "--split", "train")
    assert by_name["nll"] == pytest.approx(trained["nll"], rel=0.05) and 0 <= by_folder["mean"] <= 100
    picture = place / "sets" / "eurosat" / "2750" / "class-00" / "0.jpg"
    assert main(["predict", str(file), str(picture), "--top", "1"]) == 0
    assert "class-0" in capsys.readouterr().out
    assert main(["eval", str(file)]) == 2
    assert "give --data, one of glyphs, digits, folder:PATH, torchvision:NAME" in capsys.readouterr().err


def test_a_moved_data_root_resumes_and_evaluates(place, capsys):
    (place / "sets").rename(place / "moved")
    try:
        assert main(["eval", str(place / "run")]) == 2
        assert "torchvision:EuroSAT is not whole in" in capsys.readouterr().err
        moved = ["--data-root", str(place / "moved")]
        assert figures(capsys, place / "run", *moved, "--shift")["shift"][0]["name"] == "balanced"
        assert json.loads((place / "run" / "evaluation.json").read_text())["shift"][0]["on"] == "test"
        again = ["train", "plain", "--data", "torchvision:eurosat", *moved, *TINY, "--out", str(place / "run")]
        with pytest.MonkeyPatch.context() as patch:
            for name in ("reliability", "per_class"):
                patch.setattr(f"bnn.plotting.{name}", lambda *_: None)
            assert main([*again, "--resume"]) == 0
    finally:
        (place / "moved").rename(place / "sets")


def test_grey_strangers_reach_a_colour_network(place, capsys):
    found = figures(capsys, place / "run", "--ood", "digits")["ood"][0]
    assert (found["name"], found["strange"]) == ("digits", 400)


def test_a_teacher_of_grey_images_is_refused_with_what_to_do(place, capsys, tmp_path):
    data = ["--data", f"folder:{place / 'sets' / 'eurosat' / '2750'}"]
    assert main(["train", "candle", *data, *TINY, "--out", str(tmp_path / "student")]) == 2
    assert "of 3 channels, not 1 (bnn train plain --data folder:" in capsys.readouterr().err
