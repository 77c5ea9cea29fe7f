"""Fixtures for all tests: the instruction set under test, a fixed seed."""

from collections.abc import Iterator

import pytest
import torch

import bnn

COMPILED = [name for name in bnn.isa.available() if name != "reference"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _using(name: str) -> Iterator[str]:
    before = bnn.isa.current()
    bnn.isa.use(name)
    yield name
    bnn.isa.use(before)


@pytest.fixture(params=bnn.isa.available())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every implementation that this machine can run, the reference among them."""
    yield from _using(request.param)


@pytest.fixture(params=COMPILED or [pytest.param("none", marks=pytest.mark.skip("the extension is not built"))])
def compiled_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every compiled instruction set."""
    yield from _using(request.param)


@pytest.fixture(params=sorted({"reference", bnn.isa.available()[-1]}))
def endpoint_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The reference and the highest instruction set: for tests of glue that all instruction sets share."""
    yield from _using(request.param)
