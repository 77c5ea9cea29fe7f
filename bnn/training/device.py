"""Which device, which precision, how many processes."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Device:
    """Where and how a run computes; made by `start`."""

    accelerator: "Accelerator"
    bf16: bool

    @property
    def torch_device(self) -> torch.device:
        return self.accelerator.device

    @property
    def main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def processes(self) -> int:
        return self.accelerator.num_processes

    def autocast(self, enabled: bool = True) -> torch.autocast:
        """The context in which the run computes forward passes."""
        return torch.autocast(self.torch_device.type, dtype=torch.bfloat16, enabled=enabled and self.bf16)

    @property
    def resolved(self) -> dict[str, object]:
        """For config.json."""
        return {
            "device": self.torch_device.type,
            "precision": "bf16" if self.bf16 else "no",
            "processes": self.processes,
        }


def start(device: str = "auto", precision: str = "auto") -> Device:
    """Join the processes of this run (one, or those torchrun started) and choose device and precision.

    Args:
        device: "cpu", "cuda", or "auto": CUDA if there is one.
        precision: "bf16" (autocast), "no" (float32), or "auto": bf16 where the processor or GPU computes it natively.

    Raises:
        ValueError: there is no CUDA device, the name is unknown, or the launcher started fewer processes than it said.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device: expected auto, cpu or cuda, got {device!r}")
    if precision not in ("auto", "bf16", "no"):
        raise ValueError(f"--precision: expected auto, bf16 or no, got {precision!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device here; use --device cpu")
    cpu = device == "cpu" or not torch.cuda.is_available()
    _refuse_lone_process()
    return Device(_accelerator(cpu), native_bf16(cpu) if precision == "auto" else precision == "bf16")


def _accelerator(cpu: bool) -> "Accelerator":
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DataLoaderConfiguration

    known = PartialState._shared_state.get("device")
    if known is not None and (known.type == "cpu") != cpu:  # Accelerate keeps the first choice of a process otherwise
        AcceleratorState._reset_state(reset_partial_state=True)
    # Autocast is entered in _Step: Accelerate's own setting is fixed for a process, ours belongs to a run.
    return Accelerator(
        cpu=cpu, mixed_precision="no", dataloader_config=DataLoaderConfiguration(split_batches=True), rng_types=[]
    )


def _refuse_lone_process() -> None:
    """`accelerate launch --cpu --num_processes N` starts one process and no error unless it finds mpirun."""
    several = "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    ranked = any(name in os.environ for name in ("RANK", "LOCAL_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"))
    if several and not ranked:
        raise ValueError(
            "accelerate launch --cpu starts one process whatever --num_processes says; "
            "use torchrun --nproc_per_node N -m bnn ... --device cpu"
        )


def native_bf16(cpu: bool) -> bool:
    """Whether bfloat16 multiplies run in hardware (AVX512-BF16 or AMX; NVIDIA from Ampere on)."""
    if not cpu:
        return torch.cuda.get_device_capability() >= (8, 0)
    probes = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(probe is not None and probe() for probe in probes)
