"""`bnn train chain`: real steps on digits in a process of its own; wrong files in this process."""

import json
import os
import signal
from pathlib import Path

import pytest
from processes import start as start_process

import bnn
from bnn.cli import main

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(bnn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
CHAIN = """
data = "digits"
n-max = 60
imbalance = 10
image-size = 16
seed = 1

[[step]]
recipe = "plain"
epochs = 2
batch-size = 32
precision = "no"

[[step]]
recipe = "vtst"
steps = 600
latent-features = 8
controls = []

[[step]]
recipe = "p2p"
strength = 0.5
"""


def start(folder, *flags):
    return start_process("train", "chain", "chain.toml", *flags, cwd=folder, environment=ENVIRONMENT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a chain that was left alone, and what it printed."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "chain.toml").write_text(CHAIN)
    stdout, stderr = (process := start(folder, "--json")).communicate()
    assert process.returncode == 0, stderr
    return folder, json.loads(stdout)


def test_every_step_works_on_the_run_before_and_is_packed(whole):
    folder, rows = whole
    out = folder / "runs" / "chain"
    assert [row["name"] for row in rows] == ["1-plain", "2-vtst", "3-p2p"]
    assert json.loads((out / "table.json").read_text()) == rows and "| 3-p2p" in (out / "table.md").read_text()
    for row, of_run in zip(rows, (0, -1, 1), strict=True):
        trained = json.loads((out / row["name"] / "table.json").read_text())[of_run]
        assert row["accuracy"] == pytest.approx(trained["accuracy"], abs=0.5)  # packed against training weights
        assert row["ece"] == pytest.approx(trained["ece"], abs=0.5)
        assert row["size MB"] == (out / f"{row['name']}.safetensors").stat().st_size / 1e6 and row["ms"] > 0
    configs = [json.loads((out / row["name"] / "config.json").read_text()) for row in rows]
    assert [c.get("from") for c in configs] == [None, "runs/chain/1-plain", "runs/chain/2-vtst"]
    assert {c["seed"] for c in configs} == {1} and configs[2]["strength"] == 0.5
    last = bnn.load(out / "3-p2p.safetensors")
    assert last.posthoc is not None and any("VariationalHead" in type(m).__name__ for m in last.modules())


def test_an_interrupted_chain_continues_where_it_stood(whole, tmp_path):
    (tmp_path / "chain.toml").write_text(CHAIN)
    process = start(tmp_path)
    for awaited in ("[2/3]", "vtst epoch 1/"):
        while awaited not in (line := process.stderr.readline()):
            assert line, f"the chain ended before {awaited}"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.endswith("bnn: interrupted; continue with: bnn train chain chain.toml --resume\n")

    stdout, stderr = (process := start(tmp_path, "--resume", "--json")).communicate()
    assert process.returncode == 0, stderr
    assert "train epoch" not in stderr  # the first step was finished
    resumed, undisturbed = ([{**row, "ms": 0} for row in rows] for rows in (json.loads(stdout), whole[1]))
    assert resumed == undisturbed


def fails(capsys, *arguments):
    assert main(["train", "chain", *map(str, arguments)]) == 2
    return capsys.readouterr().err.strip()


FIRST = '[[step]]\nrecipe = "plain"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step = 3", "expected [[step]] tables, each with a recipe"),
        ("[[step]", "is not TOML"),
        ("[[step]]\nepochs = 3", "step 1: expected recipe = one of plain, candle, vtst, ke, granularity, retrain, p2p"),
        ('[[step]]\nrecipe = "plian"', "ke, granularity, retrain, p2p; got 'plian'"),
        (f"{FIRST}epoch = 3", "step 1, plain has no flag --epoch (did you mean --epochs?)"),
        (f'{FIRST}epochs = "many"', "step 1, plain: "),
        (f"temprature = 2\n{FIRST}", "no step has the field temprature"),
        (f'{FIRST}out = "x"', "step 1: leave out out: the chain sets it"),
        (f'{FIRST}[[step]]\nrecipe = "p2p"\nfrom = "x"', "step 2: leave out from: the chain sets it"),
        ('[[step]]\nrecipe = "vtst"', "step 1: vtst needs a finished run"),
        (f'{FIRST}[[step]]\nrecipe = "ke"', "step 2: ke can't start from another run"),
        (f'{FIRST}[[step]]\nrecipe = "p2p"\n[[step]]\nrecipe = "vtst"', "step 3: nothing can follow p2p"),
    ],
)
def test_a_chain_that_can_not_work_is_refused_before_anything_is_trained(text, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chain.toml").write_text(text)
    assert message in fails(capsys, "chain.toml")
    assert not (tmp_path / "runs").exists()


def test_a_missing_file_and_a_folder_in_use_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nowhere.toml: no such file" in fails(capsys, "nowhere.toml")
    (tmp_path / "chain.toml").write_text(FIRST)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    assert "used exists: add --resume" in fails(capsys, "chain.toml", "--out", "used")
    assert "exclude each other" in fails(capsys, "chain.toml", "--out", "used", "--resume", "--overwrite")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in fails(capsys, "chain.toml")
