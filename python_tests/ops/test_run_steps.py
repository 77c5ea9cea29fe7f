"""run_steps: several layers in one call; what networks make of it is tested in nn/test_segments.py."""

from dataclasses import replace

import pytest
import torch
from checks import refused
from inputs import rng, words
from torch.library import opcheck
from torch.nn import functional as F

from bnn import ops
from bnn.ops.run_steps import DTYPES, KINDS, Step, encode, run_steps

BINARY, INT8, LINEAR, GATED, POOL, MEAN, RELU, SIGMOID, PRELU, BLEND, CAT, OUTPUT = range(len(KINDS))
BFLOAT16 = DTYPES.index(torch.bfloat16)


def constants() -> list[torch.Tensor]:
    """Of a binary 3x3 convolution 70 -> 96 with a shift, then of an 8-bit one 96 -> 5 with words for later."""
    generator, one = rng(50), torch.ones
    weight = words((96, 3, 3), 70, generator)
    prepared = ops.binary_conv2d_prepare(weight, 70, 1, 1, 1, 1, 0, one(96) / 70, torch.zeros(96))
    panels = ops.int8_panels(torch.randint(-127, 128, (5, 96, 1, 1), generator=generator).to(torch.int8))
    return [prepared, torch.full((70,), 0.25), panels, one(5) / 127, one(5), -one(5)]


STEPS = [
    Step(BINARY, x=0, residual=1, output=2, residual_ends=1, constant=0, dtype=BFLOAT16, words=1, shift=1),
    Step(POOL, x=2, output=4, x_ends=1, kernel_size=(2, 3), stride=(2, 2), padding=(1, 0), pool=(1, 0, 0)),
    Step(INT8, x=4, output=5, constant=2, dtype=1, words=1, stride=(1, 2)),
    Step(LINEAR, x=4, output=7, x_ends=1, constant=2, dtype=1, mean=1),
    *(Step(OUTPUT, x=place) for place in (3, 5, 6, 7)),
]


def inputs() -> list[torch.Tensor]:
    return [torch.randn(2, 70, 7, 9), torch.randn(2, 96, 7, 9, dtype=torch.float16)]


def test_equals_the_ops_one_by_one(cpu_isa):
    prepared, shift, panels, *factors = constants()
    x, residual = inputs()
    stream, packed = ops.binary_conv2d_prepared(ops.bitpack(x, shift), prepared, (), residual, torch.bfloat16)
    pooled = F.avg_pool2d(stream, (2, 3), (2, 2), (1, 0), True, False)
    last = ops.int8_conv2d(pooled, panels, (1, 1), (1, 2), (0, 0), (), *factors, torch.float32)
    mean = ops.multires_pool2d(pooled, [(1, 1)])[0]
    flat = ops.int8_conv2d(mean, panels, (1, 1), (1, 1), (0, 0), (), *factors[:2], None, torch.float32)[0].flatten(1)
    got = run_steps([x, residual], constants(), encode(STEPS))
    assert all(torch.equal(a, b) for a, b in zip(got, [packed, *last, flat], strict=True))


def gated_steps() -> list[Step]:
    """Of x, residual, gate: a blend's means make the gate of a branch, and what comes out is put beside x."""
    return [
        Step(PRELU, x=0, output=3, constant=0),
        Step(MEAN, x=3, output=5),
        Step(MEAN, x=1, output=7),
        Step(BLEND, x=5, residual=7, output=9, x_ends=1, residual_ends=1, constant=1),
        Step(RELU, x=9, output=11, x_ends=1),
        Step(SIGMOID, x=11, output=13, x_ends=1),
        Step(GATED, x=3, residual=1, gate=13, output=15, x_ends=1, residual_ends=1, gate_ends=1, constant=2, dtype=1,
             words=1, multiply=1),
        Step(GATED, x=0, residual=15, gate=2, output=17, residual_ends=1, constant=2, dtype=1),
        Step(CAT, x=17, residual=0, output=19, x_ends=1),
        *(Step(OUTPUT, x=place) for place in (16, 19)),
    ]  # fmt: skip


