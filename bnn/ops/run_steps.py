"""Consecutive layers of a packed network in one call. Not an op to call by hand: `bnn.PackedModel` does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.ops._library import channel_view, check, define, library

KINDS = ("binary_conv2d", "int8_conv2d", "int8_linear", "gated_add", "avg_pool2d", "pixel_mean", "relu", "sigmoid",
         "prelu", "blend", "cat", "output")  # fmt: skip
_INPUTS = {"gated_add": 3, "blend": 2, "cat": 2}  # others have one, and perhaps a residual
Ints = list[int] | tuple[int, ...]
DTYPES = (None, torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Step:
    """A row of `code`. Values have places: the inputs' are 0, 1, ..."""

    kind: int  # index into KINDS
    x: int = 0  # place of the input
    residual: int = -1  # place, -1 for none; of blend and cat: the second input
    gate: int = -1
    output: int = 0  # place of the stream, or of the words where there is no stream; words beside it are behind it
    x_ends: int = 0  # whether nobody reads x again
    residual_ends: int = 0
    gate_ends: int = 0
    constant: int = 0  # of the first: prepared[, shift]; panels, scale, bias[, next_shift]; scale, bias[, next_shift];
    # prelu's slopes [C]; blend's share [C]
    dtype: int = 0  # index into DTYPES, of the stream
    words: int = 0  # whether words are asked for
    shift: int = 0  # whether a float input has a shift
    mean: int = 0  # whether a linear layer takes the mean over pixels
    multiply: int = 0  # of gated_add
    kernel_size: Ints = (1, 1)
    stride: Ints = (1, 1)
    padding: Ints = (0, 0)
    pool: Ints = (0, 0, 0)  # int8_conv2d: size or 0, stride, padding; avg_pool2d: ceil_mode, include_pad


_LENGTHS = [len(field.default) if isinstance(field.default, tuple) else 1 for field in fields(Step)]


def encode(steps: Sequence[Step]) -> Tensor:
    """int64 [steps, columns]."""
    rows = [[getattr(step, field.name) for field in fields(Step)] for step in steps]
    flat = [[n for value in row for n in (value if isinstance(value, Sequence) else [value])] for row in rows]
    return torch.tensor(flat, dtype=torch.int64, device="cpu").view(len(flat), sum(_LENGTHS))


def _decode(row: list[int]) -> Step:
    values = iter(row)
    parts = [[next(values) for _ in range(length)] for length in _LENGTHS]
    return Step(*(part[0] if len(part) == 1 else part for part in parts))  # type: ignore[arg-type]


def run_steps(inputs: list[Tensor], constants: list[Tensor], code: Tensor) -> list[Tensor]:
    """The values that the steps of kind "output" name, after the other steps of `code` ran in order, each as its op or
    torch's function would on its own. On the CPU.

    Args:
        inputs: values 0, 1, ...: float images [N, C, H, W] or words.
        constants: what layers hold, see `Step`.
        code: `encode(steps)`.

    Raises:
        RuntimeError: a step that there is not, a place that holds nothing, or what its op refuses.
    """
    return torch.ops.bnn.run_steps(inputs, constants, code)


def _reference(inputs: list[Tensor], constants: list[Tensor], code: Tensor) -> list[Tensor]:
    op, columns = "run_steps", sum(_LENGTHS)
    table = code.dim() == 2 and code.shape[1] == columns and code.dtype == torch.int64 and code.is_contiguous()
    check(table, op, "code", f"int64 [steps, {columns}], contiguous, on cpu", list(code.shape))
    values: dict[int, Tensor] = dict(enumerate(inputs))
    places = len(inputs) + 2 * len(code)
    outputs = []
    for step in map(_decode, code.tolist()):
        check(0 <= step.kind < len(KINDS), op, "code", f"of kinds 0 to {len(KINDS) - 1}", step.kind)
        for i, place in enumerate((step.x, step.residual, step.gate)):
            there = place in values or (place < 0 and i >= _INPUTS.get(KINDS[step.kind], 1))
            check(there, op, "code", "of steps that read what earlier ones made", f"place {place}")
        x, residual = values[step.x], values.get(step.residual)
        check(0 <= step.dtype < len(DTYPES), op, "code", f"of dtypes 0 to {len(DTYPES) - 1}", step.dtype)
        kind = KINDS[step.kind]
        if kind == "output":
            outputs.append(x)
            made = []
        else:
            there = 0 <= step.constant <= len(constants) - _constant_count(kind, step)
            check(there, op, "constants", f"{_constant_count(kind, step)} from {step.constant} on", len(constants))
            own = constants[step.constant :]
            if kind in _FUNCTIONS:
                made = [_FUNCTIONS[kind](step, x, residual, own)]
            else:
                stream, words = _layer(kind, step, x, residual, values.get(step.gate), own)
                made = [t for t, asked in ((stream, step.dtype), (words, step.words)) if asked]
        for place, t in enumerate(made, step.output):
            check(0 <= place < places, op, "code", f"of places 0 to {places - 1}", place)
            values[place] = t
        for place, ends in ((step.x, step.x_ends), (step.residual, step.residual_ends), (step.gate, step.gate_ends)):
            if ends:
                values.pop(place, None)
    return outputs


