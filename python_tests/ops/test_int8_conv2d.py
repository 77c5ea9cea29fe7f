"""int8_conv2d: every bit of the definition, which is written here once more in numpy, on every instruction set."""

from itertools import product

import numpy as np
import pytest
import torch
from checks import channels_innermost, compiles, meta_agrees, opcheck, refused
from inputs import bits_equal, floats, relayout, rng
from shapes import LAYOUTS
from torch.nn import functional as F

import bnn
from bnn import ops
from bnn.ops.int8_conv2d import _weight


def definition(x, weight, stride, padding, pool, scale, bias) -> torch.Tensor:
    """float32 y [N, K, PH, PW], sums in exact integers."""
    images = x.float().numpy()
    n, k, (r, s) = len(images), len(weight), weight.shape[2:]
    results = []
    for image in images:
        largest = np.float32("inf") if np.isnan(image).any() else np.abs(image).max()
        step = np.float32(0) if largest < np.float32(2.0**-100) else largest / np.float32(127)
        inverse = np.float32(1) / step if step > 0 and np.isfinite(step) else np.float32(0)
        with np.errstate(invalid="ignore"):
            q = image * inverse
        q = np.where(np.abs(q) <= 127.5, q, np.float32(0))
        q = (np.rint(q + np.float32(128)) - 128).astype(np.int64)
        q = np.pad(q, ((0, 0), *((p, p) for p in padding)))
        oh, ow = ((q.shape[1 + i] - (r, s)[i]) // stride[i] + 1 for i in range(2))
        acc = np.empty((k, oh, ow), np.int64)
        for i, j in product(range(oh), range(ow)):
            window = q[:, i * stride[0] : i * stride[0] + r, j * stride[1] : j * stride[1] + s]
            acc[:, i, j] = (weight.numpy().astype(np.int64) * window).sum((1, 2, 3))
        if pool:
            acc = F.max_pool2d(torch.from_numpy(acc).double(), *pool).numpy()
        with np.errstate(invalid="ignore"):
            factor = scale.numpy() * step
            results.append(acc.astype(np.float32) * factor[:, None, None] + bias.numpy()[:, None, None])
    return torch.from_numpy(np.stack(results)) if n else torch.empty(0, k, 0, 0)


def some_case(generator: torch.Generator):
    """Arguments of the op, weights as they were."""

    def up_to(n: int) -> int:
        return int(torch.randint(0, n + 1, (), generator=generator))

    channels = (1, 2, 3, 4, 5, 8, 17, 64)[up_to(7)]
    filters = (1, 7, 15, 16, 17, 33, 64, 70, 130)[up_to(8)]
    r, s = 1 + up_to(4), 1 + up_to(4)
    stride, padding = (1 + up_to(2), 1 + up_to(2)), (up_to(3), up_to(3))
    h, w = max(1, r - 2 * padding[0]) + up_to(12), max(1, s - 2 * padding[1]) + up_to(12)
    special = (0.0, 0.0, 0.02)[up_to(2)]
    x = floats((1 + up_to(2), channels, h, w), ("float32", "bfloat16", "float16")[up_to(2)], generator, special)
    x = relayout(x, LAYOUTS[up_to(len(LAYOUTS) - 1)])
    weight = torch.randint(-127, 128, (filters, channels, r, s), generator=generator).to(torch.int8)
    pool = [1 + up_to(3), 1 + up_to(2)]
    pool.append(up_to(pool[0] // 2))
    rows = [(size + 2 * p - f) // t + 1 for size, p, f, t in zip((h, w), padding, (r, s), stride, strict=True)]
    if up_to(1) or min(rows) + 2 * pool[2] < pool[0]:
        pool = []
    scale, bias, shift = torch.rand(filters, generator=generator), *torch.randn(2, filters, generator=generator)
    return x, weight, stride, padding, pool, scale, bias, shift


def test_equals_its_definition(cpu_isa):
    generator = rng(61)
    for i in range(60 if cpu_isa == "reference" else 400):
        x, weight, stride, padding, pool, scale, bias, shift = some_case(generator)
        y = definition(x, weight, stride, padding, pool, scale, bias)
        dtype = (None, torch.float32, torch.bfloat16, torch.float16)[i % 4]
        shift = shift if i % 3 else None
        stream, words = ops.int8_conv2d(x, ops.int8_panels(weight), weight.shape[2:], stride, padding, pool, scale,
                                        bias, shift, dtype)  # fmt: skip
        what = (i, x.shape, weight.shape, stride, padding, pool)
        if dtype is not None:
            assert bits_equal(stream, y.to(dtype)) and channels_innermost(stream), what
        if dtype is None or shift is not None:
            assert torch.equal(words, ops.bitpack(y, shift)), what
        assert (len(stream), len(words)) == (len(x) if dtype else 0, len(x) if shift is not None or not dtype else 0)


def test_an_image_is_rounded_by_itself_alone(cpu_isa):
    generator = rng(62)
    x = torch.randn(3, 3, 9, 9, generator=generator) * torch.tensor([1e-3, 1.0, 1e3]).view(-1, 1, 1, 1)
    weight = torch.randint(-127, 128, (20, 3, 3, 3), generator=generator).to(torch.int8)
    panels, ones = ops.int8_panels(weight), torch.ones(20)
    arguments = (panels, (3, 3), (1, 1), (1, 1), (), ones, 0 * ones, None, torch.float32)
    together, _ = ops.int8_conv2d(x, *arguments)
    assert torch.equal(together, torch.cat([ops.int8_conv2d(image[None], *arguments)[0] for image in x]))
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    # a step is max |x| / 127, rounding errs by half of it at most, a sum by that times the sum of |w|
    least = x.abs().amax((1, 2, 3)).double() / 254
    bound = least.view(-1, 1, 1, 1) * weight.abs().double().sum((1, 2, 3)).view(1, -1, 1, 1)
    assert bool(((together - exact).abs() <= 1.001 * bound).all())


@pytest.mark.parametrize("value", [127, -128])
def test_sums_at_their_bound(cpu_isa, value):
    channels = 2**17
    weight = torch.full((1, channels, 1, 1), value, dtype=torch.int8)
    for sign in (1, -1):
        x = torch.full((1, channels, 1, 1), float(sign))
        y, _ = ops.int8_conv2d(x, ops.int8_panels(weight), (1, 1), (1, 1), (0, 0), (), torch.ones(1), torch.zeros(1),
                               None, torch.float32)  # fmt: skip
        exact = torch.tensor(float(sign * 127 * value * channels)) * (torch.tensor(1.0) / 127)
        assert torch.equal(y.flatten(), exact.view(1))


def test_panels_hold_the_weights():
    for k, c, r, s in ((1, 1, 1, 1), (16, 4, 1, 1), (17, 3, 7, 7), (70, 5, 2, 3)):
        weight = torch.randint(-128, 128, (k, c, r, s)).to(torch.int8)
        panels = ops.int8_panels(weight)
        assert panels.shape == (-(-k // 16), 1 + r * -(-s * c // 4), 64) and panels.is_contiguous()
        start = panels[:, 0].contiguous().view(torch.int32).flatten()[:k]
        assert torch.equal(start, -128 * weight.sum((1, 2, 3), dtype=torch.int32))
        assert torch.equal(_weight(panels, k, c, r, s), weight)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads, compiled_cpu):
    generator = rng(63)
    before = torch.get_num_threads()
    x = torch.randn(2, 3, 64, 64, generator=generator)
    weight = torch.randint(-127, 128, (64, 3, 7, 7), generator=generator).to(torch.int8)
    arguments = (ops.int8_panels(weight), (7, 7), (2, 2), (3, 3), (3, 2, 1), *torch.rand(3, 64), torch.bfloat16)
    expected = ops.int8_conv2d(x, *arguments)
    try:
        torch.set_num_threads(threads)
        got = ops.int8_conv2d(x, *arguments)
    finally:
        torch.set_num_threads(before)
    assert all(bits_equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.fixture
def compiled_cpu() -> None:
    if bnn.isa.current() == "reference":
        pytest.skip("the compiled kernels")


def sample():
    weight = torch.randint(-127, 128, (70, 3, 3, 3), generator=rng(64)).to(torch.int8)
    factors = torch.rand(3, 70, generator=rng(65))
    return [torch.randn(2, 3, 8, 9, generator=rng(66)), ops.int8_panels(weight), [3, 3], [2, 1], [1, 1], [3, 2, 1],
            *factors, torch.bfloat16]  # fmt: skip


def test_library_checks(cpu_isa):
    opcheck(torch.ops.bnn.int8_conv2d.default, *sample())
    for pool, dtype in (([], None), ([2, 1, 0], torch.float32)):
        arguments = sample()
        arguments[5], arguments[-1] = pool, dtype
        meta_agrees(ops.int8_conv2d, arguments)
        meta_agrees(ops.int8_conv2d, [arguments[0][:0], *arguments[1:]])
    compiles(ops.int8_conv2d, sample())


def test_wrong_arguments_are_refused_by_name(cpu_isa):
    def alter(argument: str, place: int, value) -> None:
        arguments = sample()
        arguments[place] = value
        refused("int8_conv2d", argument, lambda: ops.int8_conv2d(*arguments))

    x, panels = sample()[:2]
    alter("x", 0, x[0])
    alter("x", 0, x.long())
    alter("x", 0, x[:, :, :0])
    alter("x", 0, x[:, :, :, :0])
    alter("kernel_size", 2, [0, 3])
    alter("panels", 0, x[:, :2])
    alter("panels", 1, panels[1:])
    alter("panels", 1, panels.float())
    alter("panels", 2, [3, 5])
    alter("kernel_size", 2, [3])
    alter("stride", 3, [0, 1])
    alter("padding", 4, [-1, 0])
    alter("scale", 6, torch.ones(70, 1))
    alter("scale", 6, torch.ones(70).double())
    alter("bias", 7, torch.ones(69))
    alter("next_shift", 8, torch.ones(71))
    alter("stream_dtype", 9, torch.int8)
    for pool in ([3], [0, 1, 0], [3, 0, 1], [3, 1, 2], [65, 1, 0], [3, 65, 1], [3, 1, -1], [10, 1, 0]):
        alter("pool", 5, pool)
    many = [torch.zeros(1, 2**17 + 1, 1, 1), torch.zeros(1, 2**15 + 2, 64, dtype=torch.int8), [1, 1], [1, 1], [0, 0],
            [], *torch.ones(2, 1)]  # fmt: skip
    refused("int8_conv2d", "x and kernel_size", lambda: ops.int8_conv2d(*many))
