"""Geometry of a 2-D convolution, and the convolution that the references and layers with real weights run."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.ops._library import channels_last_empty, check


def output_shape(
    op: str,
    image: Sequence[int],  # N, H, W
    filters: Sequence[int],  # K, R, S
    in_channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
) -> tuple[int, int, int, int]:
    """[N, K, OH, OW], after checking every argument of the geometry."""
    k = filters[0]
    check(in_channels > 0, op, "in_channels", "positive", in_channels)
    for name, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        check(len(value) == 2 and min(value) >= least, op, name, f"two integers of at least {least}", list(value))
    fits = groups >= 1 and in_channels % groups == 0 and k % groups == 0
    check(fits, op, "groups", f"a divisor of the {in_channels} input and {k} output channels", groups)
    check(pad_value in (-1, 0, 1), op, "pad_value", "-1, 0 or +1", pad_value)
    space = []
    for i, name in enumerate(("height", "width")):
        reach, size = dilation[i] * (filters[1 + i] - 1) + 1, image[1 + i] + 2 * padding[i]
        check(filters[1 + i] > 0, op, "weight", f"of positive {name}", filters[1 + i])
        check(size >= reach, op, "x", f"of a padded {name} of at least {reach}, the filter's reach", size)
        space.append((size - reach) // stride[i] + 1)
    return (image[0], k, space[0], space[1])


def convolve(x: Tensor, weight: Tensor, stride, padding, dilation, groups: int, pad_value: int) -> Tensor:
    """conv2d of an image with a border of `pad_value`, channels-last; of +-1 floats exact: sums stay below 2^24."""
    if x.shape[0] == 0:  # torch refuses some empty convolutions
        shape = output_shape("", (0, *x.shape[2:]), (weight.shape[0], *weight.shape[2:]), x.shape[1],
                              stride, padding, dilation, groups, pad_value)  # fmt: skip
        return channels_last_empty(x, shape, x.dtype)
    if pad_value:
        x, padding = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), value=pad_value), [0, 0]
    if x.shape[1] == 1:  # oneDNN errs on one channel with channels-last strides and stride (1, 2): plain strides
        x, weight = (t.clone(memory_format=torch.contiguous_format) for t in (x, weight))
    acc = F.conv2d(x, weight, None, stride, padding, dilation, groups) + 0.0  # a padded 0 times -1 is -0.0
    return acc.movedim(1, -1).contiguous().movedim(-1, 1)
