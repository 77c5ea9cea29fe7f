"""Independent oracles: numpy in integers, float32 or float64, and the eager torch form of a training layer.

Nothing here imports the package. Activations are [N, C, H, W] or [M, C] as in torch.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def _channels(vector: np.ndarray, dim: int) -> np.ndarray:
    return vector.reshape(1, -1, *(1,) * (dim - 2))


def value(x: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """v = x + shift[c] in float32."""
    x = x.astype(np.float32)
    return x if shift is None else x + _channels(shift.astype(np.float32), x.ndim)


def pack(bits: np.ndarray) -> np.ndarray:
    """Bool [..., C] -> int64 words [..., ceil(C / 64)], little-endian bit order."""
    channels = bits.shape[-1]
    pad = [(0, 0)] * (bits.ndim - 1) + [(0, -channels % 64)]
    octets = np.packbits(np.pad(bits, pad), axis=-1, bitorder="little")
    return np.ascontiguousarray(octets).view("<i8")


def unpack(words: np.ndarray, channels: int) -> np.ndarray:
    """int64 words [..., L] -> +-1 int64 [..., C]."""
    octets = np.ascontiguousarray(words.astype("<i8")).view(np.uint8)
    return 1 - 2 * np.unpackbits(octets, axis=-1, bitorder="little")[..., :channels].astype(np.int64)


def bitpack(x: np.ndarray, shift: np.ndarray | None = None) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return pack(np.moveaxis(value(x, shift) < 0, 1, -1))


def signs(words: np.ndarray, channels: int) -> np.ndarray:
    """Words [N, H, W, L] or [M, L] -> +-1 [N, C, H, W] or [M, C]."""
    return np.moveaxis(unpack(words, channels), -1, 1)


def conv2d(x: np.ndarray, weight: np.ndarray, stride, padding, dilation, groups: int, pad_value: int) -> np.ndarray:
    """Sums of products of [N, C, H, W] and [K, C / G, R, S], one filter position at a time, in x's type."""
    (top, left), (k, cg, r, s) = padding, weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)), constant_values=pad_value)
    oh = (x.shape[2] - dilation[0] * (r - 1) - 1) // stride[0] + 1
    ow = (x.shape[3] - dilation[1] * (s - 1) - 1) // stride[1] + 1
    out = np.zeros((x.shape[0], k, oh, ow), x.dtype)
    for g in range(groups):
        channels, filters = slice(g * cg, (g + 1) * cg), slice(g * (k // groups), (g + 1) * (k // groups))
        for i in range(r):
            for j in range(s):
                rows = slice(i * dilation[0], i * dilation[0] + (oh - 1) * stride[0] + 1, stride[0])
                columns = slice(j * dilation[1], j * dilation[1] + (ow - 1) * stride[1] + 1, stride[1])
                part = x[:, channels, rows, columns]
                out[:, filters] += np.einsum("nchw,kc->nkhw", part, weight[filters, :, i, j])
    return out


def epilogue(acc: np.ndarray, scale, bias, residual=None, rprelu=None, next_shift=None):
    """(y, words) of the fused ops, every operation rounded to float32 in the documented order."""
    with np.errstate(invalid="ignore", over="ignore"):
        y = _channels(scale, acc.ndim) * acc.astype(np.float32)
        y = y + _channels(bias, acc.ndim)
        if residual is not None:
            y = y + residual.astype(np.float32)
        if rprelu is not None:
            before, slope, after = (_channels(row, acc.ndim) for row in rprelu)
            y = y + before
            y = np.where(y > 0, y, slope * y) + after
        assert y.dtype == np.float32
        return y, bitpack(y, next_shift)


def factor(v: np.ndarray, surrogate: str) -> np.ndarray:
    """d sign(v) / dv by the surrogate in float64: clip 1[|v| <= 1], polynomial max(0, 2 - 2 |v|); NaN -> 0."""
    v = np.abs(v.astype(np.float64))
    with np.errstate(invalid="ignore"):
        result = (v <= 1).astype(np.float64) if surrogate == "clip" else np.maximum(0.0, 2 - 2 * v)
    return np.where(np.isnan(v), 0.0, result)


def residue(x: np.ndarray, shift: np.ndarray | None, surrogate: str) -> np.ndarray:
    """What the training ops keep: bits |v| <= 1, or round_half_even(255 max(0, 1 - |v|)) in uint8; float32."""
    with np.errstate(invalid="ignore"):
        v = np.moveaxis(np.abs(value(x, shift)), 1, -1)
        if surrogate == "clip":
            return pack(v <= 1)
        q = np.float32(255) * np.maximum(np.float32(0), np.float32(1) - v)
        return np.rint(np.where(np.isnan(v), np.float32(0), q)).astype(np.uint8)


def pool(x: np.ndarray, h: int, w: int) -> np.ndarray:
    """Adaptive average pooling in float64: bin i of h spans floor(i H / h) to ceil((i + 1) H / h) - 1."""
    height, width = x.shape[2:]
    out = np.empty((*x.shape[:2], h, w))
    for i in range(h):
        for j in range(w):
            rows = slice(i * height // h, -(-(i + 1) * height // h))
            columns = slice(j * width // w, -(-(j + 1) * width // w))
            out[:, :, i, j] = x[:, :, rows, columns].astype(np.float64).mean((2, 3))
    return out


def eager_sign(v: Tensor, surrogate: str) -> Tensor:
    """sign(v) forward, the surrogate's derivative backward: what people write in plain torch."""
    # not clamp: whether its gradient includes |v| = 1 depends on the version of torch
    soft = torch.where(v.detach().abs() <= 1, v, v.detach().sign())
    if surrogate == "polynomial":
        soft = torch.where(soft < 0, 2 * soft + soft * soft, 2 * soft - soft * soft)
    return (torch.where(v < 0, -1.0, 1.0).to(v.dtype) - soft).detach() + soft


def _eager_value(x: Tensor, shift: Tensor | None) -> Tensor:
    return x if shift is None else x + shift.to(x.dtype).view(1, -1, *(1,) * (x.dim() - 2))


def _eager_scale(y: Tensor, weight: Tensor, scale: str) -> Tensor:
    if scale == "none":
        return y
    return y * weight.detach().abs().flatten(1).mean(1).to(y.dtype).view(1, -1, *(1,) * (y.dim() - 2))


def eager_conv2d(x: Tensor, weight: Tensor, shift, surrogate: str, scale: str, stride, padding, dilation, groups,
                 pad_value) -> Tensor:  # fmt: skip
    """`binary_conv2d_ste` as a plain torch expression that autograd differentiates."""
    x, weight_signs = eager_sign(_eager_value(x, shift), surrogate), eager_sign(weight.to(x.dtype), "clip")
    if pad_value:
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), value=float(pad_value))
        padding = [0, 0]
    return _eager_scale(F.conv2d(x, weight_signs, None, stride, padding, dilation, groups), weight, scale)


def eager_linear(x: Tensor, weight: Tensor, shift, surrogate: str, scale: str) -> Tensor:
    """`binary_linear_ste` as a plain torch expression."""
    signs_of_x = eager_sign(_eager_value(x, shift), surrogate)
    return _eager_scale(F.linear(signs_of_x, eager_sign(weight.to(x.dtype), "clip")), weight, scale)
