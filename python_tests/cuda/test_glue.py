"""The glue's CUDA way without a GPU: which kernel is chosen, what is refused, what the runtime is called for."""

import re
import shutil
import subprocess
from collections.abc import Iterator

import backends
import pytest
import torch
from checks import refused
from inputs import rng, words
from shapes import wide_convs

from bnn import _extension, ops

BUILT = _extension.module.build_info() if _extension.module else {}
CONV = (words((2, 14, 14), 128, rng(1)), words((64, 3, 3), 128, rng(2)), 128, 1, 1)
ROUTES = {75: "b1 xor m8n8k128", 80: "b1 and m16n8k256", 90: "b1 and m16n8k256", 100: "s8 m16n8k32", 120: "s8 m16n8k32"}


@pytest.fixture
def emulated() -> Iterator[object]:
    with backends.using(backends.EMULATED[0]):
        yield backends.emulated()
        backends.emulated().configure(80, "forward", 0)


@pytest.mark.parametrize(("capability", "name"), ROUTES.items())
def test_the_chip_chooses_the_kernel(emulated, capability, name):
    emulated.configure(capability, "forward", 0)
    assert ops.binary_conv2d_route(*CONV) == name
    assert ops.binary_linear_route(words((512,), 512, rng(3)), words((64,), 512, rng(4)), 512) == name
    assert ops.binary_conv2d_route(words((2, 14, 14), 64, rng(1)), words((64, 3, 3), 1, rng(2)), 64, 1, 1, 1, 64) == (
        "integer units"
    )


def test_wide_cases_run_on_tensor_cores(emulated):
    for case in wide_convs(96, seed=20):
        x = torch.empty(case.n, case.h, case.w, -(-case.c // 64), dtype=torch.int64)
        weight = torch.empty(case.k, case.r, case.s, -(-case.c // case.groups // 64), dtype=torch.int64)
        assert ops.binary_conv2d_route(x, weight, case.c, *case.geometry) == ROUTES[80], case


def test_a_chip_too_old_is_refused(emulated):
    emulated.configure(70, "forward", 0)
    refused("bitpack", "x", lambda: ops.bitpack(torch.ones(3, 4)))
    with pytest.raises(RuntimeError, match=r"compute capability 7\.5 or later, got 7\.0"):
        ops.binary_conv2d(*CONV)


def test_more_rows_than_32_bits_count_are_refused(emulated):
    rows, word = 2**31, torch.zeros(1, 1, dtype=torch.int64)
    column = torch.zeros(1, 1).expand(rows, 1)
    for op in ("bitpack", "sign_ste"):
        refused(op, "x", lambda op=op: getattr(ops, op)(column))
    refused("bitunpack", "words", lambda: ops.bitunpack(word.expand(rows, 1), 3))
    refused("binary_linear", "x", lambda: ops.binary_linear(word.expand(rows, 1), word, 3))
    pixel, image = word.view(1, 1, 1, 1), word.view(1, 1, 1, 1).expand(2**15, 2**10, 2**6, 1)
    refused("binary_conv2d", "x", lambda: ops.binary_conv2d(image, pixel, 3))
    refused("binary_conv2d", "the output", lambda: ops.binary_conv2d(image[1:], pixel, 3, 1, 16))
    refused("binary_conv2d", "padding", lambda: ops.binary_conv2d(pixel, pixel, 3, 2**30, 2**29))
    refused("multires_pool2d", "x", lambda: ops.multires_pool2d(torch.zeros(()).expand(2**31, 1, 1, 1), [(1, 1)]))


SYNCHRONISING = r"cuda(DeviceSynchronize|StreamSynchronize|EventSynchronize|Memcpy|Memset|Malloc|Free|HostAlloc)"


@pytest.mark.skipif(BUILT.get("cuda", "no") == "no", reason="built without CUDA kernels")
@pytest.mark.skipif(not shutil.which("objdump"), reason="no objdump")
def test_nothing_waits_for_the_device():
    """What our functions in the built file call of the runtime: nothing that a CUDA graph could not capture."""
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", _extension.module.__file__], check=True,
                             capture_output=True, text=True).stdout  # fmt: skip
    called: set[str] = set()
    ours = False
    for line in listing.splitlines():
        if function := re.match(r"[0-9a-f]+ <(\w+)", line):
            ours = "bnn" in function[1]
        elif ours and (call := re.search(r"\b(?:call|jmp|lea)q? .*<(_*cuda\w+)", line)):
            called.add(call[1])
    assert "__cudaLaunchKernel" in called, "launches are seen"
    assert not {name for name in called if re.match(SYNCHRONISING, name)}
