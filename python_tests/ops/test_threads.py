"""Results don't depend on the number of threads."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from inputs import bits_equal, floats, rng, words
from shapes import CONVS

from bnn import isa, ops


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def under(count: int, call) -> list[torch.Tensor]:
    torch.set_num_threads(count)
    return list(call())


@pytest.mark.parametrize("name", ["glyphs/64-128x8/2", "resnet18/256x14", "mobilenet/depthwise/256x28",
                                  "mobilenet/1x1/1024x7"])  # fmt: skip
def test_convolutions(endpoint_isa, threads, name):
    case = replace(CONVS[name], n=3)
    generator = rng(1)
    x = floats((case.n, case.c, case.h, case.w), "float32", generator)
    weight = torch.randn(case.k, case.c // case.groups, case.r, case.s, generator=generator)
    packed = words((case.k, case.r, case.s), case.c // case.groups, generator)
    scale, rprelu = torch.randn(2, case.k, generator=generator), torch.randn(3, case.k, generator=generator)

    def run() -> list[torch.Tensor]:
        bits = ops.bitpack(x, torch.linspace(-1, 1, case.c))
        fused = ops.binary_conv2d_fused(bits, packed, case.c, *case.geometry, *scale, None, rprelu, scale[1],
                                        torch.float32)  # fmt: skip
        trained = torch.ops.bnn.binary_conv2d_ste_forward(x, weight, None, "polynomial", "mean", *case.geometry)
        return [bits, *fused, *trained, ops.bitunpack(bits, case.c), ops.sign_ste(x)]

    assert all(bits_equal(a, b) for a, b in zip(under(1, run), under(3, run), strict=True))


def test_matrices_and_pooling(endpoint_isa, threads):
    x, weight = words((301,), 1000, rng(2)), words((257,), 1000, rng(3))
    image = torch.randn(5, 33, 27, 31, generator=rng(4))

    def run() -> list[torch.Tensor]:
        pooled = ops.multires_pool2d(image, [(1, 1), (4, 5), (13, 2)])
        results = [ops.binary_linear(x, weight, 1000), *pooled]
        if isa.current() != "reference":  # there it's a matrix product of torch's, whose sums depend on threads
            results.append(torch.ops.bnn.multires_pool2d_backward(pooled, 27, 31))
        return results

    assert all(bits_equal(a, b) for a, b in zip(under(1, run), under(3, run), strict=True))


def test_gated_additions(endpoint_isa, threads):
    """Ranges of rows begin and end inside images."""
    x, residual = torch.randn(2, 3, 96, 37, 41, generator=rng(5))
    gate, factors = torch.rand(3, 96, 1, 1, generator=rng(6)), torch.randn(3, 96, generator=rng(7))

    def run() -> list[torch.Tensor]:
        return [*ops.gated_add(x, residual, gate, *factors[:2], True, factors[2], torch.float32)]

    assert all(bits_equal(a, b) for a, b in zip(under(1, run), under(3, run), strict=True))


def test_means(compiled_isa, threads):
    for image in (torch.randn(2, 200, 19, 23, generator=rng(8)), torch.randn(1, 3, 90, 97, generator=rng(9))):
        for x in (image, image.contiguous(memory_format=torch.channels_last)):

            def run(x=x) -> list[torch.Tensor]:
                [mean] = ops.multires_pool2d(x, [(1, 1)])
                return [mean, torch.ops.bnn.multires_pool2d_backward([mean], *x.shape[2:])]

            assert all(bits_equal(a, b) for a, b in zip(under(1, run), under(3, run), strict=True))
