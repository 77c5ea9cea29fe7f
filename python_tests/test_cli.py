"""The `bnn` command: real processes for the way through it, `main` in this process for the many wrong inputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import bnn
from bnn import _extension
from bnn.cli import main
from bnn.data import Preprocess

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(bnn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
TINY = (
    "--data digits --n-max 60 --imbalance 10 --image-size 16 --batch-size 32 --epochs 2 --device cpu --precision no"
).split()


def command(*arguments, cwd, code=0):
    """Run the command in a process of its own; returns (stdout, stderr)."""
    process = subprocess.run(
        [sys.executable, "-m", "bnn", *map(str, arguments)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert process.returncode == code, process.stderr
    return process.stdout, process.stderr


def fails(capsys, *arguments, code=2):
    """Run a wrong command line in this process; returns its one line on stderr."""
    assert main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured.err
    return captured.err.strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a trained run and its packed file, made by the command itself."""
    folder = tmp_path_factory.mktemp("cli")
    stdout, stderr = command("train", "plain", *TINY, "--out", "run", cwd=folder)
    assert "| reactnet_tiny, ce |" in stdout
    assert "train epoch 2/2" in stderr and "run folder: run" in stderr
    command("pack", "run", "-o", "digits.safetensors", cwd=folder)
    return folder


def test_the_run_folder_records_the_command_and_every_field(place):
    config = json.loads((place / "run" / "config.json").read_text())
    assert config["command"] == " ".join(["bnn", "train", "plain", *TINY, "--out", "run"])
    assert (config["recipe"], config["data"], config["n_max"], config["seed"]) == ("plain", "digits", 60, 0)
    assert {path.name for path in (place / "run").iterdir()} >= {"metrics.jsonl", "model.safetensors", "table.md"}


