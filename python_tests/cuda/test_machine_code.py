"""What ptxas made of the kernels in the built extension: the right matrix instruction, no calls, no spills."""

from pathlib import Path

import pytest
import sass

from bnn import _extension

BUILT = _extension.module.build_info()["cuda"] if _extension.module else "no"
MATRIX = {
    75: "BMMA.88128.XOR.POPC",
    80: "BMMA.168256.AND.POPC",
    86: "BMMA.168256.AND.POPC",
    89: "BMMA.168256.AND.POPC",
    90: "BMMA.168256.AND.POPC",
    100: "IMMA.16832.S8.S8",
    120: "IMMA.16832.S8.S8",
}
CHIPS = [chip for chip in MATRIX if str(chip) in BUILT.replace("90a", "90").partition(",")[0].split()]

pytestmark = [
    pytest.mark.skipif(bool(sass.missing_tools()), reason=f"not installed: {sass.missing_tools()}"),
    pytest.mark.skipif(not CHIPS, reason="built without CUDA kernels"),
]


@pytest.mark.parametrize("chip", CHIPS)
def test_convolution(chip):
    kernels = sass.kernels(Path(_extension.module.__file__), chip)
    found = [kernel for name, kernel in kernels.items() if "conv_tensor_core<" in name and kernel.matrix]
    assert len(found) == (2 if chip >= 100 else 8)  # tiles of 64 and 128 pixels, one or four ways of loading
    for kernel in found:
        assert set(kernel.matrix) == {MATRIX[chip]}, kernel.name
        assert kernel.count("CALL") == kernel.local_accesses == kernel.stack == 0, kernel.name
    # docs/kernels.md has 2.8 to 7.8 instructions a matrix instruction with 1 bit, 16 with bytes: a fifth more is a loss
    densest = min(sum(kernel.loop.values()) / sum(kernel.matrix.values()) for kernel in found)
    assert densest <= (19.5 if chip >= 100 else 9.5)


@pytest.mark.parametrize("chip", CHIPS)
def test_no_kernel_spills(chip):
    kernels = sass.kernels(Path(_extension.module.__file__), chip)
    assert len(kernels) > 50
    assert {
        name: kernel.local_accesses for name, kernel in kernels.items() if kernel.stack or kernel.local_accesses
    } == {}
