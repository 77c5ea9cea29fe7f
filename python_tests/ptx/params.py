"""ctypes mirrors of the params structs in csrc/include/bnn, with addresses of the runner's memory for pointers."""

import ctypes

import numpy as np
from ptx.memory import Buffer

F32, BF16, F16, I8 = range(4)  # bnn::DType; numpy has no bfloat16, so its bits travel as uint16
_I64, _POINTER = ctypes.c_int64, ctypes.c_void_p


class _Params(ctypes.Structure):
    def __init__(self, **fields: object) -> None:
        """Buffers become spans where the field is one, else addresses; None is a null pointer."""
        types = dict(self._fields_)
        super().__init__(**{k: _field(types[k], v) for k, v in fields.items() if v is not None})


def _field(type_: type, value: object) -> object:
    if isinstance(value, Buffer):
        return span(value) if type_ is Span else value.address
    return value


class Span(ctypes.Structure):
    _fields_ = [("data", _POINTER), ("dtype", ctypes.c_uint8)]


def span(buffer: Buffer) -> Span:
    dtypes = {np.float32: F32, np.uint16: BF16, np.float16: F16, np.int8: I8}
    return Span(buffer.address, dtypes[buffer.dtype.type])


class Stream(_Params):
    _fields_ = [("handle", _POINTER), ("capability", ctypes.c_int), ("multiprocessors", ctypes.c_int)]


class Bitpack(_Params):
    _fields_ = [("x", Span), ("shift", _POINTER), ("channels", _I64), ("words", _POINTER)]


class Bitunpack(_Params):
    _fields_ = [("words", _POINTER), ("channels", _I64), ("y", Span)]


class SignSte(_Params):
    _fields_ = [
        ("x", Span), ("shift", _POINTER), ("channels", _I64), ("surrogate", ctypes.c_uint8), ("grad", Span),
        ("out", Span), ("words", _POINTER), ("residue", _POINTER),
    ]  # fmt: skip


class MeanAbs(_Params):
    _fields_ = [("w", Span), ("length", _I64), ("mean", _POINTER)]


class Epilogue(_Params):
    INTEGER, SCALED, FUSED = range(3)
    _fields_ = [
        ("kind", ctypes.c_uint8), ("channels", _I64), ("sums", _POINTER), ("alpha", _POINTER), ("y", Span),
        ("scale", _POINTER), ("bias", _POINTER), ("residual", Span), ("rprelu", _POINTER), ("next_shift", _POINTER),
        ("stream", Span), ("words", _POINTER),
    ]  # fmt: skip


class GatedAdd(_Params):
    _fields_ = [
        ("x", Span), ("gate", Span), ("pixels", _I64), ("multiply", ctypes.c_bool), ("epilogue", Epilogue),
    ]  # fmt: skip


class BinaryLinear(_Params):
    _fields_ = [("x", _POINTER), ("weight", _POINTER), ("M", _I64), ("K", _I64), ("C", _I64), ("dot", _POINTER)]


class ConvGeometry(_Params):
    _fields_ = [
        *((name, _I64) for name in "N C H W K R S G".split()),
        *((f"{name}_{axis}", _I64) for name in ("stride", "pad", "dilation") for axis in "hw"),
        ("pad_value", ctypes.c_int), ("OH", _I64), ("OW", _I64),
    ]  # fmt: skip


class PoolLevel(_Params):
    _fields_ = [("h", _I64), ("w", _I64), ("data", _POINTER)]
