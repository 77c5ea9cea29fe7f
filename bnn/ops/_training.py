"""What the training ops do with latent weights, shared by convolution and matrix product."""

import torch
from torch import Tensor

from bnn.ops.bitpack import bitunpack, pack_bits, unpack_bits


def filter_scale(weight: Tensor, scale: str) -> Tensor:
    """alpha [K] = mean |w| per filter, float32, summed in float64; [0] for scale "none"."""
    if scale == "none":
        return weight.new_empty((0,), dtype=torch.float32)
    return weight.double().abs().flatten(1).mean(1).float()


def binarize_weight(weight: Tensor, scale: str) -> tuple[Tensor, Tensor, Tensor]:
    """Latent [K, C, ...] -> sign words [K, ..., L], words of the mask |w| <= 1, alpha [K] or [0]."""
    innermost = weight.movedim(1, -1)
    return pack_bits(innermost < 0), pack_bits(innermost.abs() <= 1), filter_scale(weight, scale)


def restore_weight(words: Tensor, channels: int, alpha: Tensor, dtype: torch.dtype) -> Tensor:
    """alpha[k] * (+-1) [K, C, ...] from words [K, ..., L]."""
    signs = bitunpack(words, channels, dtype)
    return signs * alpha.to(dtype).view(-1, *(1,) * (signs.dim() - 1)) if alpha.numel() else signs


def weight_gradient(grad: Tensor, mask: Tensor, alpha: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient of alpha[k] * sign(w), straight through where |w| <= 1."""
    grad = grad.float() * unpack_bits(mask, grad.shape[1]).movedim(-1, 1)
    return (grad * alpha.view(-1, *(1,) * (grad.dim() - 1)) if alpha.numel() else grad).to(dtype)