def test_pack_reports_size_and_flips(place, capsys):
    target = place / "again.safetensors"
    assert main(["pack", str(place / "run"), "-o", str(target), "--exact", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == target.stat().st_size < facts["training_bytes"] / 10
    assert facts["images"] == 400 and facts["flips"] == 0 and facts["exact"] is True
    assert facts["before"]["accuracy"] == facts["after"]["accuracy"]
    assert facts["before"]["ece"] == pytest.approx(facts["after"]["ece"], abs=1e-3)
    line = fails(capsys, "pack", place / "run", "-o", target)
    assert line == f"bnn: {target} exists: choose another -o, or add --overwrite"
    assert main(["pack", str(place / "run"), "-o", str(target), "--overwrite"]) == 0
    assert "same class    100.00 % of 400 test images (0 flips)" in capsys.readouterr().out


def test_a_run_and_its_file_have_the_same_figures(place, capsys):
    assert main(["eval", str(place / "run"), "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    data = "--data digits --n-max 60 --imbalance 10".split()
    assert main(["eval", str(place / "digits.safetensors"), *data, "--json"]) == 0
    packed = json.loads(capsys.readouterr().out)
    trained = json.loads((place / "run" / "table.json").read_text())[0]
    assert run["mean"] == trained["mean"] and packed["accuracy"] == pytest.approx(run["accuracy"], abs=0.5)
    assert run["ece"] == pytest.approx(trained["ece"], abs=1e-3)
    assert main(["eval", str(place / "run"), "--split", "val"]) == 0
    assert capsys.readouterr().out.startswith("| ")


@pytest.fixture(scope="module")
def pictures(place):
    """A test image as files of several kinds."""
    from bnn.data import load

    pixels = load("digits", image_size=16, imbalance=10.0, n_max=60).splits["test"].images([0])[0, 0].numpy()
    grey = Image.fromarray(pixels)
    grey.save(place / "grey.png")
    grey.resize((64, 64), Image.Resampling.NEAREST).convert("RGB").save(place / "large.jpg", quality=95)
    grey.convert("RGBA").save(place / "alpha.png")
    return [place / name for name in ("grey.png", "large.jpg", "alpha.png")]


def test_predict_names_classes_with_probabilities(place, pictures):
    stdout, _ = command("predict", "digits.safetensors", *pictures, "--top", "3", "--json", cwd=place)
    results = json.loads(stdout)
    assert [r["image"] for r in results] == [str(p) for p in pictures]
    packed = bnn.load(place / "digits.safetensors")
    preprocess = Preprocess.from_dict(packed.preprocess)
    expected = packed(preprocess.normalize(preprocess.read(pictures[0])[None])).softmax(1)[0]
    best = results[0]["top"]
    assert [guess["class"] for guess in best] == [packed.classes[k] for k in expected.topk(3).indices]
    assert [guess["probability"] for guess in best] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-5)
    assert results[2]["top"] == best  # opaque alpha changes nothing
    text, _ = command("predict", "digits.safetensors", pictures[0], cwd=place)
    assert text.splitlines()[0] == str(pictures[0]) and text.count("%") == 5


def test_predict_names_a_bad_image_or_file(place, pictures, tmp_path, capsys):
    model = place / "digits.safetensors"
    (tmp_path / "broken.png").write_bytes(pictures[0].read_bytes()[:40])
    (tmp_path / "short.safetensors").write_bytes(model.read_bytes()[:1000])
    assert "broken.png" in fails(capsys, "predict", model, pictures[0], tmp_path / "broken.png")
    assert "no such file" in fails(capsys, "predict", model, tmp_path / "none.png")
    assert "no image given" in fails(capsys, "predict", model)
    assert "--top: expected at least 1" in fails(capsys, "predict", model, pictures[0], "--top", "0")
    assert "short.safetensors" in fails(capsys, "predict", tmp_path / "short.safetensors", pictures[0])
    assert "no such model file" in fails(capsys, "predict", tmp_path / "none.safetensors", pictures[0])


def test_p2p_reaches_the_packed_file(place, capsys):
    assert main(["train", "p2p", "--from", str(place / "run"), "--device", "cpu", "--overwrite"]) == 0
    table = capsys.readouterr().out
    assert "| p2p, case 1 " in table and "| control: minus log pi " in table
    assert main(["pack", str(place / "run-p2p"), "-o", str(place / "p2p.safetensors"), "--json", "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out)["flips"] == 0
    offsets = json.loads((place / "run-p2p" / "posthoc.json").read_text())["logit_offsets"]
    x = torch.randn(2, 1, 16, 16)
    plain, corrected = bnn.load(place / "digits.safetensors"), bnn.load(place / "p2p.safetensors")
    assert torch.allclose(corrected(x), plain(x) + torch.tensor(offsets), atol=1e-5)


def test_info_says_what_is_installed_and_what_runs(place, capsys):
    stdout, _ = command("info", cwd=place)
    assert f"torch {torch.__version__}" in stdout and "CPU kernels" in stdout and "CUDA kernels" in stdout
    assert main(["info", "--model", "reactnet_tiny", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["isa_current"] in facts["isa_available"]
    assert facts["model"]["input"] == [1, 32, 32]
    assert facts["model"]["total"]["binary_bits"] == 635904
    assert sum(row["binary_macs"] for row in facts["model"]["layers"]) == facts["model"]["total"]["binary_macs"]
    assert main(["info", "--model", str(place / "digits.safetensors")]) == 0
    assert "PackedBinaryConv2d" in capsys.readouterr().out


def test_info_says_why_the_extension_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(_extension, "module", None)
    monkeypatch.setattr(_extension, "error", "the extension is not built")
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "not loaded: the extension is not built" in text and "the pure-torch reference runs" in text


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("tarin", "unknown verb 'tarin', expected one of demo, train, sweep, eval, pack, predict,"),
        ("train plian", "recipe: expected one of plain, candle, vtst, ke, granularity, retrain, p2p; got 'plian'"),
        (
            "train plain --data mnist",
            "data: expected one of glyphs, digits, folder:PATH, torchvision:NAME, lists:DIR, hf:NAME; got 'mnist'",
        ),
        ("train plain --data folder:nowhere", "nowhere"),
        ("train plain --model lenet", "--model: expected one of reactnet_tiny, reactnet18"),
        ("train plain --epoch 3", "bnn train plain has no flag --epoch (did you mean --epochs?); it has --out"),
        ("train plain --epochs three", "Error parsing --epochs: invalid literal for int()"),
        ("train plain --loss hinge", "invalid choice 'hinge' for argument '--loss'"),
        ("train plain --seed", "Missing value for argument '--seed'"),
        ("train plain --from nowhere", "nowhere is not a run folder: it has no config.json"),
        ("train candle --teacher nowhere", "nowhere is not a run folder: it has no config.json"),
        ("train p2p", "--from: expected the folder of a finished run"),
        ("eval nowhere", "nowhere: no such model file"),
        ("pack nowhere -o x", "nowhere: no such run folder"),
        ("pack nowhere", "bnn pack: "),
        ("info --model lenet", "--model: expected one of reactnet_tiny"),
        ("demo --rounds 3", "bnn demo has no flag --rounds"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_do(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(capsys, *arguments.split())


def test_an_existing_folder_is_left_alone(place, tmp_path, capsys):
    line = fails(capsys, "train", "plain", *TINY, "--out", place / "run")
    assert line.endswith("holds a run already: add --resume to continue it or --overwrite to start again")
    (tmp_path / "letter.txt").write_text("dear")
    assert "is not a run folder" in fails(capsys, "train", "plain", *TINY, "--out", tmp_path, "--overwrite")
    assert "exists: add --resume" in fails(capsys, "demo", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_evaluating_on_other_classes_is_refused(place, capsys):
    line = fails(
        capsys, "eval", place / "digits.safetensors", "--data", "glyphs", "--num-classes", "10", "--n-max", "100"
    )
    assert "digits.safetensors knows 10 classes" in line
    assert "give --data, one of glyphs, digits, folder:PATH" in fails(capsys, "eval", place / "digits.safetensors")


def test_a_defect_is_not_taken_for_wrong_use(place, capsys, monkeypatch):
    def broken(*_, **__):
        return torch.zeros(2).reshape(3)  # a RuntimeError from a library

    monkeypatch.setattr("bnn.commands.predict.predict_files", broken)
    assert main(["predict", str(place / "digits.safetensors"), "x.png"]) == 1
    assert "Traceback" in capsys.readouterr().err

    monkeypatch.setattr("bnn.commands.predict.predict_files", lambda *_: int("three"))  # a ValueError, but not ours
    assert main(["predict", str(place / "digits.safetensors"), "x.png"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert "predict FILE IMAGE" in capsys.readouterr().out
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert bnn.__version__ in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["train", "candle", "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "--temperature" in text and "--from RUN" in text and "--balance-on" in text


@pytest.mark.slow
def test_the_demo_tells_the_story_and_its_last_line_works(tmp_path):
    flags = "--out demo --epochs 1 --num-classes 12 --device cpu".split()
    stdout, stderr = command("demo", *flags, cwd=tmp_path)
    for row in ("cross-entropy", "balanced softmax", "CANDLE", "CANDLE + P2P", "CANDLE + P2P, packed"):
        assert f"| {row} " in stdout
    assert "[5/5" in stderr and (tmp_path / "demo" / "table.md").exists()
    assert "  demo/candle-p2p/reliability.png" in stdout and (tmp_path / "demo/candle-p2p/reliability.png").exists()
    last = stdout.rstrip().splitlines()[-1].split()
    assert last[:2] == ["bnn", "predict"]
    text, _ = command(*last[1:], cwd=tmp_path)
    assert text.startswith("demo/example.png") and text.count("%") == 3
