"""The SASS check on kernels whose machine code is known."""

import pytest
import sass

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(bool(sass.missing_tools()), reason=f"not installed: {sass.missing_tools()}"),
]
PRODUCTS = "samples::products(unsigned int const*, unsigned int const*, int*, int)"


@pytest.mark.parametrize("chip", [80, 90])
def test_main_loop(cubin, chip):
    kernel = sass.kernels(cubin("sass_samples.cu", chip))[PRODUCTS]
    assert kernel.matrix == {"IMMA.16832.S8.S8": 1, "BMMA.168256.AND.POPC": 1}
    assert kernel.count("LDS") == 4 and kernel.count("BRA") == 1  # the second loop is another
    assert 16 < kernel.registers < 256 and kernel.shared >= 256
    assert kernel.stack == kernel.calls == kernel.local_accesses == 0


def test_emulated_products_are_called(cubin):
    """From sm_100 on there is no unit for 1-bit products."""
    kernel = sass.kernels(cubin("sass_samples.cu", 120))[PRODUCTS]
    assert kernel.calls == 1 and kernel.count("IMMA", whole=True) > 1


def test_calls_and_local_memory(cubin):
    found = sass.kernels(cubin("sass_samples.cu", 80))
    assert len(found) == 3
    assert found["samples::calls(int*)"].calls == 1
    spilling = found["samples::local_memory(int const*, int*, int)"]
    assert spilling.local_accesses > 0 and spilling.stack >= 128 and spilling.calls == 0


def test_a_file_for_several_chips(fat_object):
    path = fat_object("sass_samples.cu", (80, 90))
    assert sass.kernels(path, 80)[PRODUCTS].shared < sass.kernels(path, 90)[PRODUCTS].shared
    with pytest.raises(ValueError, match="no code for sm_75"):
        sass.kernels(path, 75)
