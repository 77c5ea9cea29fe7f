"""bnn.isa: which kernels run, and changing it."""

import sys

import pytest
import torch

import bnn

COMPILED = bnn.isa.available()[1:]
needs_extension = pytest.mark.skipif(not COMPILED, reason="the extension is not built")


@pytest.fixture(autouse=True)
def restore():
    before = bnn.isa.current()
    yield
    bnn.isa.use(before)


@pytest.fixture
def reference_calls(monkeypatch):
    """How often the pure-torch form of bitpack ran."""
    module, calls = sys.modules["bnn.ops.bitpack"], []
    original = module.pack_bits
    monkeypatch.setattr(module, "pack_bits", lambda bits: (calls.append(1), original(bits))[1])
    return calls


def test_names():
    assert bnn.isa.available()[0] == "reference" and len(set(bnn.isa.available())) == len(bnn.isa.available())
    assert bnn.isa.current() in bnn.isa.available()
    known = ["scalar", "avx2", "avx512", "amx"] if "avx2" in COMPILED else ["scalar", "neon"]
    assert COMPILED == [name for name in known if name in COMPILED], "lowest first"


def test_use_and_current(reference_calls):
    x = torch.randn(2, 65, 3, 3)
    results = []
    for name in bnn.isa.available() * 2 + bnn.isa.available()[::-1]:
        bnn.isa.use(name)
        assert bnn.isa.current() == name
        reference_calls.clear()
        results.append(bnn.ops.bitpack(x))
        assert bool(reference_calls) == (name == "reference"), f"{name}: the reference ran {len(reference_calls)} times"
    assert all(torch.equal(r, results[0]) for r in results)


def test_reference_is_idempotent(reference_calls):
    for _ in range(3):
        bnn.isa.use("reference")
    bnn.ops.bitpack(torch.randn(1, 3))
    assert reference_calls == [1]
    for name in COMPILED:
        bnn.isa.use(name)
        bnn.isa.use(name)
        bnn.ops.bitpack(torch.randn(1, 3))
    assert reference_calls == [1]


@pytest.mark.parametrize("name", ["nonsense", "", "AVX512", "neon"])
def test_unknown_names_are_refused(name):
    if name in bnn.isa.available():
        pytest.skip(f"{name} is available here")
    before = bnn.isa.current()
    with pytest.raises(ValueError, match="reference") as caught:
        bnn.isa.use(name)
    assert repr(name) in str(caught.value) and str(bnn.isa.available()) in str(caught.value)
    assert bnn.isa.current() == before


@needs_extension
def test_every_op_has_a_cpu_kernel():
    """An op that the extension forgot would fall back to the reference silently."""
    from bnn.ops import _library

    bnn.isa.use(COMPILED[-1])
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    assert [op for op in _library.references if not has_kernel(f"bnn::{op}", "CPU")] == []


@needs_extension
def test_build_info():
    info = bnn._extension.module.build_info()
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in info.items())
    assert {"version", "compiler", "cuda"} <= set(info)


@needs_extension
def test_the_module_refuses_too():
    with pytest.raises(ValueError, match="scalar"):
        bnn._extension.module.isa_use("nonsense")