@pytest.mark.parametrize("second", [torch.float32, torch.float16])
def test_gates_equal_the_functions_one_by_one(cpu_isa, second):
    x, residual, gate = torch.randn(2, 70, 5, 6), torch.randn(2, 70, 5, 6).to(second), torch.rand(2, 70, 1, 1)
    slope, share, scale, bias, shift = torch.randn(5, 70)
    y = F.prelu(x, slope)
    means = [ops.multires_pool2d(t, [(1, 1)])[0].float() for t in (residual, y)]
    own = torch.lerp(*means, share.view(1, -1, 1, 1)).relu().sigmoid()
    stream, packed = ops.gated_add(y, residual, own, scale, bias, True, shift, torch.float32)
    last, _ = ops.gated_add(x, stream, gate, scale, bias, False, None, torch.float32)
    inputs, before = [x, residual, gate], [t.clone() for t in (x, residual, gate)]
    got = run_steps(inputs, [slope, share, scale, bias, shift], encode(gated_steps()))
    assert torch.equal(got[0], packed) and torch.equal(got[1], torch.cat([last, x], 1))
    assert all(map(torch.equal, inputs, before))


def test_gates_that_are_not_there_are_refused(cpu_isa):
    inputs = [torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2), torch.ones(1, 3, 1, 1)]
    step = Step(GATED, x=0, residual=1, gate=2, output=3, dtype=1)
    ones = [torch.ones(3)] * 2
    for change in ({"gate": 5}, {"gate": -1}, {"residual": -1}):
        wrong = encode([replace(step, **change)])
        refused("run_steps", "code", lambda wrong=wrong: run_steps(inputs, ones, wrong))
    refused("run_steps", "constants", lambda: run_steps(inputs, ones[:1], encode([step])))
    refused("run_steps", "constants", lambda: run_steps(inputs, [], encode([Step(PRELU, x=0, output=3)])))
    refused("gated_add", "gate", lambda: run_steps([*inputs[:2], inputs[0]], ones, encode([step])))
    for kind in (BLEND, CAT):
        refused("run_steps", "code", lambda kind=kind: run_steps(inputs, ones, encode([Step(kind, x=0, output=3)])))
    for place in (9, 2**40):  # of a step that needs none
        stray = Step(RELU, x=0, output=3, gate=place, gate_ends=1)
        refused("run_steps", "code", lambda stray=stray: run_steps(inputs, [], encode([stray])))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_residuals_of_others_stay(cpu_isa, dtype):
    """A stream may overwrite its residual only where the call made that, and gave it to nobody."""
    x, residual = inputs()
    residual = residual.to(dtype).contiguous(memory_format=torch.channels_last)
    bits, before = ops.bitpack(x), residual.clone()
    code = DTYPES.index(dtype)
    first = Step(BINARY, x=0, residual=1, output=2, residual_ends=1, constant=0, dtype=code)
    second = Step(BINARY, x=0, residual=2, output=4, residual_ends=1, constant=0, dtype=code)

    def layer(shortcut):
        return ops.binary_conv2d_prepared(bits, constants()[0], (), shortcut, dtype, False)[0]

    one = layer(residual)
    for kept in (False, True):
        steps = [first, *[Step(OUTPUT, x=2)] * kept, second, Step(OUTPUT, x=4)]
        *early, last = run_steps([bits, residual], constants(), encode(steps))
        assert torch.equal(residual, before) and torch.equal(last, layer(one))
        assert all(torch.equal(t, one) for t in early) and len(early) == kept


@pytest.mark.parametrize("ends, count", [(0, 2), (1, 1)])
def test_streams_take_the_memory_of_residuals(cpu_isa, ends, count):
    if cpu_isa == "reference":
        pytest.skip("makes tensors of its own")
    x, weight = words((1, 40, 40), 64, rng(51)), words((64, 3, 3), 64, rng(52))
    prepared = ops.binary_conv2d_prepare(weight, 64, 1, 1, 1, 1, 0, torch.ones(64) / 64, torch.zeros(64))
    first = Step(BINARY, x=0, output=1, dtype=1)
    code = encode([first, replace(first, output=3, residual=1, residual_ends=ends), Step(OUTPUT, x=3)])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run_steps([x], [prepared], code)
    made = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert made.count(64 * 40 * 40 * 4) == count


