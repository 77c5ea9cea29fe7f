"""What every op is held to, as functions."""

import re
from collections.abc import Callable, Sequence

import pytest
import torch
from inputs import bits_equal
from torch import Tensor
from torch.utils import _pytree as pytree


def refused(op: str, argument: str, call: Callable[[], object]) -> None:
    """`call` raises RuntimeError whose text names op and argument."""
    with pytest.raises(RuntimeError, match=rf"bnn::{op}: {re.escape(argument)}\b"):
        call()


def channels_innermost(x: Tensor) -> bool:
    """Strides as the ops document them: memory is [N, H, W, C]."""
    return x.movedim(1, -1).is_contiguous()


def meta_agrees(op: Callable, args: Sequence) -> None:
    """On meta tensors `op` gives the shapes, dtypes and strides that it gives for real."""
    real = pytree.tree_leaves(op(*args))
    on_meta = pytree.tree_map(lambda a: a.detach().to("meta") if isinstance(a, Tensor) else a, list(args))
    faked = pytree.tree_leaves(op(*on_meta))
    assert len(real) == len(faked)
    for r, f in zip(real, faked, strict=True):
        assert f.device.type == "meta" and r.device.type == "cpu"
        assert (r.shape, r.dtype) == (f.shape, f.dtype), f"{op}: real {r.shape} {r.dtype}, meta {f.shape} {f.dtype}"
        if r.numel():
            strides = [(a, b) for a, b, size in zip(r.stride(), f.stride(), r.shape, strict=True) if size > 1]
            assert all(a == b for a, b in strides), f"{op}: strides real {r.stride()}, meta {f.stride()} of {r.shape}"


def opcheck(op: torch._ops.OpOverload, *args) -> None:
    """Schema, fake, autograd registration and AOTDispatch of one op on one sample."""
    torch.library.opcheck(op, args)


def opcheck_text(op: torch._ops.OpOverload, *args) -> None:
    """The same for an op that returns text: the tests that do not compare outputs."""
    torch.library.opcheck(op, args, test_utils=("test_schema", "test_autograd_registration"))


def compiles(function: Callable, args: Sequence, backend: str = "aot_eager") -> None:
    """`torch.compile(fullgraph=True)` gives the same outputs and gradients, bit for bit."""
    torch._dynamo.reset()

    def run(f: Callable) -> list[Tensor]:
        leaves = [a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in args]
        outputs = [y for y in pytree.tree_leaves(f(*leaves)) if isinstance(y, Tensor)]
        differentiable = [y for y in outputs if y.requires_grad]
        if differentiable:
            sum((y.float() * torch.arange(y.numel()).view(y.shape).sin()).sum() for y in differentiable).backward()
        return [*outputs, *(a.grad for a in leaves if isinstance(a, Tensor) and a.grad is not None)]

    expected, got = run(function), run(torch.compile(function, fullgraph=True, backend=backend))
    assert len(expected) == len(got)
    assert all(bits_equal(a, b) for a, b in zip(expected, got, strict=True))


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))
