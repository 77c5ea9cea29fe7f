"""The gated branch and the shortcut beside it of a packed network."""

from typing import Any

from torch import Tensor

from bnn import isa, ops
from bnn.nn._packed import PackedEpilogue
from bnn.nn.activations import require


class GatedAdd(PackedEpilogue):
    """gate * x (* residual), batch norm and + residual of a packed network; see `bnn.ops.gated_add`.

    `forward(x, residual, gate)`: float [N, C, H, W] twice and [N, C, 1, 1]; returns the stream, the words of the
    next binary layer or both, as `stream` and `words` say. No gradient.
    """

    dims = 4
    FIELDS = ("channels", "multiply", "stream", "words")

    def __init__(self, channels: int, multiply: bool = False, stream: bool = True, words: bool = False) -> None:
        require(channels > 0, "channels", "positive", channels)
        require(isinstance(multiply, bool), "multiply", "True or False", multiply)
        super().__init__(channels, channels, False, False, stream, words)
        self.channels, self.multiply = channels, multiply

    def forward(self, x: Tensor, residual: Tensor, gate: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        dtype = self.stream_dtype if self.stream else None
        factors = (self.scale, self.bias, self.multiply, self.next_shift)
        return self._outputs(ops.gated_add(x, residual, gate, *factors, dtype))

    def route(self, x: Tensor | None = None) -> str:
        """Name of the kernel that `forward` runs on, whatever its input."""
        current = isa.current_on(self.scale.device)
        return "avx512" if current == "amx" else current

    def _described(self) -> tuple[str, list[Tensor], dict[str, Any]] | None:
        constants = [t for t in (self.scale, self.bias, self.next_shift) if t is not None]
        return "gated_add", constants, {"multiply": int(self.multiply)}
