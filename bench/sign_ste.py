"""Sign with a surrogate gradient, forward and backward, against the eager expression."""

from collections.abc import Iterator

import torch

from bench._harness import Case
from bench.training import EagerSign
from bnn import ops

SHAPES = ((128, 32, 16, 16), (128, 128, 4, 4), (16, 64, 56, 56))


def cases() -> Iterator[Case]:
    for shape in SHAPES:
        for surrogate in ("clip", "polynomial"):
            x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
            grad = torch.randn(shape).contiguous(memory_format=torch.channels_last)

            def ours(x=x, grad=grad, surrogate=surrogate) -> None:
                torch.autograd.grad(ops.sign_ste(x, None, surrogate), x, grad)

            def eager(x=x, grad=grad, surrogate=surrogate) -> None:
                torch.autograd.grad(EagerSign.apply(x, surrogate), x, grad)

            yield Case("sign_ste fwd+bwd", f"{list(shape)} {surrogate}", ours, eager, 5 * x.nbytes)
