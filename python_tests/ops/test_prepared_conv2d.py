"""binary_conv2d_prepared: the results of binary_conv2d_fused, from one tensor that holds all but the input."""

import copy
import io

import pytest
import torch
from checks import meta_agrees, opcheck, refused
from inputs import bits_equal, floats, rng, words
from shapes import CORNER_CONVS, Conv, convs

import bnn
from bnn import ops
from bnn.nn import PackedBinaryConv2d
from bnn.ops import prepared_conv2d

CASE = Conv(2, 130, 6, 5, 70, 3, 3, padding=(1, 1))


def operands(case: Conv, generator: torch.Generator, rprelu: bool, next_shift: bool):
    """x; arguments of binary_conv2d_prepare."""
    x = words((case.n, case.h, case.w), case.c, generator)
    weight = words((case.k, case.r, case.s), case.c // case.groups, generator)

    def vector(*size: int) -> torch.Tensor:
        return floats(size, "float32", generator, 0.05)

    factors = vector(case.k), vector(case.k), vector(3, case.k) if rprelu else None, None
    return x, [weight, case.c, *case.geometry, *factors[:3], vector(case.k) if next_shift else None]


def both(x, arguments, case: Conv, residual, dtype, wanted: bool):
    """What the fused op and the prepared one return."""
    *start, rprelu, next_shift = arguments
    fused = ops.binary_conv2d_fused(x, *start, residual, rprelu, next_shift, dtype)
    prepared = ops.binary_conv2d_prepare(*arguments)
    return fused, ops.binary_conv2d_prepared(x, prepared, (case.k, *case.output), residual, dtype, wanted)


def test_equals_the_fused_op(cpu_isa):
    generator = rng(31)
    wide = [
        Conv(1, 64, 9, 9, 64, 3, 3, padding=(1, 1)),
        Conv(2, 128, 7, 7, 192, 3, 3, (2, 2), (1, 1)),
        Conv(1, 512, 7, 7, 64, 3, 3, padding=(1, 1)),
        Conv(1, 128, 5, 5, 128, 3, 3, padding=(1, 1), groups=2),
    ]
    cases = [*wide, *list(convs(len(CORNER_CONVS) + 60, seed=31, max_macs=100_000))[len(CORNER_CONVS) :]]
    for i, case in enumerate(cases):
        rprelu, next_shift, stream = i % 2 == 0, i % 3 == 0, i % 4 != 0
        x, arguments = operands(case, generator, rprelu, next_shift)
        dtype = torch.bfloat16 if stream else None
        residual = floats((case.n, case.k, *case.output), "bfloat16", generator, 0.05) if i % 5 < 3 else None
        expected, got = both(x, arguments, case, residual, dtype, wanted=next_shift or not stream)
        assert all(bits_equal(a, b) for a, b in zip(got, expected, strict=True)), case


@pytest.mark.parametrize("density", [0.0, 0.1, 0.6, 0.9, 1.0])
def test_filters_of_any_density(cpu_isa, density):
    """Ones among a filter's bits decide how many steps of a matrix unit are added up at once."""
    generator = rng(32)
    for case in (Conv(1, 64, 10, 9, 64, 3, 3, padding=(1, 1)), Conv(1, 256, 5, 6, 128, 3, 3, padding=(1, 1))):
        bits = [torch.where(torch.rand(n, case.c, h, w, generator=generator) < density, -1.0, 1.0)
                for n, h, w in ((case.n, case.h, case.w), (case.k, case.r, case.s))]  # fmt: skip
        x, weight = (ops.bitpack(t) for t in bits)
        y = torch.nn.functional.conv2d(*bits, None, *case.geometry[:4])
        assert torch.equal(ops.binary_conv2d(x, weight, case.c, *case.geometry), y.int())
        arguments = [weight, case.c, *case.geometry, torch.ones(case.k), torch.full((case.k,), 0.5), None, None]
        expected, got = both(x, arguments, case, None, None, True)
        assert torch.equal(got[1], expected[1]) and torch.equal(got[1], ops.bitpack(y + 0.5))


def test_words_beside_a_stream():
    x, arguments = operands(CASE, rng(33), True, False)
    stream, packed = both(x, arguments, CASE, None, torch.float32, True)[1]
    assert torch.equal(packed, ops.bitpack(stream))


def test_a_prepared_tensor_serves_every_isa_and_size(cpu_isa):
    x, arguments = operands(CASE, rng(34), True, True)
    bnn.isa.use(bnn.isa.available()[-1])
    prepared = ops.binary_conv2d_prepare(*arguments)
    bnn.isa.use(cpu_isa)
    for size in ((1, 1), (6, 5), (13, 4)):
        case = Conv(1, CASE.c, *size, CASE.k, 3, 3, padding=(1, 1))
        x = words((1, *size), CASE.c, rng(35))
        expected, _ = both(x, arguments, case, None, torch.float32, True)
        got = ops.binary_conv2d_prepared(x, prepared, (), None, torch.float32)
        assert all(bits_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_library_checks(cpu_isa):
    x, (weight, *geometry, _, _, _, _) = operands(CASE, rng(36), False, False)
    stride, padding, dilation = map(list, geometry[1:4])
    arguments = (weight, geometry[0], stride, padding, dilation, *geometry[4:], *torch.ones(2, CASE.k))
    opcheck(torch.ops.bnn.binary_conv2d_prepare.default, *arguments)
    prepared = ops.binary_conv2d_prepare(*arguments)
    call = (x, prepared, [CASE.k, *CASE.output], None, torch.bfloat16, True)
    opcheck(torch.ops.bnn.binary_conv2d_prepared.default, *call)
    meta_agrees(ops.binary_conv2d_prepared, call)


def test_wrong_arguments_are_refused_by_name(cpu_isa):
    x, arguments = operands(CASE, rng(37), True, True)
    prepared, shape = ops.binary_conv2d_prepare(*arguments), (CASE.k, *CASE.output)
    name = "binary_conv2d_prepared"
    refused(name, "words", lambda: ops.binary_conv2d_prepared(x, prepared, shape, words=False))
    refused(name, "shape", lambda: ops.binary_conv2d_prepared(x, prepared, (1, 2, 3)))
    refused(name, "shape", lambda: ops.binary_conv2d_prepared(x.to("meta"), prepared.to("meta")))
    refused(name, "prepared", lambda: ops.binary_conv2d_prepared(x, prepared[:3], shape))
    refused(name, "prepared", lambda: ops.binary_conv2d_prepared(x, prepared[: len(prepared) // 4], shape))
    refused(name, "prepared", lambda: ops.binary_conv2d_prepared(x, prepared.int(), shape))
    other = prepared.clone()
    other[0] += 1
    refused(name, "prepared", lambda: ops.binary_conv2d_prepared(x, other, shape))
    arguments[7] = torch.ones(3)
    refused("binary_conv2d_prepare", "scale", lambda: ops.binary_conv2d_prepare(*arguments))


@pytest.mark.parametrize("place", range(1, prepared_conv2d.HEADER))
@pytest.mark.parametrize("value", [-1, 0, 1 << 20, 1 << 40, (1 << 63) - 1])
def test_a_forged_header_reads_nothing_beyond(place, value):
    """Refused, or computed inside the tensor."""
    x, arguments = operands(CASE, rng(38), True, True)
    prepared = ops.binary_conv2d_prepare(*arguments)
    prepared[place] = value
    try:
        ops.binary_conv2d_prepared(x, prepared, (CASE.k, *CASE.output))
    except RuntimeError as error:
        assert "bnn::binary_conv2d_prepared" in str(error)


def test_forged_filters_of_the_matrix_unit_stay_inside():
    x, arguments = operands(CASE, rng(39), True, True)
    prepared = ops.binary_conv2d_prepare(*arguments)
    header = prepared_conv2d.HEADER + arguments[0].numel() + 3 * CASE.k
    for value in (0, -1, 0x0101010101010101):
        prepared[header + 8 :] = value
        ops.binary_conv2d_prepared(x, prepared, (CASE.k, *CASE.output))


def test_a_packed_layer_prepares_again_after_a_change():
    layer = PackedBinaryConv2d(64, 64, 3, padding=1)
    x = words((1, 6, 6), 64, rng(40))
    before = layer(x)
    with torch.no_grad():
        layer.scale.mul_(2)
    assert torch.equal(layer(x), 2 * before)
    layer.load_state_dict({**layer.state_dict(), "bias": torch.ones(64)})
    assert torch.equal(layer(x), 2 * before + 1)
    layer.weight = ~layer.weight
    assert torch.equal(layer(x), 1 - 2 * before)


def test_a_packed_layer_sees_each_replacement():
    """A new buffer may have the address of the one before."""
    layer = PackedBinaryConv2d(64, 64, 3, padding=1)
    x = words((1, 6, 6), 64, rng(41))
    zero = layer(x) - layer.bias.view(-1, 1, 1)
    for value in range(20):
        layer.bias = torch.full((64,), -1.0)
        layer.bias = torch.full((64,), float(value))  # may lie where the one that was prepared did
        assert torch.equal(layer(x), zero + value)


def test_a_packed_layer_of_inference_tensors():
    layer = PackedBinaryConv2d(64, 64, 3, padding=1)
    x = words((1, 6, 6), 64, rng(42))
    before = layer(x)
    with torch.inference_mode():
        layer.scale = torch.ones(64)
        layer.scale.mul_(2)
        assert torch.equal(layer(x), 2 * before)
        layer.scale.mul_(2)
        assert torch.equal(layer(x), 4 * before)


def test_copies_of_a_packed_layer_leave_what_was_prepared():
    layer = PackedBinaryConv2d(64, 64, 3, padding=1)
    x = words((1, 6, 6), 64, rng(43))
    y = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    assert file.tell() < 2 * layer.weight.nbytes + 8192
    file.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert other._kept is None and torch.equal(other(x), y)
    strided, replica = copy.copy(layer), layer._replicate_for_data_parallel()
    strided.stride = (2, 2)
    assert torch.equal(strided(x), y[:, :, ::2, ::2])
    replica._buffers = {**layer._buffers, "scale": 2 * layer.scale}
    assert torch.equal(replica(x), 2 * y) and torch.equal(layer(x), y)
    layer.stride = (2, 2)
    assert torch.equal(layer(x), y[:, :, ::2, ::2])
