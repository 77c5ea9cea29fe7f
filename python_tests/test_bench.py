"""The arithmetic of bench/, and its CUDA paths as far as they go without a device: fake tensors, fake events."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from shapes import CONVS, Conv
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench import _cuda, binary_conv2d, roofline  # noqa: E402
from bench._harness import Case, Cpu, Work, line, measure  # noqa: E402
from bench.chips import CHIPS, find  # noqa: E402

FIRST = CONVS["resnet18/64x56"]
needs_cuda_build = pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="torch without CUDA has no fake CUDA tensors"
)

# GHz and int8 operations a clock and multiprocessor that the vendor's white papers give for the same boards
CLOCKS = {
    "T4": (1.59, 2048),
    "A100 40GB": (1.41, 4096),
    "L4": (2.04, 2048),
    "RTX 4090": (2.52, 2048),
    "H100 SXM": (1.83, 8192),
    "RTX 5090": (2.407, 2048),
}


def test_roofline_of_one_layer_by_hand():
    """64 channels, 56 x 56, 3 x 3: one word a pixel, nine a filter."""
    sums = roofline.expected(FIRST, CHIPS["H100 SXM"])
    assert sums.bytes == 56 * 56 * 8 + 64 * 9 * 8 + 56 * 56 * 64 * 4 == 832_512
    assert sums.mma == 196 * 8 * 3 == 4704  # 3136 / 16 pixels, 64 / 8 filters, 576 / 256 bits
    assert sums.memory_us == pytest.approx(832_512 / 3350e9 * 1e6)
    operations = 4704 * 2 * 16 * 8 * 256
    assert sums.mma_us == pytest.approx((operations / 7916e12 * 1e6, operations / 1979e12 * 1e6))
    assert sums.us == pytest.approx((sums.memory_us, sums.memory_us))
    bits = roofline.expected(FIRST, CHIPS["H100 SXM"], "words")
    assert bits.bytes == 56 * 56 * 8 + 64 * 9 * 8 + 56 * 56 * 8
    assert bits.us == bits.mma_us


@pytest.mark.parametrize(
    ("chip", "mma"), [("T4", 392 * 8 * 5), ("A100 40GB", 196 * 8 * 3), ("L4", 196 * 8 * 3), ("B200", 196 * 8 * 18)]
)
def test_mma_of_each_route(chip, mma):
    assert roofline.expected(FIRST, CHIPS[chip]).mma == mma


def test_groups_and_depthwise():
    grouped = Conv(1, 128, 4, 4, 32, 1, 1, groups=2)  # each group: 16 pixels, 16 filters, 64 bits
    assert roofline.mma_count(grouped, (16, 8, 256)) == 2 * (1 * 2 * 1)
    assert roofline.mma_count(CONVS["mobilenet/depthwise/64x56"], (16, 8, 256)) == 0


@pytest.mark.parametrize("name", CONVS)
def test_roofline_counts_what_the_op_moves(name):
    layer = CONVS[name]
    assert roofline.least_bytes(layer) == binary_conv2d.ours(layer, "cpu").bytes
    if layer.groups == 1:
        for chip in CHIPS.values():
            m, n, k = roofline.mma_shape(chip)
            assert roofline.expected(layer, chip).mma * m * n * k >= layer.macs


@pytest.mark.parametrize("name", CHIPS)
def test_table_says_that_it_is_computed(name):
    text, rest = roofline.table(name, 64), roofline.assumption(name)
    assert len(text.splitlines()) == 2 + 7
    assert "Computed, not measured" in rest and CHIPS[name].source in rest
    assert ("assumptions" in rest) == (len(set(CHIPS[name].mma_rates)) == 2)


@pytest.mark.parametrize("name", CLOCKS)
def test_peak_is_multiprocessors_times_clock(name):
    clock, operations = CLOCKS[name]
    assert CHIPS[name].int8 == pytest.approx(CHIPS[name].multiprocessors * clock * operations / 1e3, rel=2e-3)


def test_rates_of_bits():
    assert CHIPS["A100 40GB"].mma_rates == (4992, 4992)  # published, 8 x int8
    assert CHIPS["H100 SXM"].mma_rates == (1979, 4 * 1979)
    assert CHIPS["L4"].mma_rates == (242, 8 * 242)
    assert CHIPS["B200"].mma_rates == (4500, 4500)  # int8
    per_clock = {n: CHIPS[n].mma_rates[1] / CHIPS[n].multiprocessors / CLOCKS[n][0] for n in ("A100 40GB", "H100 SXM")}
    assert per_clock["A100 40GB"] == pytest.approx(per_clock["H100 SXM"], rel=2e-3)  # what the factor 4 stands for


def test_chips_are_found_by_their_whole_name():
    names = [name for chip in CHIPS.values() for name in chip.names]
    assert len(names) == len(set(names))
    assert all(find(name) is chip for chip in CHIPS.values() for name in chip.names)
    assert find("NVIDIA L40S") is None and find("NVIDIA GeForce RTX 4090 Laptop GPU") is None


class Scripted(Cpu):
    """Every call takes the seconds that it returns."""

    type, most_repeats = "scripted", 3

    def __init__(self) -> None:
        self.log: list[tuple[float, int]] = []

    def seconds(self, call, repeats) -> float:
        self.log.append((call(), repeats))
        return call()

    def shares(self, work, seconds) -> dict[str, float]:
        return {"bandwidth": 0.5}


def test_rivals_alternate_with_ours():
    device = Scripted()
    case = Case(
        "op", "shape", Work(lambda: 1e-3, bytes=4_000_000, macs=2_000_000), {"a": lambda: 2e-3, "b": lambda: 5e-4}
    )
    rows = measure(case, device, rounds=4)
    assert [seconds for seconds, _ in device.log[6:]] == [1e-3, 2e-3, 5e-4] * 4
    assert {repeats for _, repeats in device.log[6:]} == {device.most_repeats}
    assert [(row["rival"], row["ratio"]) for row in rows] == [("a", pytest.approx(2)), ("b", pytest.approx(0.5))]
    assert rows[0]["us"] == pytest.approx(1000) and rows[0]["spread"] == 0
    assert rows[0]["gb_per_s"] == pytest.approx(4) and rows[0]["gmac_per_s"] == pytest.approx(2)
    assert "2.00x" in line(rows[0]) and line(rows[0]).endswith("50.0% of bandwidth")


H100 = SimpleNamespace(name="NVIDIA H100 80GB HBM3", L2_cache_size=1024, major=9, minor=0, uuid="none")
STRANGER = SimpleNamespace(
    name="some GPU", L2_cache_size=0, major=8, minor=6, uuid="none", memory_clock_rate=1_000_000, memory_bus_width=256
)


@pytest.fixture
def fake_cuda(monkeypatch) -> Iterator[list[str]]:
    """torch.cuda without a device: tensors on the CPU, events that log; yields the log."""
    log: list[str] = []
    empty = torch.empty

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0

        def record(self) -> None:
            log.append("event")
            self.at = len(log)

        def elapsed_time(self, other) -> float:
            return other.at - self.at

    for name, value in {
        "is_available": lambda: True,
        "get_device_properties": lambda: H100,
        "Event": Event,
        "_sleep": lambda cycles: log.append("sleep"),
        "synchronize": lambda: log.append("synchronize"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(_cuda, "compiled", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: None)
    monkeypatch.setattr(torch, "empty", lambda *size, device, **rest: empty(*size, **rest))
    yield log


def test_device_is_timed_between_events(fake_cuda):
    device = _cuda.Cuda()
    assert device.flush.numel() == 4 * 1024 and torch.backends.cudnn.benchmark
    assert device.seconds(lambda: fake_cuda.append("call"), 2) == 2e-3
    once = ["event", "call", "event"]
    assert fake_cuda == ["call", "call", "sleep", *once, *once, "synchronize"]
    assert _cuda.Cuda(flush=False).flush.numel() == 0


def test_shares_of_a_known_and_of_an_unknown_chip(fake_cuda, monkeypatch):
    work = Work(lambda: None, bytes=3350, macs=7916_000, binary=True)
    assert _cuda.Cuda().shares(work, 1e-6) == pytest.approx({"bandwidth": 1e-3, "mma": 2e-3})
    assert _cuda.Cuda().facts()["peak_mma_is"] == "assumed"
    assert _cuda.Cuda().shares(replace(work, binary=False), 1e-6) == pytest.approx({"bandwidth": 1e-3})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: STRANGER)
    device = _cuda.Cuda()
    assert device.bandwidth == 64  # 1 GHz, two transfers, 32 bytes
    assert device.shares(work, 1e-6) == pytest.approx({"bandwidth": 3350e-9 / 64e-6})
    assert "peak_mma_tops" not in device.facts()


def test_refuses_to_time_the_reference(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        _cuda.Cuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_cuda, "compiled", lambda: False)
    with pytest.raises(SystemExit, match="without CUDA kernels"):
        _cuda.Cuda()


@needs_cuda_build
@pytest.mark.parametrize("name", ("bitpack", "binary_conv2d", "binary_linear"))
def test_cuda_cases_fit_together(name):
    """Ours and every rival run on fake CUDA tensors; the gradients of the other concepts need a driver even so."""
    with FakeTensorMode():
        for case in importlib.import_module(f"bench.{name}").cases("cuda"):
            results = tree_leaves([case.ours.call(), *(call() for call in case.rivals.values())])
            assert all(result.device.type == "cuda" for result in results), case.shape
            assert case.rivals and case.ours.bytes, case.shape


@needs_cuda_build
@pytest.mark.parametrize("layer", [FIRST, replace(CONVS["resnet18/256-512x14/2"], n=64)], ids=("1", "64"))
def test_int8_product_has_the_size_of_the_convolution(layer):
    with FakeTensorMode():
        product = binary_conv2d.rivals(layer, "cuda")["_int_mm int8"]()
        assert product.shape == (layer.n * layer.output[0] * layer.output[1], layer.k)


def test_fused_form_and_its_rival_compute_the_same():
    work, eager = binary_conv2d.fused(replace(FIRST, h=6, w=6), "cpu")
    torch.testing.assert_close(work.call()[0], eager(), rtol=1e-4, atol=1e-3)
