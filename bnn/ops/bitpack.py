"""Signs to bits and back. Layout: docs/bit_layout.md."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.ops._library import FLOATS, channel_view, check, check_channels, check_float, define

WORD = 64


def word_count(channels: int) -> int:
    """L = ceil(C / 64)."""
    return -(-channels // WORD)


def bitpack(x: Tensor, shift: Tensor | None = None) -> Tensor:
    """Pack the signs of x, 64 channels a word: bit = 1 where x + shift[c] < 0.

    Args:
        x: [N, C, H, W] in any memory format (channels-last is the fast one) or [M, C]; float32, bfloat16 or float16.
        shift: [C] or None; the sum is taken in float32.

    Returns:
        int64 words [N, H, W, L] or [M, L], L = ceil(C / 64): channel c is bit c % 64 of word c // 64, tail bits are 0.
        -0.0 and NaN are not negative, so they give 0, which stands for +1.

    Raises:
        RuntimeError: wrong dimension, dtype, device or length of shift.
    """
    return torch.ops.bnn.bitpack(x, shift)


def bitunpack(words: Tensor, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inverse of `bitpack`: bit 0 -> +1, bit 1 -> -1.

    Args:
        words: int64 [N, H, W, L] or [M, L].
        channels: C, with ceil(C / 64) = L.
        dtype: float32, bfloat16, float16 or int8.

    Returns:
        [N, C, H, W] with channels-last strides, or [M, C].
    """
    return torch.ops.bnn.bitunpack(words, channels, dtype)


def pack_bits(bits: Tensor) -> Tensor:
    """Bool [..., C] -> words [..., L]."""
    channels = bits.shape[-1]
    words = word_count(channels)
    padded = F.pad(bits.to(torch.int64), (0, words * WORD - channels)).unflatten(-1, (words, WORD))
    return (padded << torch.arange(WORD, device=bits.device)).sum(-1)


def unpack_bits(words: Tensor, channels: int) -> Tensor:
    """Words [..., L] -> int64 zeros and ones [..., C]."""
    return ((words.unsqueeze(-1) >> torch.arange(WORD, device=words.device)) & 1).flatten(-2)[..., :channels]


def negative(x: Tensor, shift: Tensor | None) -> Tensor:
    """Bool, channels innermost: x + shift < 0, the sum in float32."""
    value = x.float() if shift is None else x.float() + channel_view(shift, x.dim())
    return (value < 0).movedim(1, -1)


def _check_pack(x: Tensor, shift: Tensor | None, op: str = "bitpack") -> None:
    check(x.dim() in (2, 4), op, "x", "[N, C, H, W] or [M, C]", list(x.shape))
    check_float(op, "x", x)
    check_channels(op, "shift", shift, x.shape[1], x)


def check_words(op: str, argument: str, words: Tensor, channels: int, dims: tuple[int, ...]) -> None:
    """int64 words whose last dimension is ceil(channels / 64)."""
    check(words.dim() in dims, op, argument, " or ".join(f"of {d} dimensions" for d in dims), list(words.shape))
    check(words.dtype == torch.int64, op, argument, "int64 words", words.dtype)
    check(channels > 0, op, "the channel count", "positive", channels)
    expected = f"[..., {word_count(channels)}] for {channels} channels"
    check(words.shape[-1] == word_count(channels), op, argument, expected, list(words.shape))


def _bitpack_reference(x: Tensor, shift: Tensor | None = None) -> Tensor:
    _check_pack(x, shift)
    return pack_bits(negative(x, shift))


def _bitpack_fake(x: Tensor, shift: Tensor | None = None) -> Tensor:
    _check_pack(x, shift)
    n, c, *space = x.shape
    return x.new_empty((n, *space, word_count(c)), dtype=torch.int64)


def _check_unpack(words: Tensor, channels: int, dtype: torch.dtype) -> None:
    check_words("bitunpack", "words", words, channels, (2, 4))
    check(dtype in (*FLOATS, torch.int8), "bitunpack", "dtype", "float32, bfloat16, float16 or int8", dtype)


def _bitunpack_reference(words: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    _check_unpack(words, channels, dtype)
    return (1 - 2 * unpack_bits(words, channels)).to(dtype).movedim(-1, 1)


def _bitunpack_fake(words: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    _check_unpack(words, channels, dtype)
    return words.new_empty((*words.shape[:-1], channels), dtype=dtype).movedim(-1, 1)


define("bitpack(Tensor x, Tensor? shift=None) -> Tensor", _bitpack_reference, _bitpack_fake)
define("bitunpack(Tensor words, int channels, ScalarType dtype) -> Tensor", _bitunpack_reference, _bitunpack_fake)
