"""1-bit neural networks for PyTorch: bit-packed kernels below, calibrated long-tail recipes above."""

from importlib.metadata import PackageNotFoundError, version

from bnn import isa, models, nn, ops
from bnn.models.binarize import binarize
from bnn.nn.packed_file import load, save
from bnn.nn.packing import PackedModel, pack

try:
    __version__ = version("bnn-torch")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = ["PackedModel", "__version__", "binarize", "isa", "load", "models", "nn", "ops", "pack", "save"]
