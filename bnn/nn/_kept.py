"""Values that a layer makes of its buffers once."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Kept:
    """What kernels want of a layer's buffers, made anew where one was changed or replaced; a change through `.data` or
    another view of its memory goes unseen. Copies of the layer make their own."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.state: list[tuple[str, Tensor | None, int, int]] | None = None
        self.value: Any = None

    def get(self, layer: nn.Module, make: Callable[..., Any]) -> Any:
        """make(buffers), or None where torch counts no changes: for inference tensors."""
        buffers = layer._buffers
        if self.state is not None:
            for name, t, address, version in self.state:
                if buffers.get(name) is not t or (t is not None and (t.data_ptr(), t._version) != (address, version)):
                    break
            else:
                return self.value
        there = [(name, buffers[name]) for name in self.names]
        if any(t is not None and t.is_inference() for _, t in there):
            return None
        state = [(name, t, *((t.data_ptr(), t._version) if t is not None else (0, 0))) for name, t in there]
        self.value = make(*(t for _, t in there))
        self.state = state
        return self.value

    def __getstate__(self) -> dict:
        return {"names": self.names, "state": None, "value": None}
