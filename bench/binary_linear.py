"""Binary matrix product on words, against F.linear on +-1 floats."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from bench._harness import Case
from bnn import ops

SHAPES = ((1, 1024, 1000), (1, 4096, 4096), (64, 1024, 1000), (128, 512, 512))  # M, C, K


def cases() -> Iterator[Case]:
    for m, c, k in SHAPES:
        x, w = torch.randn(m, c).sign(), torch.randn(k, c).sign()
        words, weights = ops.bitpack(x), ops.bitpack(w)

        def ours(words=words, weights=weights, c=c) -> object:
            return ops.binary_linear(words, weights, c)

        yield Case("binary_linear", f"M{m} C{c} K{k}", ours, lambda x=x, w=w: F.linear(x, w), macs=m * c * k)
