"""Binary matrix product: the layer that trains, and the packed one that it becomes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnn import ops
from bnn.nn._packed import PackedEpilogue
from bnn.nn.activations import require
from bnn.ops._library import SCALES, SURROGATES, autocast
from bnn.ops.bitpack import word_count


class BinaryLinear(nn.Module):
    """y = alpha[k] * sign(x + shift) @ sign(w).T + bias; see `bnn.ops.binary_linear_ste`.

    With the attribute `real_weight` (see `bnn.nn.use_real_weights`): y = sign(x + shift) @ w.T + bias, where w has its
    ordinary gradient.

    Args:
        in_features, out_features, bias: as for `torch.nn.Linear`, but without a bias by default.
        shift: learn a shift of x per feature (RSign).
        surrogate: gradient of the sign of x: "clip" or "polynomial".
        scale: "mean": alpha[k] = mean |w| of row k, detached; "none": alpha = 1.

    Shape: [..., in_features] -> [..., out_features], dtype of x (of autocast, where it is on). Packed: matrices only.

    Raises:
        ValueError: an argument out of range; RuntimeError in forward: an input that does not fit.
    """

    real_weight: bool = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        shift: bool = False,
        surrogate: str = "polynomial",
        scale: str = "mean",
    ) -> None:
        super().__init__()
        require(in_features > 0 and out_features > 0, "in_features and out_features", "positive",
                (in_features, out_features))  # fmt: skip
        require(surrogate in SURROGATES, "surrogate", f"one of {SURROGATES}", surrogate)
        require(scale in SCALES, "scale", f"one of {SCALES}", scale)
        self.in_features, self.out_features, self.surrogate, self.scale = in_features, out_features, surrogate, scale
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.shift = nn.Parameter(torch.zeros(in_features)) if shift else None
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() > 2:
            return self.forward(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
        if self.real_weight:
            signs = ops.sign_ste(autocast(x), self.shift, self.surrogate)
            y = F.linear(signs, self.weight.to(signs.dtype))
        else:
            y = ops.binary_linear_ste(x, self.weight, self.shift, self.surrogate, self.scale)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, "
            f"shift={self.shift is not None}, surrogate={self.surrogate!r}, scale={self.scale!r}"
            f"{', real_weight=True' if self.real_weight else ''}"
        )


class PackedBinaryLinear(PackedEpilogue):
    """Inference form of `BinaryLinear` and of what followed it; see `bnn.ops.binary_linear_fused`. No gradient.

    `forward(x, residual=None)`: x float [M, C] or int64 words [M, L]; returns the stream [M, K], the words or both.
    """

    dims = 2
    FIELDS = ("in_features", "out_features", "has_shift", "has_rprelu", "stream", "words")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        has_shift: bool = False,
        has_rprelu: bool = False,
        stream: bool = True,
        words: bool = False,
    ) -> None:
        require(in_features > 0 and out_features > 0, "in_features and out_features", "positive",
                (in_features, out_features))  # fmt: skip
        super().__init__(in_features, out_features, has_shift, has_rprelu, stream, words)
        self.in_features, self.out_features = in_features, out_features
        self.has_shift, self.has_rprelu = has_shift, has_rprelu
        self.register_buffer("weight", torch.zeros(out_features, word_count(in_features), dtype=torch.int64))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        outputs = ops.binary_linear_fused(
            self._words_of(x), self.weight, self.in_features, self.scale, self.bias, residual, self.rprelu,
            self.next_shift, self.stream_dtype if self.stream else None,
        )  # fmt: skip
        return self._outputs(outputs)

    def route(self, x: Tensor) -> str:
        """Name of the kernel that `forward(x)` runs on."""
        return ops.binary_linear_route(self._words_of(x), self.weight, self.in_features, self.words)
