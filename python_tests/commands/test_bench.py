"""`bnn bench`: what it compares, what it says, what it refuses. How fast anything is, no test asserts."""

import json

import pytest
import torch
from torch import nn

import bnn
from bnn import models
from bnn.cli import main
from bnn.commands import _contenders
from bnn.commands.bench import COLUMNS, RATIO, describe, take_turns, verdict
from bnn.commands.bench import main as bench
from bnn.commands.info import layers
from bnn.nn import BinaryConv2d, Blend
from bnn.training.run import save_weights

OURS, TORCH = ["bnn, packed", "bnn, packed bf16", "bnn, packed int8"], ["torch fp32", "torch bf16"]


def rivals():
    """Names of the rows that this environment has beside ours."""
    left_out = _contenders.missing() or ""
    names = ["OpenVINO fp32", "OpenVINO bf16", "OpenVINO int8"]
    return TORCH + [name for name in names if not left_out.startswith(("OpenVINO is", name))]


def run_folder(folder, name="reactnet_tiny"):
    """A run as far as a benchmark needs it."""
    network = {"name": name, "num_classes": 10, "in_channels": 1, "image_size": 16}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"network": network}))
    save_weights(folder / "model.safetensors", models.build(**network))
    return folder


def own_network():
    return nn.Sequential(BinaryConv2d(3, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def test_every_row_is_measured(capsys):
    threads = torch.get_num_threads()
    assert main("bench reactnet_tiny --image-size 32 --threads 1 --rounds 3 --json".split()) == 0
    facts = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in facts["rows"]}
    assert list(rows) == [*OURS, *rivals()]
    for row in rows.values():
        assert 0 < row["median ms"] <= row["p95 ms"] and row["file MB"] > 0 and row["peak MB"] >= 0
        assert row["images/s"] == pytest.approx(1e3 / row["median ms"])
    assert rows[OURS[0]][RATIO] == 1
    assert rows[OURS[2]]["file MB"] == min(row["file MB"] for row in rows.values())
    assert (facts["rival"], facts["input"]) == ("resnet_tiny", [1, 1, 32, 32])
    assert sum(n for kernel, n in facts["kernels"].items() if kernel.startswith("binary on ")) == 10
    assert facts["machine"]["threads"] == 1 and torch.__version__.startswith(facts["machine"]["versions"]["torch"])
    assert torch.get_num_threads() == threads
    text = describe(facts)
    assert all(f"| {name} " in text for name in [*rows, *COLUMNS]) and facts["verdict"] in text
    assert "rival     resnet_tiny" in text and "bnn-torch[peers]" in text or _contenders.missing() is None


def test_a_run_its_file_and_its_network_have_the_same_twin(tmp_path):
    from bnn.commands._subject import open_subject

    run = run_folder(tmp_path / "run")
    for options in ({}, {"exact": True}, {"dtype": torch.int8}):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        bnn.save(bnn.pack(models.build("reactnet_tiny", 10, 1, 16).eval(), **options), file)
        subjects = [open_subject(str(run), None, None), open_subject(str(file), 16, None)]
        subjects.append(open_subject("reactnet_tiny", 16, 10))
        assert {s.rival for s in subjects} == {"resnet_tiny"} and {s.image for s in subjects} == {(1, 16, 16)}
        twins = [[p.shape for p in s.twin.parameters()] for s in subjects]
        assert twins[0] == twins[1] == twins[2]


def test_a_network_of_ones_own_is_compared_with_nothing(tmp_path, capsys):
    bnn.save(bnn.pack(own_network()), tmp_path / "own.safetensors")
    assert main(["bench", str(tmp_path / "own.safetensors"), "--image-size", "16", "--rounds", "1"]) == 0
    text = capsys.readouterr().out
    assert "rival     none" in text and f"| {OURS[0]} " in text and "Nothing to compare with" in text
    assert not any(name in text for name in (*TORCH, "OpenVINO"))


@pytest.mark.parametrize("name", models.names())
def test_every_binary_network_has_a_real_twin(name):
    from bnn.models.twins import twin

    if not any(isinstance(layer, BinaryConv2d) for layer in models.build(name, 3, 1, 32).modules()):
        return
    label, model = twin(name, 3, 1, 32)
    assert name in label or label in models.names()
    ours = {type(layer) for layer in model.modules() if type(layer).__module__.startswith("bnn.nn")}
    assert ours <= {Blend}, "a layer of real numbers, which stays"
    assert model.eval()(torch.randn(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("name", ["reactnet_tiny", "reactnet_a"])
def test_info_names_the_kernel_that_the_packed_layer_runs_on(name):
    from bnn.commands.info import Config

    rows = layers(name, Config(num_classes=10, in_channels=1, image_size=32))["layers"]
    packed = bnn.pack(models.build(name, 10, 1, 32))
    report = packed.backend_report(torch.randn(1, 1, 32, 32))
    expected = [row["kernel"] for row in report if row["kind"].startswith("Packed")]
    assert [row["kernel"] for row in rows if row["kind"].startswith("Binary")] == expected
    assert {row["kernel"] for row in rows if not row["kind"].startswith("Binary")} == {"torch"}


@pytest.mark.parametrize(
    "ratios, expected",
    [
        ((1.0, 0.8, 2.0, 4.0), "bnn b is the fastest here, 2.5x faster than c, the next."),
        ((1.0, 2.0, 2.0, 0.5), "d is the fastest here, 2.0x faster than bnn a."),
        ((1.0, 2.0, 1.04, 4.0), "bnn a and c take the same time here, within 5 %."),
        ((1.0, 0.9), "Nothing to compare with"),
    ],
)
def test_the_verdict_names_the_fastest(ratios, expected):
    rows = [{"name": name, RATIO: ratio} for name, ratio in zip(("bnn a", "bnn b", "c", "d"), ratios, strict=False)]
    assert verdict(rows).startswith(expected)


def test_rows_take_turns():
    order = []
    rows = take_turns([lambda: order.append("a"), lambda: order.append("b")], 2, lambda: order.append("|"))
    assert all(len(row) == 2 and min(map(min, row)) >= 0 for row in rows)
    turns = "".join(order).split("|")
    assert len(turns) == 3 and turns[2] == "" and all(t.startswith("aa") and t.endswith("bb") for t in turns[:2])
    assert [[turn.count(name) - 1 for turn in turns[:2]] for name in "ab"] == [[*map(len, row)] for row in rows]


@pytest.mark.parametrize(
    "absent, expected",
    [
        ((), None),
        (("nncf",), "OpenVINO int8 is left out, nncf not installed: pip install 'bnn-torch[peers]'"),
        (("openvino", "nncf"), "OpenVINO is left out, openvino and nncf not installed"),
    ],
)
def test_what_is_left_out_is_said(absent, expected, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else name)
    said = _contenders.missing()
    assert said is None if expected is None else said.startswith(expected)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("reactnet8", "MODEL: expected one of reactnet_tiny, reactnet18"),
        ("reactnet8", "got 'reactnet8' (did you mean reactnet18?)"),
        ("resnet18", "MODEL: resnet18 has no binary layers"),
        ("none.safetensors", "none.safetensors: no such packed file or run folder"),
        ("runs/none", "runs/none: no such packed file or run folder"),
        (".", "is not a run folder: it has no config.json"),
        ("own.safetensors", "--image-size: own.safetensors records no image size"),
        ("own.safetensors --classes 3", "--classes: own.safetensors has its own classes"),
        ("teacher", "MODEL: teacher has no binary layers"),
        ("--batch 0", "--batch: expected at least 1, got 0"),
        ("--threads 0", "--threads: expected at least 1, got 0"),
        ("--rounds 0", "--rounds: expected at least 1, got 0"),
        ("--image-size 4", "--image-size: expected at least 8, got 4"),
        ("--classes 1", "--classes: expected at least 2, got 1"),
        ("--batches 2", "bnn bench has no flag --batches (did you mean --batch?)"),
        ("--batch two", "Error parsing --batch"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_do(arguments, expected, capsys, tmp_path, monkeypatch):
    bnn.save(bnn.pack(own_network()), tmp_path / "own.safetensors")
    run_folder(tmp_path / "teacher", "resnet_tiny")
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and expected in captured.err


def test_help_lists_the_flags(capsys):
    with pytest.raises(SystemExit):
        bench(["--help"])
    text = capsys.readouterr().out
    assert "--threads" in text and "[MODEL|FILE|RUN]" in text
