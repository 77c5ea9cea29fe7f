"""Binary convolution: the layer that trains, and the packed one that it becomes."""

from typing import Any

import torch
from torch import Tensor, nn

from bnn import ops
from bnn.nn._packed import PackedEpilogue, kept, may_keep
from bnn.nn.activations import require
from bnn.ops._convolution import convolve
from bnn.ops._library import SCALES, SURROGATES, autocast, pair
from bnn.ops.bitpack import word_count

_PREPARED = ("weight", "scale", "bias", "rprelu", "next_shift")


def _prepare(weight: Tensor, scale: Tensor, bias: Tensor, rprelu: Tensor | None, next_shift: Tensor | None,
             in_channels: int, *geometry: Any) -> Tensor:  # fmt: skip
    factors: Any = (scale, bias, rprelu, next_shift)
    return ops.binary_conv2d_prepare(weight, in_channels, *geometry, *factors)


def set_geometry(layer: Any, in_channels: int, out_channels: int, kernel_size, stride, padding, dilation,
                 groups: int, pad_value: int) -> None:  # fmt: skip
    """Check and store what a layer and its packed form have in common."""
    require(in_channels > 0 and out_channels > 0, "in_channels and out_channels", "positive",
            (in_channels, out_channels))  # fmt: skip
    require(groups > 0 and in_channels % groups == 0 and out_channels % groups == 0, "groups",
            f"a divisor of in_channels ({in_channels}) and out_channels ({out_channels})", groups)  # fmt: skip
    require(pad_value in (-1, 0, 1), "pad_value", "-1, 0 or +1", pad_value)
    layer.in_channels, layer.out_channels, layer.groups, layer.pad_value = in_channels, out_channels, groups, pad_value
    for name, value, least in (("kernel_size", kernel_size, 1), ("stride", stride, 1), ("padding", padding, 0),
                               ("dilation", dilation, 1)):  # fmt: skip
        value = tuple(pair(value))
        fits = len(value) == 2 and all(isinstance(v, int) and v >= least for v in value)
        require(fits, name, f"an integer or two, at least {least}", value)
        setattr(layer, name, value)


class BinaryConv2d(nn.Module):
    """y = alpha[k] * conv2d(sign(x + shift), sign(w)) + bias; see `bnn.ops.binary_conv2d_ste`.

    With the attribute `real_weight` (see `bnn.nn.use_real_weights`): y = conv2d(sign(x + shift), w) + bias, where w has
    its ordinary gradient.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as for `torch.nn.Conv2d`.
        pad_value: what pixels outside the image count as: 0 (exact zero padding), -1 or +1.
        shift: learn a shift of x per channel (RSign).
        surrogate: gradient of the sign of x: "clip" or "polynomial".
        scale: "mean": alpha[k] = mean |w| of filter k, detached; "none": alpha = 1.

    Shape: [N, in_channels, H, W] -> [N, out_channels, OH, OW], dtype of x (of autocast, where it is on).

    Raises:
        ValueError: an argument out of range; RuntimeError in forward: an input that does not fit.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    pad_value: int
    real_weight: bool = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        pad_value: int = 0,
        shift: bool = False,
        surrogate: str = "polynomial",
        scale: str = "mean",
    ) -> None:
        super().__init__()
        require(surrogate in SURROGATES, "surrogate", f"one of {SURROGATES}", surrogate)
        require(scale in SCALES, "scale", f"one of {SCALES}", scale)
        set_geometry(self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, pad_value)
        self.surrogate, self.scale = surrogate, scale
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.shift = nn.Parameter(torch.zeros(in_channels)) if shift else None
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.pad_value)
        if self.real_weight:
            signs = ops.sign_ste(autocast(x), self.shift, self.surrogate)
            y = convolve(signs, self.weight.to(signs.dtype), *geometry)
        else:
            y = ops.binary_conv2d_ste(x, self.weight, self.shift, self.surrogate, self.scale, *geometry)
        return y if self.bias is None else y + self.bias.to(y.dtype).view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, groups={self.groups}, pad_value={self.pad_value}, "
            f"shift={self.shift is not None}, surrogate={self.surrogate!r}, scale={self.scale!r}"
            f"{', real_weight=True' if self.real_weight else ''}"
        )


class PackedBinaryConv2d(PackedEpilogue):
    """Inference form of `BinaryConv2d` and of what followed it; see `bnn.ops.binary_conv2d_fused`. No gradient.

    `forward(x, residual=None)`: x float [N, C, H, W] or int64 words [N, H, W, L]; returns the stream [N, K, OH, OW],
    the words [N, OH, OW, L] or both, as `stream` and `words` say.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    pad_value: int
    dims = 4
    FIELDS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "pad_value",
              "has_shift", "has_rprelu", "stream", "words")  # fmt: skip

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        pad_value: int = 0,
        has_shift: bool = False,
        has_rprelu: bool = False,
        stream: bool = True,
        words: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, has_shift, has_rprelu, stream, words)
        set_geometry(self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, pad_value)
        self.has_shift, self.has_rprelu = has_shift, has_rprelu
        words_shape = (out_channels, *self.kernel_size, word_count(in_channels // groups))
        self.register_buffer("weight", torch.zeros(words_shape, dtype=torch.int64))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        x = self._words_of(x)
        dtype = self.stream_dtype if self.stream else None
        prepared = None
        if x.is_cpu and may_keep(x):
            prepared = self._prepared()
        if prepared is not None:
            outputs = ops.binary_conv2d_prepared(x, prepared, (), residual, dtype, self.words)
        else:
            outputs = ops.binary_conv2d_fused(
                x, self.weight, *self._geometry(), self.scale, self.bias, residual, self.rprelu, self.next_shift, dtype
            )
        return self._outputs(outputs)

    def _geometry(self) -> tuple[int, Any, Any, Any, int, int]:
        return self.in_channels, self.stride, self.padding, self.dilation, self.groups, self.pad_value

    def _prepared(self) -> Tensor | None:
        return kept(self, _PREPARED, self._geometry(), _prepare)

    def _described(self) -> tuple[str, list[Tensor], dict[str, Any]] | None:
        prepared = self._prepared()
        if prepared is None:
            return None
        constants = [prepared] if self.shift is None else [prepared, self.shift]
        return "binary_conv2d", constants, {"shift": len(constants) - 1}

    def route(self, x: Tensor) -> str:
        """Name of the kernel that `forward(x)` runs on."""
        return ops.binary_conv2d_route(
            self._words_of(x), self.weight, self.in_channels, self.stride, self.padding, self.dilation, self.groups,
            self.pad_value, self.words,
        )  # fmt: skip
