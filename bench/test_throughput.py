"""`pytest bench --benchmark-only`: throughput of every op on the shapes of python_tests/shapes.py, by wall clock."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from bench import binary_conv2d, binary_linear, bitpack, multires_pool2d
from bench._cuda import compiled
from bench._harness import Work
from python_tests.shapes import CONVS, LINEARS, PACKS, POOLS

pytest.importorskip("pytest_benchmark")
pytestmark = pytest.mark.benchmark(max_time=0.25, min_rounds=5, warmup=True, warmup_iterations=2)

CUDA = torch.cuda.is_available() and compiled()
CALLS = {"cpu": 1, "cuda": 32}  # between two looks at the clock: a device is waited for once
needs_cuda = pytest.mark.skipif(not CUDA, reason="no CUDA device, or no CUDA kernels in this build")


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """One thread, as `python -m bench`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
def device(request) -> str:
    return request.param


def run(benchmark, work: Work, device: str) -> None:
    """Time batches of calls; the rate of one call goes into extra_info."""
    calls = CALLS[device]

    def batch() -> None:
        for _ in range(calls):
            work.call()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.group = benchmark.name.partition("[")[0]
    benchmark.extra_info |= {"calls": calls, "device": device}
    benchmark(batch)
    if benchmark.stats:  # none under --benchmark-disable
        seconds = benchmark.stats.stats.median / calls
        benchmark.extra_info |= {"gmac_per_s": work.macs / seconds / 1e9, "gb_per_s": work.bytes / seconds / 1e9}


@pytest.mark.parametrize("batch", (1, 64))
@pytest.mark.parametrize("name", CONVS)
def test_binary_conv2d(benchmark, name, batch, device):
    run(benchmark, binary_conv2d.ours(replace(CONVS[name], n=batch), device), device)


@pytest.mark.parametrize("name", LINEARS)
def test_binary_linear(benchmark, name, device):
    run(benchmark, binary_linear.ours(LINEARS[name], device), device)


@pytest.mark.parametrize("name", PACKS)
def test_bitpack(benchmark, name, device):
    run(benchmark, bitpack.ours(bitpack.signs(PACKS[name], device)), device)


@pytest.mark.parametrize("name", POOLS)
def test_multires_pool2d(benchmark, name, device):
    run(benchmark, multires_pool2d.ours(multires_pool2d.image(POOLS[name], device), POOLS[name]), device)
