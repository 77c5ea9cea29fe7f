"""Fixtures for all tests: the backend under test, a fixed seed."""

from collections.abc import Iterator

import backends
import pytest
import torch

import bnn

ORDERS = [*backends.EMULATED[:3], *(pytest.param(name, marks=pytest.mark.ci) for name in backends.EMULATED[3:])]
COMPILED = [name for name in bnn.isa.available() if name != "reference"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[*bnn.isa.available(), *ORDERS, backends.CUDA])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every implementation that this machine can run: the reference, instruction sets, CUDA emulated and real."""
    with backends.using(request.param):
        yield request.param


@pytest.fixture(params=bnn.isa.available())
def cpu_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The reference and every instruction set: for ops that are the CPU's alone."""
    with backends.using(request.param):
        yield request.param


@pytest.fixture(params=[*COMPILED, *backends.EMULATED[:3], backends.CUDA])
def compiled_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same without the reference, and each CUDA route once: for tests that take long."""
    with backends.using(request.param):
        yield request.param


@pytest.fixture(params=[*sorted({"reference", bnn.isa.available()[-1]}), backends.EMULATED[0], backends.CUDA])
def endpoint_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """One for each glue: the reference, the highest instruction set, CUDA emulated and real."""
    with backends.using(request.param):
        yield request.param
