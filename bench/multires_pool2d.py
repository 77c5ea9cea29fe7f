"""Several average poolings in one read, against one adaptive_avg_pool2d a size."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from bench._harness import Case, Work
from bnn import ops
from python_tests.shapes import Pool

_SIZES = (
    (8, 3, 224, ((192, 192), (160, 160), (128, 128))),
    (32, 256, 14, ((4, 4), (2, 2), (1, 1))),
    (128, 1, 40, ((32, 32), (24, 24))),
    (1, 128, 56, ((1, 1),)),
)
_SHAPES = tuple(
    Pool(n, c, size, size, sizes, layout=layout)
    for n, c, size, sizes in _SIZES
    for layout in ("contiguous", "channels_last")
)
SHAPES = {"cpu": _SHAPES, "cuda": _SHAPES}


def image(shape: Pool, device: str) -> torch.Tensor:
    x = torch.randn(shape.n, shape.c, shape.h, shape.w, device=device).to(getattr(torch, shape.dtype))
    return x.contiguous(memory_format=torch.channels_last) if shape.layout == "channels_last" else x


def ours(x: torch.Tensor, shape: Pool) -> Work:
    moved = x.nbytes + sum(y.nbytes for y in ops.multires_pool2d(x, shape.sizes))
    return Work(lambda: ops.multires_pool2d(x, shape.sizes), moved)


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES[device]:
        x = image(shape, device)
        forward = ours(x, shape)
        text = f"{[*x.shape]} -> {[s[0] for s in shape.sizes]}" + (" nhwc" if shape.layout == "channels_last" else "")

        def each(x=x, shape=shape) -> list[torch.Tensor]:
            return [F.adaptive_avg_pool2d(x, s) for s in shape.sizes]

        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        grads = [torch.randn_like(y) for y in each()]

        def ours_both(x=leaf, shape=shape, grads=grads) -> object:
            return torch.autograd.grad(ops.multires_pool2d(x, shape.sizes), x, grads)

        def each_both(x=leaf, each=each, grads=grads) -> object:
            return torch.autograd.grad(each(x), x, grads)

        name = "adaptive_avg"
        yield Case("multires_pool2d", text, forward, {name: each})
        yield Case("multires_pool2d fwd+bwd", text, Work(ours_both, 2 * forward.bytes), {name: each_both})
