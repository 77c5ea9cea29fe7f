"""Where the fixtures of conftest.py send the ops: the CPU's instruction sets, emulated CUDA, CUDA.

`emulated-*` is the CUDA backend, glue and kernels, compiled for the CPU (csrc/cuda/emulator). It and `cuda` take the
CPU's place in the dispatcher, so that one suite tests every backend with CPU tensors.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

import bnn
from bnn.ops._library import references

ROOT = Path(__file__).resolve().parents[1]

# Compute capability, which chooses the kernels, and the order in which threads and blocks get their turn.
EMULATED = ("emulated-80-forward", "emulated-75-reverse", "emulated-100-random1", "emulated-90-random2",
            "emulated-120-random3")  # fmt: skip
# Their references need no kernel of their own on other backends.
CPU_ALONE = ("binary_conv2d_prepare", "binary_conv2d_prepared", "int8_conv2d", "run_steps")
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@contextmanager
def using(name: str) -> Iterator[str]:
    """Ops on CPU tensors run on the named backend; skips the test where there is none."""
    if name in bnn.isa.available():
        before = bnn.isa.current()
        bnn.isa.use(name)
        assert bnn.isa.current() == name
        try:
            yield name
        finally:
            bnn.isa.use(before)
        return
    if name == "cuda":
        kernel = _on_cuda
    else:
        _, capability, order, seed = re.fullmatch(r"(emulated)-(\d+)-([a-z]+)(\d*)", name).groups()
        emulated().configure(int(capability), order, int(seed or 0))
        kernel = partial(getattr, emulated())
    override = torch.library.Library("bnn", "FRAGMENT")
    try:
        for op, reference in references.items():
            override.impl(op, reference if op in CPU_ALONE else kernel(op), "CPU", allow_override=True)
        yield name
    finally:
        override._destroy()


@cache
def emulated() -> Any:
    """torch.ops.bnn_emulated: the ops of bnn and configure(capability, order, seed)."""
    given = os.environ.get("BNN_EMULATED_LIBRARY")  # a build with sanitizers, say
    torch.ops.load_library(given or str(_build()))
    for op in references:
        _definitions.define(str(getattr(torch.ops.bnn, op).default._schema).removeprefix("bnn::"))
    return torch.ops.bnn_emulated


_definitions = torch.library.Library("bnn_emulated", "FRAGMENT")


def _build() -> Path:
    """Builds build/emulated, where it isn't up to date; one process at a time."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake, ninja = (shutil.which(tool, path=path) for tool in ("cmake", "ninja"))
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    for needed, what in ((cmake, "cmake"), (compiler, "C++ compiler"), ((ROOT / "csrc").is_dir(), "C++ sources")):
        if not needed:
            pytest.skip(f"emulated CUDA: no {what}")
    folder = ROOT / "build" / "emulated"
    folder.mkdir(parents=True, exist_ok=True)
    configure = [cmake, "-S", ROOT, "-B", folder, "-DBNN_EMULATED=ON", "-DBNN_PYTHON=OFF",
                 f"-DBNN_TORCH_DIR={Path(torch.__file__).parent}"]  # fmt: skip
    if ninja:
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (configure, [cmake, "--build", folder, "--target", "bnn_emulated"]):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return folder / "libbnn_emulated.so"


def _on_cuda(op: str) -> Callable:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map_only(torch.Tensor, to_cuda, (args, kwargs))
        return tree_map_only(torch.Tensor, torch.Tensor.cpu, getattr(torch.ops.bnn, op)(*args, **kwargs))

    return call


def to_cuda(x: torch.Tensor) -> torch.Tensor:
    """The same storage offset and strides on the device, also where elements overlap."""
    storage = x.untyped_storage().cuda()
    return torch.empty(0, dtype=x.dtype, device="cuda").set_(storage, x.storage_offset(), x.size(), x.stride())
