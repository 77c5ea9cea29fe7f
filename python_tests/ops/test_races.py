"""One small call of every kernel, on tensor core routes too: few enough CUDA threads for the thread sanitizer.

In the ordinary suite these are more shapes; `.ci/run` repeats them on an emulated build with -fsanitize=thread, where
every CUDA thread is a fiber known to the sanitizer and only barriers order what they do to memory.
"""

import pytest
import torch
from backends import EMULATED, using
from inputs import bits_equal, floats, rng, shift_for, words

internal = torch.ops.bnn
CONV = ([1, 1], [1, 1], [1, 1])  # stride, padding, dilation
EPILOGUES = [(None, None, None, torch.float32), ("residual", "rprelu", "next_shift", torch.bfloat16)]


def _epilogue(shape, kind, generator):
    k = shape[1]
    residual, rprelu, next_shift, stream = kind
    return (
        *(floats((k,), "float32", generator, special=0) for _ in range(2)),
        residual and floats(shape, "float16", generator, special=0),
        rprelu and floats((3, k), "float32", generator, special=0),
        next_shift and floats((k,), "float32", generator, special=0),
        stream,
    )


def _calls():
    generator = rng(30)
    x, matrix = floats((2, 65, 3, 5), "float32", generator), floats((9, 130), "bfloat16", generator)
    for tensor in (x, matrix, x.half().contiguous(memory_format=torch.channels_last)):
        shift = shift_for(tensor, generator)
        yield "bitpack", (tensor, shift)
        for surrogate in ("clip", "polynomial"):
            yield "sign_ste", (tensor, shift, surrogate)
            yield "sign_ste_backward", (tensor, tensor, shift, surrogate)
            yield "ste_residue", (tensor, shift, surrogate)
            yield "ste_residue_backward", (tensor, internal.ste_residue(tensor, shift, surrogate)[1], surrogate)
    yield "bitunpack", (words((2, 3, 5), 65, generator), 65, torch.float16)
    # few channels (integer units), then a tile of the tensor cores, grouped, and with a border
    for n, c, k, size, groups, pad in ((1, 40, 5, 4, 1, 0), (1, 256, 64, 8, 1, 0), (1, 512, 64, 8, 2, -1)):
        image, weight = words((n, size, size), c, generator), words((k, 3, 3), c // groups, generator)
        fixed = (image, weight, c, *CONV, groups, pad)
        yield "binary_conv2d", fixed
        for kind in EPILOGUES:
            yield "binary_conv2d_fused", (*fixed, *_epilogue((n, k, size, size), kind, generator))
    for m, c, k in ((1, 300, 7), (64, 512, 64)):
        fixed = (words((m,), c, generator), words((k,), c, generator), c)
        yield "binary_linear", fixed
        for kind in EPILOGUES:
            yield "binary_linear_fused", (*fixed, *_epilogue((m, k), kind, generator))
    picture = torch.rand(1, 3, 12, 10, generator=generator)
    for layout in (torch.contiguous_format, torch.channels_last):
        pooled = picture.contiguous(memory_format=layout)
        yield "multires_pool2d", (pooled, [7, 5, 12, 10, 1, 1])
    grads = [torch.rand(1, 3, h, w, generator=generator) for h, w in ((7, 5), (12, 10), (1, 1))]
    yield "multires_pool2d_backward", (grads, 12, 10)


CALLS = list(_calls())


def _outputs(call):
    out = getattr(internal, call[0])(*call[1])
    return [out] if isinstance(out, torch.Tensor) else list(out)


@pytest.fixture(scope="module")
def expected():
    with using("reference"):
        return [_outputs(call) for call in CALLS]


@pytest.mark.parametrize("backend", EMULATED)
@pytest.mark.parametrize("i", range(len(CALLS)), ids=[f"{name}-{i}" for i, (name, _) in enumerate(CALLS)])
def test_equals_the_reference(backend, i, expected):
    with using(backend):
        got = _outputs(CALLS[i])
    for mine, reference in zip(got, expected[i], strict=True):
        if CALLS[i][0].startswith("multires"):  # sums in another order
            torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)
        else:
            assert bits_equal(mine, reference)


@pytest.mark.parametrize(
    ("backend", "route"),
    [("emulated-80-forward", "and"), ("emulated-75-reverse", "xor"), ("emulated-120-random3", "s8")],
)
def test_tensor_cores_are_among_them(backend, route):
    calls = [call for call in CALLS if call[0] == "binary_conv2d"]
    with using(backend):
        routes = {internal.binary_conv2d_route(*args, False) for _, args in calls}
    assert any(route in name for name in routes) and any("integer" in name for name in routes), routes