@pytest.mark.parametrize("shape", [(96,), (3, 96), (0, 96), (2, 3, 96)])
def test_linear_layers_keep_leading_dimensions(cpu_isa, shape):
    x = torch.randn(*shape)
    steps = [Step(LINEAR, x=0, output=1, constant=2, words=1, dtype=1), Step(OUTPUT, x=1), Step(OUTPUT, x=2)]
    stream, packed = run_steps([x], constants(), encode(steps))
    assert stream.shape == (*shape[:-1], 5) and packed.shape == (*shape[:-1], 1)
    for row, y, word in zip(x.view(-1, 96), stream.view(-1, 5), packed.view(-1, 1), strict=True):
        assert torch.equal(run_steps([row], constants(), encode(steps))[0], y)
        assert torch.equal(ops.bitpack(y[None] - 1)[0], word)


def test_library_checks(cpu_isa):
    """Shapes depend on the values of `code`: there is nothing for fake tensors."""
    arguments = (inputs(), constants(), encode(STEPS))
    opcheck(torch.ops.bnn.run_steps.default, arguments, test_utils=("test_schema", "test_autograd_registration"))
    with pytest.raises(NotImplementedError, match="one by one"):
        run_steps(*([t.to("meta") for t in part] for part in arguments[:2]), arguments[2].to("meta"))


def test_wrong_code_is_refused(cpu_isa):
    first, *rest = STEPS

    def run(steps, given=None, code=None):
        return run_steps(inputs(), constants() if given is None else given, encode(steps) if code is None else code)

    for step in (replace(first, x=9), replace(first, x=-1), replace(first, x=2**40), replace(first, residual=5)):
        refused("run_steps", "code", lambda step=step: run([step, *rest]))
    refused("run_steps", "code", lambda: run([first, replace(first, x=1), *rest]))  # ended before
    for kind in (-1, len(KINDS)):
        refused("run_steps", "code", lambda kind=kind: run([replace(first, kind=kind), *rest]))
    for place in (-1, 2 + 2 * len(STEPS), 2**40):
        refused("run_steps", "code", lambda place=place: run([replace(first, output=place)]))
    for constant in (-1, 6, 2**40):
        refused("run_steps", "constants", lambda constant=constant: run([replace(first, constant=constant)]))
    refused("run_steps", "constants", lambda: run(STEPS, constants()[:4]))
    refused("run_steps", "code", lambda: run([replace(first, dtype=len(DTYPES))]))
    good = encode(STEPS)
    for code in (good.int(), good[:, :-1], good[0], good.t()):
        refused("run_steps", "code", lambda code=code: run(STEPS, code=code))
    refused("binary_conv2d_prepared", "prepared", lambda: run(STEPS, [torch.ones(3), *constants()[1:]]))
    refused("int8_conv2d", "pool", lambda: run([replace(STEPS[2], kind=INT8, x=1, pool=(65, 1, 0))]))


def test_a_pool_larger_than_the_image(cpu_isa):
    steps = [Step(POOL, x=0, output=2, kernel_size=(9, 9), stride=(9, 9)), Step(OUTPUT, x=2)]
    with pytest.raises(RuntimeError, match="(?i)output size is too small|of at least 9 rows"):
        run_steps(inputs(), [], encode(steps))
    x = torch.randn(1, 8, 3, 4)
    [y] = run_steps([x], [], encode([replace(steps[0], pool=(1, 0, 0)), steps[1]]))
    assert torch.equal(y, F.avg_pool2d(x, 9, 9, 0, True))


def test_impossible_pools_are_refused(cpu_isa):
    for change in ({"kernel_size": (0, 2)}, {"stride": (0, 1)}, {"padding": (2, 0)}, {"padding": (-1, 0)}):
        step = replace(Step(POOL, x=0, output=2, kernel_size=(2, 2)), **change)
        with pytest.raises(RuntimeError):
            run_steps(inputs(), [], encode([step]))
