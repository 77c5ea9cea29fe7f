"""Binary convolution on words, against F.conv2d on +-1 floats."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from bench._harness import Case
from bnn import ops

# N, C, K, edge, filter, stride, groups
SHAPES = (
    (1, 64, 64, 56, 3, 1, 1),
    (1, 128, 128, 28, 3, 1, 1),
    (1, 256, 256, 14, 3, 1, 1),
    (1, 512, 512, 7, 3, 1, 1),
    (1, 128, 256, 28, 3, 2, 1),
    (1, 512, 512, 14, 1, 1, 1),
    (1, 512, 512, 14, 3, 1, 512),
    (128, 32, 32, 16, 3, 1, 1),
    (128, 64, 64, 8, 3, 1, 1),
    (128, 128, 128, 4, 3, 1, 1),
)


def cases() -> Iterator[Case]:
    for n, c, k, edge, r, stride, groups in SHAPES:
        x = torch.randn(n, c, edge, edge).sign().contiguous(memory_format=torch.channels_last)
        w = torch.randn(k, c // groups, r, r).sign()
        words, filters = ops.bitpack(x), ops.bitpack(w)
        padding = r // 2
        out = ops.binary_conv2d(words, filters, c, stride, padding, 1, groups)
        macs = out.numel() * (c // groups) * r * r

        def ours(words=words, filters=filters, c=c, s=stride, p=padding, g=groups) -> object:
            return ops.binary_conv2d(words, filters, c, s, p, 1, g)

        def floats(x=x, w=w, s=stride, p=padding, g=groups) -> object:
            return F.conv2d(x, w, None, s, p, 1, g)

        kind = f"N{n} C{c} K{k} {edge}x{edge} {r}x{r}/{stride}" + (f" G{groups}" if groups > 1 else "")
        yield Case("binary_conv2d", kind, ours, floats, macs=macs)
