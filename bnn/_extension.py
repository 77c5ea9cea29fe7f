"""Imports the compiled kernels once; says why not, if not."""

from types import ModuleType

module: ModuleType | None = None
error: str | None = None

try:
    from bnn import _C as module  # noqa: F401  importing it registers the kernels with the dispatcher
except ModuleNotFoundError:
    error = "the extension is not built (installed with BNN_BUILD=0, or imported from a source tree)"
except ImportError as problem:
    error = f"the extension is built but does not load: {problem}"
