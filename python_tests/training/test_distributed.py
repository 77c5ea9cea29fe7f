"""Two real processes over gloo compute what one computes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bnn.training.distributed import SyncBatchNorm, mean_across, synchronize_batch_norm

WORKER = Path(__file__).with_name("worker.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def test_two_processes_train_as_one_and_survive_a_kill(python, tmp_path):
    """float64, so that the order of sums can't grow into a difference; batch norm over both halves of the batch."""
    assert python(WORKER, "one").returncode == 0
    assert python(*TORCHRUN, WORKER, "two", "kill").returncode != 0
    assert (tmp_path / "two" / "state" / "phase.pt").exists()
    done = python(*TORCHRUN, WORKER, "two")
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name].double(), two[name].double(), rtol=1e-7, atol=1e-9), name


def test_two_processes_of_the_command_train_a_binary_network(python, tmp_path):
    flags = "train plain --num-classes 10 --n-max 40 --imbalance 10 --image-size 16 --batch-size 32 --epochs 1"
    flags += " --precision no --device cpu --out"
    one = python("-m", "bnn", *flags.split(), "one")
    two = python(*TORCHRUN, "-m", "bnn", *flags.split(), "two")
    assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
    assert two.stdout.count("| reactnet_tiny, ce |") == 1  # the main process alone prints
    first, second = (json.loads((tmp_path / name / "metrics.jsonl").open().readline()) for name in ("one", "two"))
    assert first["step"] == second["step"] == 1
    # A value that is 0 up to rounding may get the other sign, and a flipped sign spreads: no closer than percents.
    assert second["loss"] == pytest.approx(first["loss"], rel=0.05)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert {name: value.shape for name, value in a.items()} == {name: value.shape for name, value in b.items()}


def test_accelerate_launch_that_starts_one_process_is_refused(python, environment):
    lone = {**environment, "ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}
    done = python("-m", "bnn", "train", "plain", env=lone)
    assert done.returncode == 2
    assert "torchrun --nproc_per_node" in done.stderr


def test_conversion_keeps_names_parameters_and_results_with_one_process():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4)), nn.Flatten(), nn.BatchNorm1d(16))
    assert synchronize_batch_norm(net, torch.device("cpu")) is net
    assert isinstance(net[1][0], nn.BatchNorm2d)  # one process: untouched
    layer = SyncBatchNorm(4)
    x = torch.randn(5, 4, 6, 6)
    twin = nn.BatchNorm2d(4)
    assert torch.equal(layer(x), twin(x))
    assert layer.state_dict().keys() == twin.state_dict().keys()
    assert torch.equal(mean_across(x), x)
