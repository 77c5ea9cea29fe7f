"""What `bench/peers.py` times: ours by instruction set, torch, and libraries in environments of their own.

Each has a name and seconds(repeats): the mean time of one convolution.
"""

import json
import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

import bnn
from bench._harness import Call
from bench._peaks import peak
from bench.binary_conv2d import floats
from bench.peer_server import mean_seconds
from bnn import ops
from python_tests.shapes import Conv

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "build" / "peers"
SERVERS = ("openvino", "larq")
TORCH = ("float32", "bfloat16", "onednn int8")


class Peer(Protocol):
    name: str

    def seconds(self, repeats: int) -> float: ...


@dataclass
class Here:
    """A call in this process; isa: what ours runs on."""

    name: str
    call: Call
    isa: str = ""

    def seconds(self, repeats: int) -> float:
        if self.isa:
            bnn.isa.use(self.isa)
        return mean_seconds(self.call, repeats, torch.get_num_threads())


@dataclass
class Peak:
    """The time of the layer at a peak of _peaks.UNITS, whatever the repeats."""

    unit: str
    macs: int

    @property
    def name(self) -> str:
        return f"peak {self.unit}"

    def seconds(self, repeats: int) -> float:
        return self.macs / peak(self.unit)


class Server:
    """A library in build/peers/NAME, a child process that answers lines: see bench/peer_server.py.

    version: of the library.
    """

    def __init__(self, name: str, command: list[str | Path], cwd: Path = ROOT) -> None:
        self.name = name
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=cwd, env=environment
        )
        self.version = self._answer()

    def ask(self, request: str) -> str:
        with suppress(BrokenPipeError):
            print(request, file=self._child.stdin, flush=True)
        return self._answer()

    def load(self, layer: Conv) -> None:
        """Raises ValueError: the library can't, and why."""
        self.ask("load " + json.dumps({**asdict(layer), "macs": layer.macs}))

    def seconds(self, repeats: int) -> float:
        return float(self.ask(f"run {repeats}"))

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()

    def _answer(self) -> str:
        answer = self._child.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"{self.name}: its process ended with {self._child.wait()}")
        if answer.startswith("error "):
            raise ValueError(f"{self.name}: {answer.removeprefix('error ')}")
        return answer


def command(name: str, threads: int) -> list[str | Path] | None:
    """What starts a server; None where `make peers` hasn't made its environment."""
    python = ENVIRONMENTS / name / "bin" / "python"
    return [python, "-m", f"bench.peer_{name}", str(threads)] if python.exists() else None


@contextmanager
def servers(threads: int) -> Iterator[list[Server]]:
    """Those that are installed, for the time of the context; a line on those that aren't."""
    with ExitStack() as stack:
        found = []
        for name in SERVERS:
            start = command(name, threads)
            if start is None:
                print(f"{name} is left out: run make peers")
                continue
            found.append(Server(name, start))
            stack.callback(found[-1].close)
        yield found


def int8(x: Tensor, w: Tensor, step: float, layer: Conv) -> Call:
    """uint8 image and int8 filters to uint8, sums divided by `step`: oneDNN's convolution, filters packed before.

    Of torch's two ways to it, faster than `torch.ops.onednn.qconv2d_pointwise`, whose call costs 10 to 20 us more.
    """
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, "onednn"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its quantised tensors deprecated
        image = torch._make_per_tensor_quantized_tensor(x.contiguous(memory_format=torch.channels_last), 1.0, 0)
        ones, zeros = torch.ones(layer.k, dtype=torch.double), torch.zeros(layer.k, dtype=torch.long)
        filters = torch._make_per_channel_quantized_tensor(w, ones, zeros, 0)
        packed = torch.ops.quantized.conv2d_prepack(filters, torch.zeros(layer.k), *layer.geometry[:4])
    torch.backends.quantized.engine = before
    return lambda: torch.ops.quantized.conv2d.new(image, packed, step, 0)


def operands(layer: Conv) -> tuple[Tensor, Tensor, float]:
    """Image, filters and step for `int8`; products of two fit in 16 bits, as processors before VNNI need them."""
    x = torch.randint(128, (layer.n, layer.c, layer.h, layer.w), dtype=torch.uint8)
    w = torch.randint(-127, 128, (layer.k, layer.c // layer.groups, layer.r, layer.s), dtype=torch.int8)
    return x, w, 20.0 * (layer.macs / (layer.n * layer.k * layer.output[0] * layer.output[1])) ** 0.5


def torch_peers(layer: Conv) -> list[Here]:
    """By the names of TORCH."""
    x, w = floats(layer, "cpu")
    xb, wb = x.bfloat16(), w.bfloat16()
    geometry = layer.geometry[:4]
    calls = (
        lambda: F.conv2d(x, w, None, *geometry),
        lambda: F.conv2d(xb, wb, None, *geometry),
        int8(*operands(layer), layer),
    )
    return [Here(name, call) for name, call in zip(TORCH, calls, strict=True)]


def ours(layer: Conv) -> tuple[Call, Call, str]:
    """Words to words; the same words by F.conv2d; the kernel that runs."""
    x, w = floats(layer, "cpu")
    words, filters = ops.bitpack(x), ops.bitpack(w)
    scale, bias = torch.randn(2, layer.k)
    prepared = ops.binary_conv2d_prepare(filters, layer.c, *layer.geometry, scale, bias)
    shape = (layer.k, *layer.output)

    def call() -> Tensor:
        return ops.binary_conv2d_prepared(words, prepared, shape)[1]

    def expected() -> Tensor:
        y = F.conv2d(x, w, None, *layer.geometry[:4]) * scale.view(-1, 1, 1) + bias.view(-1, 1, 1)
        return ops.bitpack(y)

    return call, expected, ops.binary_conv2d_route(words, filters, layer.c, *layer.geometry, words=True)


def check(layer: Conv) -> None:
    """On one image: ours equals F.conv2d on every instruction set, oneDNN's int8 is off by a step at most."""
    call, expected, _ = ours(layer)
    words = expected()
    for isa in bnn.isa.available()[1:]:
        bnn.isa.use(isa)
        if not torch.equal(call(), words):
            raise AssertionError(f"{layer}: {isa} differs from F.conv2d")
    x, w, step = operands(layer)
    sums = F.conv2d(x.double(), w.double(), None, *layer.geometry[:4])
    error = (int8(x, w, step, layer)().int_repr() - (sums / step).clamp(0, 255)).abs().max()
    if error > 1:
        raise AssertionError(f"{layer}: oneDNN int8 is off by {error} steps")
