"""Signs to words, against making +-1 floats of them."""

from collections.abc import Iterator

import torch

from bench._harness import Case
from bnn import ops

SHAPES = ((1, 64, 56, 56), (128, 32, 16, 16), (128, 64, 8, 8), (128, 128, 4, 4))


def cases() -> Iterator[Case]:
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
            words = ops.bitpack(x)
            text, name = f"{list(shape)} {str(dtype)[6:]}", "bitpack"
            moved = x.nbytes + words.nbytes
            yield Case(name, text, lambda x=x: ops.bitpack(x), lambda x=x: torch.where(x < 0, -1.0, 1.0), moved)
