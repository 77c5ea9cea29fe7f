"""Imports the compiled kernels once; says why not, if not."""

from types import ModuleType
from typing import Any

module: ModuleType | Any = None  # None where there is no extension
error: str | None = None

try:
    from bnn import _C as module  # type: ignore  # noqa: F401  importing it registers the kernels
except ModuleNotFoundError:
    error = "the extension is not built (installed with BNN_BUILD=0, or imported from a source tree)"
except ImportError as problem:
    error = f"the extension is built but does not load: {problem}"
