"""Sign with a surrogate gradient, forward and backward, against the eager expression."""

from collections.abc import Iterator

import torch

from bench._harness import Case, Work
from bench.training import EagerSign
from bnn import ops

_SHAPES = ((128, 32, 16, 16), (128, 128, 4, 4), (16, 64, 56, 56))
SHAPES = {"cpu": _SHAPES, "cuda": (*_SHAPES, (64, 64, 56, 56), (64, 256, 28, 28))}


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES[device]:
        for surrogate in ("clip", "polynomial"):
            x, grad = (
                torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last) for _ in range(2)
            )
            x.requires_grad_()

            def ours(x=x, grad=grad, surrogate=surrogate) -> object:
                return torch.autograd.grad(ops.sign_ste(x, None, surrogate), x, grad)

            def eager(x=x, grad=grad, surrogate=surrogate) -> object:
                return torch.autograd.grad(EagerSign.apply(x, surrogate), x, grad)

            text = f"{list(shape)} {surrogate}"
            yield Case("sign_ste fwd+bwd", text, Work(ours, 5 * x.nbytes), {"eager": eager})
