"""Images of noise, and a runner for the `bnn` command and for worker scripts in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bnn
from bnn.data import TensorImages


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of a process that finds this bnn and uses one thread."""
    return {**os.environ, "PYTHONPATH": str(Path(bnn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def images() -> TensorImages:
    """256 grey images of noise, 16 x 16, in 10 classes."""
    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (256, 1, 16, 16), generator=random, dtype=torch.uint8)
    return TensorImages(pixels, torch.randint(0, 10, (256,), generator=random))


@pytest.fixture
def python(tmp_path: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess]:
    """Run `python ARGUMENTS` in tmp_path."""

    def call(*arguments: str, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, *map(str, arguments)]
        settings = {"cwd": tmp_path, "env": environment, "text": True, "capture_output": True, "timeout": 240}
        return subprocess.run(command, **{**settings, **options})

    return call
