"""What packed layers have in common."""

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from bnn import ops
from bnn.nn.activations import require
from bnn.ops.run_steps import DTYPES, KINDS, Step


def may_keep(x: Tensor) -> bool:
    """Whether what is made of buffers in this call is real and can be kept for the next: nobody traces or watches."""
    return type(x) is Tensor and not torch.compiler.is_compiling() and not is_in_torch_dispatch_mode()


def kept(layer: Any, names: tuple[str, ...], arguments: tuple, make: Callable[..., Tensor]) -> Tensor | None:
    """make(*buffers, *arguments): what kernels want of a layer's buffers, made anew where one was changed or replaced
    or arguments differ; a change through `.data` or another view of its memory goes unseen. None where torch counts
    no changes: for inference tensors."""
    buffers = layer._buffers
    if layer._kept is not None:
        before, state, value = layer._kept
        for name, t, address, version in state:
            if buffers.get(name) is not t or (t is not None and (t.data_ptr(), t._version) != (address, version)):
                break
        else:
            if before == arguments:
                return value
    there = [(name, buffers[name]) for name in names]
    if any(t is not None and t.is_inference() for _, t in there):
        return None
    state = [(name, t, *((t.data_ptr(), t._version) if t is not None else (0, 0))) for name, t in there]
    value = make(*(t for _, t in there), *arguments)
    vars(layer)["_kept"] = arguments, state, value  # not a change of the layer
    return value


_numbers = count(1)


def _count_change() -> None:
    """After the change: who sees the number sees it, too."""
    PackedEpilogue.changes = next(_numbers)


class PackedEpilogue(nn.Module):
    """What a packed layer does with its integer sums: buffers and flags of the fused op, and of what is asked of it.

    `shift` packs a float input; `rprelu` and `next_shift` are there where they were folded in; `stream` and `words`
    say which outputs later layers read. `dims`: of what they read and write as floats, 4 or 2.
    """

    changes = 0  # another number after every change of a packed layer's attributes
    FIELDS: tuple[str, ...]  # arguments of the constructor, as files hold them
    dims: int
    _kept: tuple[tuple, list, Tensor] | None = None  # see `kept`; copies of a layer make their own
    stream_dtype = torch.float32
    weight: Tensor
    scale: Tensor
    bias: Tensor
    shift: Tensor | None
    rprelu: Tensor | None
    next_shift: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, shift: bool, rprelu: bool, stream: bool, words: bool):
        super().__init__()
        require(stream or words, "stream and words", "not both false", (stream, words))
        self.stream, self.words = stream, words
        self.register_buffer("scale", torch.ones(out_channels))
        self.register_buffer("bias", torch.zeros(out_channels))
        self.register_buffer("shift", torch.zeros(in_channels) if shift else None)
        self.register_buffer("rprelu", torch.zeros(3, out_channels) if rprelu else None)
        self.register_buffer("next_shift", torch.zeros(out_channels) if words else None)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        _count_change()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        _count_change()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        _count_change()

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        _count_change()

    def _words_of(self, x: Tensor) -> Tensor:
        return x if x.dtype == torch.int64 else ops.bitpack(x, self.shift)

    def _outputs(self, outputs: tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        if self.stream and self.words:
            return outputs
        return outputs[0] if self.stream else outputs[1]

    def step(self) -> tuple[Step, list[Tensor]] | None:
        """This layer for `bnn.ops.run_steps`, with its constants; None where that can't run it."""
        if self.stream_dtype not in DTYPES[1:] or self.words != (self.next_shift is not None):
            return None
        described = self._described()
        if described is None:
            return None
        kind, constants, fields = described
        dtype = DTYPES.index(self.stream_dtype) if self.stream else 0
        return Step(KINDS.index(kind), dtype=dtype, words=int(self.words), **fields), constants

    def _described(self) -> tuple[str, list[Tensor], dict[str, Any]] | None:
        """Kind, constants and fields of the step."""
        return None

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.FIELDS)
