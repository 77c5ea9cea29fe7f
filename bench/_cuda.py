"""Timing on a CUDA device: events around calls that the host has queued ahead, memory cold or warm."""

import shutil
import statistics
import subprocess

import torch

from bench._harness import Call, Work, machine
from bench.chips import find

# What the device sleeps while the host queues a batch of calls: about 5 ms. Events then see the device alone.
QUEUE_CYCLES = 10_000_000


def bandwidth(properties) -> float | None:
    """GB/s that the driver's memory clock (kHz) and bus width (bits) make, at two transfers a clock."""
    clock, width = (getattr(properties, name, 0) for name in ("memory_clock_rate", "memory_bus_width"))
    return 2 * clock * width / 8 / 1e6 or None


def driver_facts(uuid: str) -> dict[str, str]:
    """Driver, highest clock and power limit of a GPU as nvidia-smi tells them; nothing where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = "--query-gpu=driver_version,clocks.max.sm,power.limit"
    command = [program, f"--id=GPU-{uuid}", query, "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if answer.returncode:
        return {}
    return dict(zip(("driver", "max_clock", "power_limit"), answer.stdout.strip().split(", "), strict=False))


class Cuda:
    """The current CUDA device.

    flush: overwrite four times the L2 cache before each call, so that every operand comes from memory.
    """

    type = "cuda"
    most_repeats = 20  # the launch queue holds about 1000 kernels

    def __init__(self, flush: bool = True) -> None:
        check()
        torch.backends.cudnn.benchmark = True  # the rival picks its fastest algorithm, while it warms up
        self.properties = torch.cuda.get_device_properties()
        self.flush = torch.empty(4 * self.properties.L2_cache_size if flush else 0, dtype=torch.int8, device="cuda")
        self.chip = find(self.properties.name)
        self.bandwidth = self.chip.bandwidth if self.chip else bandwidth(self.properties)

    def seconds(self, call: Call, repeats: int) -> float:
        """Median over `repeats` calls of the device's time."""
        for _ in range(2):
            call()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        torch.cuda._sleep(QUEUE_CYCLES)
        for start, end in events:
            self.flush.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3

    def facts(self) -> dict:
        facts = {
            **machine(),
            "gpu": self.properties.name,
            "capability": f"{self.properties.major}.{self.properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "memory": "cold" if self.flush.numel() else "warm",
            **driver_facts(str(self.properties.uuid)),
        }
        if self.bandwidth:
            facts["peak_gb_per_s"] = self.bandwidth
        if self.chip:
            facts["peak_mma_tops"] = self.chip.mma_rates[1]
            facts["peak_mma_is"] = "published" if len(set(self.chip.mma_rates)) == 1 else "assumed"
        return facts

    def shares(self, work: Work, seconds: float) -> dict[str, float]:
        """bandwidth: of memory. mma: useful multiply-adds against the highest rate that is to be expected."""
        shares = {}
        if work.bytes and self.bandwidth:
            shares["bandwidth"] = work.bytes / seconds / (self.bandwidth * 1e9)
        if work.binary and self.chip:
            shares["mma"] = 2 * work.macs / seconds / (self.chip.mma_rates[1] * 1e12)
        return shares


def check() -> None:
    """Raise where there is no device, or where the ops would run their reference on it."""
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device is visible to torch")
    if not compiled():
        raise SystemExit("bnn is built without CUDA kernels: only the pure-torch reference would run")


def compiled() -> bool:
    """Whether the CUDA kernels are in this build."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("bnn::bitpack", "CUDA")
