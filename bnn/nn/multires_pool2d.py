"""Module form of `bnn.ops.multires_pool2d`."""

from collections.abc import Sequence

from torch import Tensor, nn

from bnn import ops
from bnn.nn.activations import require


class MultiResPool2d(nn.Module):
    """[N, C, H, W] -> one [N, C, h, w] a size, each `adaptive_avg_pool2d`, the input read once.

    Args:
        sizes: (h, w) pairs or single ints for squares; each at most the input's size.
    """

    def __init__(self, sizes: Sequence[int | tuple[int, int]]) -> None:
        super().__init__()
        self.sizes = tuple((s, s) if isinstance(s, int) else (int(s[0]), int(s[1])) for s in sizes)
        require(len(self.sizes) > 0, "sizes", "at least one size", sizes)
        require(min(min(s) for s in self.sizes) > 0, "sizes", "positive", sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        return ops.multires_pool2d(x, self.sizes)

    def extra_repr(self) -> str:
        return f"{list(self.sizes)}"
