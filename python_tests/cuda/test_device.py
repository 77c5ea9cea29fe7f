"""What only a GPU shows: streams, graphs, other libraries' arrays, several devices. Run with `pytest -m gpu`."""

from collections.abc import Callable

import pytest
import torch
from inputs import bits_equal, rng, words
from torch import Tensor

import bnn
from bnn import _extension, ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(bnn.isa.current_on(torch.device("cuda")) == "reference", reason="built without CUDA kernels"),
]
internal = torch.ops.bnn


def calls() -> dict[str, tuple[Callable, tuple]]:
    """Every op with arguments on the CPU; the convolutions once per kind of kernel."""
    x, grad = torch.randn(2, 4, 128, 14, 14, generator=rng(1))
    weight, shift = torch.randn(64, 128, 3, 3, generator=rng(2)), torch.randn(128, generator=rng(3))
    bits, filters = words((4, 14, 14), 128, rng(4)), words((64, 3, 3), 128, rng(5))
    scale, rprelu = torch.randn(64, generator=rng(6)), torch.randn(3, 64, generator=rng(7))
    residual = torch.randn(4, 64, 14, 14, generator=rng(8))
    geometry = ([1, 1], [1, 1], [1, 1], 1, 0)
    matrix, rows = torch.randn(96, 512, generator=rng(9)), words((96,), 512, rng(10))
    columns, latent = words((64,), 512, rng(11)), torch.randn(64, 512, generator=rng(12))
    residue = torch.randint(0, 256, (4, 14, 14, 128), generator=rng(13)).to(torch.uint8)
    fused = (scale, scale, residual, rprelu, scale, torch.float16)
    return {
        "bitpack": (internal.bitpack, (x, shift)),
        "gated_add": (internal.gated_add, (residual, residual, residual[:, :, :1, :1], *fused[:2], True, *fused[4:])),
        "bitunpack": (internal.bitunpack, (bits, 128, torch.bfloat16)),
        "sign_ste": (internal.sign_ste, (x, shift, "clip")),
        "sign_ste_backward": (internal.sign_ste_backward, (grad, x, shift, "polynomial")),
        "ste_residue": (internal.ste_residue, (x, shift, "polynomial")),
        "ste_residue_backward": (internal.ste_residue_backward, (grad, residue, "polynomial")),
        "binary_conv2d": (internal.binary_conv2d, (bits, filters, 128, *geometry)),
        "binary_conv2d depthwise": (internal.binary_conv2d, (bits, words((128, 3, 3), 1, rng(14)), 128, [1, 1], [1, 1],
                                                             [1, 1], 128, 0)),
        "binary_conv2d_fused": (internal.binary_conv2d_fused, (bits, filters, 128, *geometry, *fused)),
        "binary_conv2d_ste_forward": (internal.binary_conv2d_ste_forward,
                                      (x, weight, shift, "clip", "mean", *geometry)),
        "binary_linear": (internal.binary_linear, (rows, columns, 512)),
        "binary_linear few rows": (internal.binary_linear, (rows[:2], columns, 512)),
        "binary_linear_fused": (internal.binary_linear_fused,
                                (rows, columns, 512, scale, scale, None, None, scale, None)),
        "binary_linear_ste_forward": (internal.binary_linear_ste_forward, (matrix, latent, None, "clip", "none")),
        "multires_pool2d": (internal.multires_pool2d, (x, [7, 7, 5, 3, 1, 1])),
        "multires_pool2d_backward": (internal.multires_pool2d_backward, ([x[:, :, :5, :3], x[:, :, :2, :2]], 14, 14)),
    }  # fmt: skip


CALLS = tuple(calls())


def on(device: torch.device | str, arguments: tuple) -> list:
    return torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to(device), list(arguments))


def tensors(out) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


@pytest.fixture
def expected() -> Callable[[str], list[Tensor]]:
    """The CPU's results, on the device."""
    return lambda name: [t.cuda() for t in tensors(calls()[name][0](*calls()[name][1]))]


def same(got: list[Tensor], expected: list[Tensor], name: str) -> bool:
    if "pool" in name:  # sums in another order
        return all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(got, expected, strict=True))
    return all(bits_equal(a.cpu(), b.cpu()) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_on_a_side_stream(name, expected):
    """Work queued before the op on the same stream is seen; the default stream is not used."""
    op, arguments = calls()[name]
    arguments, side = on("cuda", arguments), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # a default-stream kernel would overtake the copies below
        late = torch.utils._pytree.tree_map_only(Tensor, torch.clone, arguments)
        got = tensors(op(*late))
    side.synchronize()
    assert same(got, expected(name), name)


@pytest.mark.parametrize("name", CALLS)
def test_in_a_graph(name, expected):
    op, arguments = calls()[name]
    arguments = on("cuda", arguments)
    op(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = tensors(op(*arguments))
    for t in got:
        t.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert same(got, expected(name), name)


def test_a_packed_network_says_what_it_runs_on():
    packed = bnn.pack(bnn.models.build("reactnet_tiny", 10, 1, 32).eval()).cuda()
    x = torch.randn(64, 1, 32, 32, device="cuda")
    kernels = {r["kernel"] for r in packed.backend_report(x) if r["kind"] == "PackedBinaryConv2d"}
    assert kernels and not kernels & {"reference", "torch", "cuda"}
    assert torch.allclose(packed(x).cpu(), packed.cpu()(x.cpu()), atol=1e-3)
    assert len(_extension.module.cuda_devices()) == torch.cuda.device_count()


def test_cupy_in_and_out():
    cupy = pytest.importorskip("cupy")
    generator = cupy.random.default_rng(1)
    values = generator.standard_normal((37, 192), dtype=cupy.float32)
    packed = ops.bitpack(torch.from_dlpack(values))
    bits = cupy.from_dlpack(packed).view(cupy.uint8)
    assert (bits == cupy.packbits(values < 0, axis=None, bitorder="little").reshape(bits.shape)).all()
    back = cupy.from_dlpack(ops.bitunpack(torch.from_dlpack(cupy.from_dlpack(packed)), 192))
    assert (back == cupy.where(values < 0, -1, 1)).all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
@pytest.mark.parametrize("name", CALLS)
def test_on_another_device_than_the_current(name, expected):
    op, arguments = calls()[name]
    got = tensors(op(*on("cuda:1", arguments)))
    assert torch.cuda.current_device() == 0 and all(t.device.index == 1 for t in got)
    assert same(got, expected(name), name)


@pytest.mark.parametrize("other", ["cpu", "cuda:1"])
def test_tensors_on_different_devices_are_refused(other):
    if other == "cuda:1" and torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    x, weight = words((2, 5, 5), 66, rng(1)).cuda(), words((6, 3, 3), 66, rng(2)).to(other)
    with pytest.raises(RuntimeError, match=f"bnn::binary_conv2d: weight must be on cuda:0, where x is, got {other}"):
        ops.binary_conv2d(x, weight, 66)
    with pytest.raises(RuntimeError, match=f"bnn::bitpack: shift must be on cuda:0, where x is, got {other}"):
        ops.bitpack(torch.ones(2, 3, device="cuda"), torch.ones(3, device=other))
