"""Several average poolings in one read, against one adaptive_avg_pool2d a size."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from bench._harness import Case
from bnn import ops

SHAPES = (
    ((8, 3, 224, 224), ((192, 192), (160, 160), (128, 128))),
    ((32, 256, 14, 14), ((4, 4), (2, 2), (1, 1))),
    ((128, 1, 40, 40), ((32, 32), (24, 24))),
)


def cases() -> Iterator[Case]:
    for shape, sizes in SHAPES:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
            outputs = ops.multires_pool2d(x, sizes)
            grads = [torch.randn_like(y) for y in outputs]
            moved = x.nbytes + sum(y.nbytes for y in outputs)
            text = f"{list(shape)} -> {[s[0] for s in sizes]}" + (" nhwc" if layout is torch.channels_last else "")

            def ours(x=x, sizes=sizes) -> object:
                return ops.multires_pool2d(x.detach(), sizes)

            def each(x=x, sizes=sizes) -> object:
                return [F.adaptive_avg_pool2d(x.detach(), s) for s in sizes]

            def ours_both(x=x, sizes=sizes, grads=grads) -> object:
                return torch.autograd.grad(ops.multires_pool2d(x, sizes), x, grads)

            def each_both(x=x, sizes=sizes, grads=grads) -> object:
                return torch.autograd.grad([F.adaptive_avg_pool2d(x, s) for s in sizes], x, grads)

            yield Case("multires_pool2d", text, ours, each, moved)
            yield Case("multires_pool2d fwd+bwd", text, ours_both, each_both, 2 * moved)
