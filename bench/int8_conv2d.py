"""Real layers of ResNet-18 in 8 bits, each with the pooling beside it, against torch in float32, bfloat16 and int8.

Ours rounds an image as it comes; torch's int8 (oneDNN's convolution) gets one that is rounded already, and keeps the
scale of its output from one call to the next. Images are channels-last, but the stem's for ours: it takes them as they
come.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench._harness import Call, Case, Work
from bench._peers import int8
from bnn.nn.int8_conv2d import Int8Conv2d
from python_tests.shapes import Conv

STEM, POOL = Conv(1, 3, 224, 224, 64, 7, 7, (2, 2), (3, 3)), nn.MaxPool2d(3, 2, 1)
SHORTCUTS = tuple(Conv(1, c, side, side, 2 * c, 1, 1) for c, side in ((64, 28), (128, 14), (256, 7)))
CLASSIFIER = Conv(1, 512, 1, 1, 1000, 1, 1)
SHAPES: dict[str, tuple[Conv, ...]] = {"cpu": (STEM, *SHORTCUTS, CLASSIFIER), "cuda": ()}


def case(shape: Conv) -> Case:
    layer = nn.Conv2d(shape.c, shape.k, (shape.r, shape.s), shape.stride, shape.padding).requires_grad_(False)
    pool = POOL if shape == STEM else None
    x, rounded = torch.randn(shape.n, shape.c, shape.h, shape.w), Int8Conv2d.of(layer, pool)
    rounded.stream_dtype = torch.float16
    read = x if shape == STEM else x.half().contiguous(memory_format=torch.channels_last)

    def pooled(y: Tensor) -> Tensor:
        return y if pool is None else F.max_pool2d(y, pool.kernel_size, pool.stride, pool.padding)

    def in_dtype(dtype: torch.dtype) -> Call:
        image, w, b = (t.to(dtype) for t in (x, layer.weight, layer.bias))
        image, w = (t.contiguous(memory_format=torch.channels_last) for t in (image, w))
        return lambda: pooled(F.conv2d(image, w, b, shape.stride, shape.padding))

    steps = int8(torch.randint(128, x.shape, dtype=torch.uint8), rounded.weight, 100.0, shape)
    rivals: dict[str, Call] = {str(dtype)[6:]: in_dtype(dtype) for dtype in (torch.float32, torch.bfloat16)}
    rivals["onednn int8"] = lambda: pooled(steps())
    text = f"{shape.c}-{shape.k}x{shape.h} {shape.r}x{shape.s}/{shape.stride[0]}" + (" max" if pool else "")
    return Case("int8_conv2d", text, Work(lambda: rounded(read), x.nbytes, shape.macs), rivals)


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES[device]:
        yield case(shape)
