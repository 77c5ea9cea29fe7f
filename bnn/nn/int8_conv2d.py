"""Real layers of a packed network in 8 bits."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from bnn import isa, ops
from bnn.nn._packed import PackedEpilogue, kept, may_keep
from bnn.nn.activations import require
from bnn.nn.binary_conv2d import set_geometry
from bnn.ops._library import FLOATS, pair
from bnn.ops.int8_conv2d import MOST_PRODUCTS, POOL, is_pool


def _round_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Float w [K, ...] -> int8 of the same shape, float32 scale [K] = max |w[k]| / 127: w is about scale int8."""
    largest = weight.detach().float().abs().amax(tuple(range(1, weight.dim())))
    scale = torch.where(largest == 0, 1.0, largest / 127)
    steps = weight.detach().float() / scale.view(-1, *(1,) * (weight.dim() - 1))
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def _float(x: Tensor) -> Tensor:
    return x if x.dtype in FLOATS else x.float()


class _Int8(PackedEpilogue):
    """Weights and the op, whatever the rank of the input."""

    def _hold(self, *shape: int) -> None:
        require(math.prod(shape[1:]) <= MOST_PRODUCTS, "an output", f"of at most {MOST_PRODUCTS} products", shape[1:])
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8))

    def _run(self, x: Tensor, kernel_size, stride, padding, pool) -> tuple[Tensor, Tensor]:
        panels = None
        if may_keep(x):
            panels = self._panels()
        if panels is None:
            panels = ops.int8_panels(self.weight)
        return ops.int8_conv2d(x, panels, kernel_size, stride, padding, pool, self.scale, self.bias, self.next_shift,
                               self.stream_dtype if self.stream else None)  # fmt: skip

    def _panels(self) -> Tensor | None:
        return kept(self, ("weight",), (), ops.int8_panels)

    def _constants(self) -> list[Tensor]:
        """Of a step; none where there are no panels."""
        panels = self._panels()
        tensors = [panels, self.scale, self.bias, self.next_shift] if panels is not None else []
        return [t for t in tensors if t is not None]

    def _take(self, layer: nn.Conv2d | nn.Linear) -> None:
        """Weights and bias of a real layer."""
        weight, scale = _round_weights(layer.weight)
        self.weight.copy_(weight.view(self.weight.shape))
        self.scale.copy_(scale)
        if layer.bias is not None:
            self.bias.copy_(layer.bias.detach())

    def route(self, x: Tensor | None = None) -> str:
        """Name of the kernels that `forward` runs on. `amx` leaves rows of fewer than four pixels, and windows that are
        short or too long to gather, to `avx512`."""
        current = isa.current_on(self.weight.device)
        return "reference" if current == "cuda" else current


def _pairs(pool: nn.MaxPool2d) -> list[list[int]]:
    """Size, stride and padding."""
    return [pair(value) for value in (pool.kernel_size, pool.stride, pool.padding)]


class Int8Conv2d(_Int8):
    """`torch.nn.Conv2d` of one group in 8 bits, and the square `MaxPool2d` after it; see `bnn.ops.int8_conv2d`.

    Weights are rounded to 8 bits a filter, images to 8 bits an image, as they come. `forward(x)`: float [N, C, H, W];
    returns the stream, the words of the next binary layer or both, as `stream` and `words` say. No gradient.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dims = 4
    FIELDS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "pool", "stream", "words")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        pool: tuple[int, ...] = (),
        stream: bool = True,
        words: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, False, False, stream, words)
        set_geometry(self, in_channels, out_channels, kernel_size, stride, padding, dilation=1, groups=1, pad_value=0)
        require(isinstance(pool, tuple | list) and (len(pool) == 0 or is_pool(pool)), "pool", POOL, pool)
        self.pool = tuple(pool)
        self._hold(out_channels, in_channels, *self.kernel_size)

    @staticmethod
    def can_be(layer: Any) -> bool:
        """Whether a real layer has an 8-bit form."""
        return (type(layer) is nn.Conv2d and layer.groups == 1 and set(layer.dilation) == {1}
                and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
                and layer.weight[0].numel() <= MOST_PRODUCTS)  # fmt: skip

    @staticmethod
    def can_pool(layer: Any) -> bool:
        """Whether a pooling after it can be part of it."""
        if not isinstance(layer, nn.MaxPool2d) or layer.dilation != 1 or layer.ceil_mode or layer.return_indices:
            return False
        return is_pool([size for size, _ in _pairs(layer)]) and all(h == w for h, w in _pairs(layer))

    @classmethod
    def of(cls, layer: nn.Conv2d, pool: nn.MaxPool2d | None = None) -> "Int8Conv2d":
        """The 8-bit form of a layer, and of the pooling after it."""
        window = () if pool is None else tuple(size for size, _ in _pairs(pool))
        geometry: Any = (layer.kernel_size, layer.stride, layer.padding, window)
        made = cls(layer.in_channels, layer.out_channels, *geometry).to(layer.weight.device)
        made._take(layer)
        return made

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self._outputs(self._run(_float(x), self.kernel_size, self.stride, self.padding, self.pool))

    def _described(self) -> tuple[str, list[Tensor], dict[str, Any]] | None:
        geometry = {"kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding}
        constants = self._constants()
        return ("int8_conv2d", constants, geometry | {"pool": self.pool or (0, 0, 0)}) if constants else None


class Int8Linear(_Int8):
    """`torch.nn.Linear` in 8 bits, rows rounded one by one; see `Int8Conv2d`.

    `forward(x)`: float [..., C]; with `mean`, images [M, C, H, W], whose mean over the pixels is taken before.
    """

    dims = 2
    FIELDS = ("in_features", "out_features", "mean", "stream", "words")

    def __init__(
        self, in_features: int, out_features: int, mean: bool = False, stream: bool = True, words: bool = False
    ) -> None:
        require(in_features > 0 and out_features > 0, "in_features and out_features", "positive",
                (in_features, out_features))  # fmt: skip
        super().__init__(in_features, out_features, False, False, stream, words)
        self.in_features, self.out_features, self.mean = in_features, out_features, mean
        self._hold(out_features, in_features, 1, 1)

    @staticmethod
    def can_be(layer: Any) -> bool:
        """Whether a real layer has an 8-bit form."""
        return type(layer) is nn.Linear and layer.in_features <= MOST_PRODUCTS

    @classmethod
    def of(cls, layer: nn.Linear) -> "Int8Linear":
        """The 8-bit form of a layer."""
        made = cls(layer.in_features, layer.out_features).to(layer.weight.device)
        made._take(layer)
        return made

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = _float(x)
        if self.mean:
            x = ops.multires_pool2d(x, [(1, 1)])[0].flatten(1)
        leading = x.shape[:-1]
        stream, words = self._run(x.reshape(leading.numel(), x.shape[-1], 1, 1), (1, 1), (1, 1), (0, 0), ())
        stream = stream.reshape(*leading, stream.shape[1]) if self.stream else stream
        return self._outputs((stream, words.reshape(*leading, words.shape[3]) if self.words else words))

    def _described(self) -> tuple[str, list[Tensor], dict[str, Any]] | None:
        constants = self._constants()
        return ("int8_linear", constants, {"mean": int(self.mean)}) if constants else None
