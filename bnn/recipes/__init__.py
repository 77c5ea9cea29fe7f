"""One paper, one file, readable from top to bottom: a module with a `Config` and `run(config) -> Result`."""

from importlib import import_module
from types import ModuleType

NAMES = ("plain", "candle", "vtst", "ke", "granularity", "retrain", "p2p")


def find(name: str) -> ModuleType:
    """The module of recipe `name`. Raises ValueError, listing those that exist, for an unknown one."""
    if name not in NAMES:
        raise ValueError(f"recipe: expected one of {', '.join(NAMES)}; got {name!r}")
    return import_module(f"bnn.recipes.{name}")