def _constant_count(kind: str, step: Step) -> int:
    if kind == "binary_conv2d":
        return 1 + step.shift
    return {"int8_conv2d": 3, "int8_linear": 3, "gated_add": 2, "prelu": 1, "blend": 1}.get(kind, 0) + step.words


def _avg_pool2d(step: Step, x: Tensor, *_: Any) -> Tensor:
    flags = map(bool, step.pool[:2])
    return F.avg_pool2d(x, step.kernel_size, step.stride, step.padding, *flags)


def _blend(step: Step, a: Tensor, b: Tensor, constants: list[Tensor]) -> Tensor:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return torch.lerp(b.to(dtype), a.to(dtype), channel_view(constants[0], a.dim()).to(dtype))


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "avg_pool2d": _avg_pool2d,
    "pixel_mean": lambda step, x, *_: torch.ops.bnn.multires_pool2d(x, [1, 1])[0],
    "relu": lambda step, x, *_: F.relu(x),
    "sigmoid": lambda step, x, *_: torch.sigmoid(x),
    "prelu": lambda step, x, _, constants: F.prelu(x, constants[0]),
    "blend": _blend,
    "cat": lambda step, x, other, _: torch.cat([x, other], 1),
}


def _layer(kind: str, step: Step, x: Tensor, residual: Tensor | None, gate: Tensor | None,
           constants: list[Tensor]) -> tuple[Tensor, Tensor]:  # fmt: skip
    ops, dtype = torch.ops.bnn, DTYPES[step.dtype]
    if kind == "gated_add":
        next_shift = constants[2] if step.words else None
        return ops.gated_add(x, residual, gate, *constants[:2], bool(step.multiply), next_shift, dtype)
    if kind == "binary_conv2d":
        words = x if x.dtype == torch.int64 else ops.bitpack(x, constants[1] if step.shift else None)
        return ops.binary_conv2d_prepared(words, constants[0], [], residual, dtype, bool(step.words))
    pool = step.pool if kind == "int8_conv2d" and step.pool[0] else []
    arguments = (constants[0], step.kernel_size, step.stride, step.padding, pool, *constants[1:3],
                 constants[3] if step.words else None, dtype)  # fmt: skip
    if kind == "int8_conv2d":
        return ops.int8_conv2d(x, *arguments)
    x = ops.multires_pool2d(x, [1, 1])[0].flatten(1) if step.mean else x
    leading = x.shape[:-1]
    stream, words = ops.int8_conv2d(x.reshape(leading.numel(), x.shape[-1], 1, 1), *arguments)
    stream = stream.reshape(*leading, stream.shape[1]) if step.dtype else stream
    return stream, words.reshape(*leading, words.shape[3]) if step.words else words


def _fake(inputs: list[Tensor], constants: list[Tensor], code: Tensor) -> list[Tensor]:
    raise NotImplementedError("bnn::run_steps: shapes follow from the values of `code`; run the layers one by one")


define("run_steps(Tensor[] inputs, Tensor[] constants, Tensor code) -> Tensor[]", _reference, _fake)


def _vmap(info, in_dims, inputs: list[Tensor], constants: list[Tensor], code: Tensor) -> tuple[list[Tensor], list[int]]:
    """Every value begins with a dimension of images that don't see each other: the mapped one joins it."""
    op, count = "run_steps", info.batch_size
    check(in_dims[2] is None and set(in_dims[1]) <= {None}, op, "constants and code", "the same for all", "mapped ones")
    rows = []
    for t, dim in zip(inputs, in_dims[0], strict=True):
        mapped = t.expand(count, *t.shape) if dim is None else t.movedim(dim, 0)
        check(mapped.dim() > 2, op, "inputs", "of at least two dimensions", list(mapped.shape[1:]))
        rows.append(mapped.flatten(0, 1))
    outputs = run_steps(rows, constants, code)
    return [t.unflatten(0, (count, len(t) // count)) for t in outputs], [0] * len(outputs)


torch.library.register_vmap("bnn::run_steps", _vmap, lib=library)
