"""`bnn sweep`: grids by the real command, one of them killed."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bnn
from bnn import plotting
from bnn.cli import main
from bnn.commands import sweep

TINY = "--data digits --n-max 20 --imbalance 10 --image-size 8 --batch-size 32 --device cpu --precision no".split()
WITHOUT_PLOTS = """
import sys
from bnn import plotting
from bnn.cli import main
plotting.reliability = plotting.per_class = lambda *_: None
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    for name in ("reliability", "per_class"):
        monkeypatch.setattr(plotting, name, lambda *_: None)


def commands(capsys, *arguments):
    assert main(["sweep", *arguments, "--dry-run"]) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def test_a_killed_sweep_continues_where_it_stood(tmp_path, capsys, monkeypatch):
    arguments = ["sweep", "plain", *TINY, "--epochs", "4", "--seed", "0", "1", "--out", "grid", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(bnn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WITHOUT_PLOTS, *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=-3, stderr=-3)
    first, second = tmp_path / "grid" / "seed-0", tmp_path / "grid" / "seed-1"
    deadline = time.monotonic() + 400
    while not (second / "state" / "train.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (second / "table.json").exists()
    before = (first / "table.json").stat().st_mtime_ns

    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2  # neither --resume nor --overwrite
    assert "grid exists: add --resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    captured = capsys.readouterr()
    assert (first / "table.json").stat().st_mtime_ns == before
    assert "train epoch 1/4" not in captured.err and "train epoch 4/4" in captured.err
    record = json.loads(captured.out)
    assert record == json.loads((tmp_path / "grid" / "sweep.json").read_text())
    assert [run["status"] for run in record["runs"]] == ["finished"] * 2
    assert [run["fields"] for run in record["runs"]] == [{"seed": "0"}, {"seed": "1"}]
    tables = [json.loads((folder / "table.json").read_text())[0] for folder in (first, second)]
    assert record["table"][0]["mean"] == pytest.approx(sum(table["mean"] for table in tables) / 2)
    difference = abs(tables[0]["mean"] - tables[1]["mean"])
    assert record["table"][0]["mean_std"] == pytest.approx(difference / 2**0.5) and record["table"][0]["runs"] == 2

    assert main([*arguments, "--resume", "--lr", "0.1"]) == 1  # other runs than those that were begun
    assert "grid/seed-0 failed: --resume: lr was 0.0025" in capsys.readouterr().err


def test_a_failed_run_loses_no_other(tmp_path, capsys):
    out = tmp_path / "grid"
    tiny = ["sweep", "plain", *TINY, "--epochs", "1", "--lr", "0", "0.001", "--out", str(out)]
    assert main(tiny) == 1
    captured = capsys.readouterr()
    assert "| lr-0.001: reactnet_tiny, ce |" in captured.out and "lr-0:" not in captured.out
    assert f"bnn: {out / 'lr-0_seed-0'} failed: --lr: expected a number above 0; got 0.0" in captured.err
    assert [run["status"] for run in json.loads((out / "sweep.json").read_text())["runs"]] == ["failed", "finished"]


def test_a_grid_has_every_combination_seeds_last(capsys):
    found = commands(
        capsys, "plain", "--seed", "0", "1", "--loss", "ce", "balanced_softmax", "--epochs", "4", "--out", "x"
    )
    assert [line[-1] for line in found] == [
        "x/loss-ce_seed-0", "x/loss-ce_seed-1", "x/loss-balanced_softmax_seed-0", "x/loss-balanced_softmax_seed-1",
    ]  # fmt: skip
    assert found[0] == "bnn train plain --loss ce --epochs 4 --seed 0 --out x/loss-ce_seed-0".split()


def test_lists_stay_together_and_both_forms_of_a_switch_are_two(capsys):
    found = commands(
        capsys, "candle", "--teacher-resolutions", "16", "32", "--mixup", "--no-mixup", "--data=folder:a/b"
    )
    assert [line[-1] for line in found] == ["runs/sweep-candle/mixup_seed-0", "runs/sweep-candle/no-mixup_seed-0"]
    assert all(line[3:6] == ["--teacher-resolutions", "16", "32"] for line in found)
    paths = commands(capsys, "p2p", "--from", "runs/a", "../b")
    assert [line[-1] for line in paths] == ["runs/sweep-p2p/from-runs-a", "runs/sweep-p2p/from-..-b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("plan --seed 1", "recipe: expected one of plain"),
        ("plain --epoch 3 4", "bnn sweep plain has no flag --epoch (did you mean --epochs?)"),
        ("plain --epochs three", "Error parsing --epochs: invalid literal"),
        ("plain --seed 0 0", "runs/sweep-plain/seed-0 would hold two runs: give each value once"),
        ("plain --resume --overwrite", "exclude each other"),
        ("plain --seed", "Missing value for argument '--seed'"),
        ("--seed 1", "bnn sweep: "),
    ],
)
def test_a_grid_that_can_not_work_is_refused_before_anything_is_trained(
    arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *arguments.split()]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_table_has_mean_and_std_of_each_row():
    cells = [
        sweep.Cell(None, {"loss": "ce", "seed": str(seed)}, [], [{"name": "x", "split": "test", "mean": value}])
        for seed, value in enumerate((10.0, 20.0, 30.0))
    ]
    rows = sweep.summary(cells)
    assert rows == [{"name": "loss-ce: x", "runs": 3, "mean": 20.0, "mean_std": 10.0}]
    assert sweep.rounded(rows)[0] | {"mean": "20.00 ± 10.00", "runs": 3} == sweep.rounded(rows)[0]
