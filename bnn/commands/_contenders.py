"""What `bnn bench` compares: the packed network and its full-precision twin in torch and OpenVINO, each in a file."""

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn

import bnn
from bnn.nn._folding import fold_norms
from bnn.nn._trace import trace

Shape = tuple[int, int, int, int]
CALIBRATION_BATCHES = 8  # of noise: int8 here has the speed of int8, its accuracy means nothing


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    engine: what runs it. precision: of its arithmetic; "" leaves it to the engine. path: the network, ready to load.
    """

    name: str
    engine: Literal["bnn", "torch", "openvino"]
    precision: Literal["", "f32", "bf16"]
    path: Path

    def bytes(self) -> int:
        """Size of the file that holds the weights."""
        return (self.path.with_suffix(".bin") if self.engine == "openvino" else self.path).stat().st_size

    def load(self, x: Tensor, threads: int) -> Callable[[], Any]:
        """Load the file; returns what computes the logits of x, float32 [N, C, H, W], on `threads` threads."""
        torch.set_num_threads(threads)
        if self.engine == "openvino":
            return _openvino(self, x, threads)
        network = bnn.load(self.path) if self.engine == "bnn" else torch.load(self.path, weights_only=False)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32

        @torch.inference_mode()
        def run() -> Tensor:
            return network(x.to(dtype))

        return run


def _openvino(contender: Contender, x: Tensor, threads: int) -> Callable[[], Any]:
    import openvino

    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if contender.precision:
        options["INFERENCE_PRECISION_HINT"] = contender.precision
    request = openvino.Core().compile_model(contender.path, "CPU", options).create_infer_request()
    array = x.numpy()
    return lambda: request.infer([array], share_inputs=True, share_outputs=True)


def missing() -> str | None:
    """What of the extra `peers` is not installed, and what that leaves out."""
    absent = [name for name in ("openvino", "nncf") if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    rows = "OpenVINO" if "openvino" in absent else "OpenVINO int8"
    return f"{rows} is left out, {' and '.join(absent)} not installed: pip install 'bnn-torch[peers]'"


def write_packed(packed: dict[str, bnn.PackedModel], folder: Path) -> list[Contender]:
    """The packed network itself, in every form."""
    files = {form: bnn.save(network, folder / f"{form}.safetensors") for form, network in packed.items()}
    return [Contender(f"bnn, {form}", "bnn", "", file) for form, file in files.items()]


def write_torch(twin: nn.Module, folder: Path) -> list[Contender]:
    """The twin in torch at its best without a compiler: norms folded, weights channels-last, all in bfloat16 or not."""
    rows = []
    steps, layers = trace(twin.eval())
    fold_norms(steps, layers)
    folded: Any = bnn.PackedModel(steps, layers).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    for name, precision, dtype in (("fp32", "f32", torch.float32), ("bf16", "bf16", torch.bfloat16)):
        path = folder / f"torch-{name}.pt"
        torch.save(folded.to(dtype), path)
        rows.append(Contender(f"torch {name}", "torch", precision, path))  # type: ignore[arg-type]
    return rows


def write_openvino(twin: nn.Module, shape: Shape, folder: Path) -> list[Contender]:
    """The twin in OpenVINO, as far as its packages are installed."""
    if importlib.util.find_spec("openvino") is None:
        return []
    with _quiet():
        import openvino

        network = openvino.convert_model(twin.eval(), example_input=torch.zeros(shape), input=[shape])
        rows = [
            Contender("OpenVINO fp32", "openvino", "f32", folder / "openvino-fp32.xml"),
            Contender("OpenVINO bf16", "openvino", "bf16", folder / "openvino-bf16.xml"),
        ]
        for row in rows:
            openvino.save_model(network, row.path, compress_to_fp16=row.precision == "bf16")
        if importlib.util.find_spec("nncf") is not None:
            import nncf

            noise = nncf.Dataset([torch.randn(shape).numpy() for _ in range(CALIBRATION_BATCHES)])
            rows.append(Contender("OpenVINO int8", "openvino", "", folder / "openvino-int8.xml"))
            openvino.save_model(nncf.quantize(network, noise, subset_size=CALIBRATION_BATCHES), rows[-1].path)
    return rows


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what these packages print, and without what they report to their maker's server unless in CI."""
    logging.disable(logging.WARNING)
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            warnings.catch_warnings(action="ignore"),
            patch.dict(os.environ, {"CI": "true"}),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)


def peak_memory(contenders: list[Contender], shape: Shape, threads: int) -> Iterator[int | None]:
    """Bytes by which the resident set of a process grows, at most, that loads and runs one of them alone; of each."""
    with ThreadPoolExecutor(os.cpu_count()) as waiting:
        yield from waiting.map(lambda contender: _in_a_process(contender, shape, threads), contenders)


def _in_a_process(contender: Contender, shape: Shape, threads: int) -> int | None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_growth, contender, shape, threads).result()


def _growth(contender: Contender, shape: Shape, threads: int) -> int | None:
    if contender.engine == "openvino":
        importlib.import_module("openvino")
    x = torch.randn(shape)
    before = _resident_peak()
    run = contender.load(x, threads)
    run()
    run()
    after = _resident_peak()
    return None if before is None or after is None else after - before


def _resident_peak() -> int | None:
    """Largest resident set of this program so far. Not ru_maxrss, in which a child inherits its parent's."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
