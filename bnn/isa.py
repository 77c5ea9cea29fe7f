"""Which kernels run on the CPU: the pure-torch reference, or the compiled ones for one instruction set.

The choice is made once, from what the processor has; the environment variable `BNN_ISA` or `use` overrides it.
"""

import os

import torch

from bnn import _extension
from bnn.ops import _library

_reference: torch.library.Library | None = None


def available() -> list[str]:
    """Names that `use` accepts on this machine, slowest first; "reference" is always there."""
    return ["reference", *(_extension.module.isa_available() if _extension.module else [])]


def current() -> str:
    """The name of what CPU ops run on now."""
    if _reference is not None or _extension.module is None:
        return "reference"
    return _extension.module.isa_current()


def current_on(device: torch.device) -> str:
    """The same for ops on a device: "cuda" on a GPU with CUDA kernels in this build, "reference" without."""
    if device.type == "cpu":
        return current()
    if device.type == "cuda" and torch._C._dispatch_has_kernel_for_dispatch_key("bnn::bitpack", "CUDA"):
        return "cuda"
    return "reference"


def use(name: str) -> None:
    """Make CPU ops run on `name`, one of `available()`.

    Raises:
        ValueError: this machine or build lacks `name`; the message lists those it has.
    """
    global _reference
    if name not in available():
        why = f" ({_extension.error})" if _extension.error else ""
        raise ValueError(f"BNN_ISA: {name!r} is not available here, expected one of {available()}{why}")
    if name != "reference":
        _extension.module.isa_use(name)
        if _reference is not None:
            _reference._destroy()  # takes the override back: the compiled kernels are under it
            _reference = None
    elif _extension.module is not None and _reference is None:
        _reference = torch.library.Library("bnn", "FRAGMENT")
        for op, reference in _library.references.items():
            _reference.impl(op, reference, "CPU", allow_override=True)


if "BNN_ISA" in os.environ:
    use(os.environ["BNN_ISA"])
