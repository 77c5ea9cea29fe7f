"""`bnn.save` and `bnn.load`: packed networks as safetensors files. Format: docs/bit_layout.md.

A file is data: nothing in it is executed, and every name, size and type in it is checked against what the listed
layers expect before any tensor is read.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch

from bnn.nn import _program
from bnn.nn.binary_conv2d import PackedBinaryConv2d
from bnn.nn.binary_linear import PackedBinaryLinear
from bnn.nn.packing import PackedModel

FORMAT = "1"
LAYOUT = "1"
_STEP_KEYS = {"name", "kind", "inputs", "args"}
_POSTHOC_KEYS = {"temperature", "logit_offsets"}
_PREPROCESS_KEYS = {"size", "mean", "std", "mode"}
_MAX_STEPS = 10_000
# what constructors of layers raise on arguments that make no sense
_BUILD_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class FileRefused(ValueError):
    """A model file that can't be trusted or understood; the message says why."""


def save(
    packed: PackedModel,
    path: str | os.PathLike,
    classes: list[str] | None = None,
    preprocess: dict | None = None,
    posthoc: dict | None = None,
) -> Path:
    """Write a packed network; arguments that are None are taken from the model. An existing file is replaced.

    Args:
        packed: from `bnn.pack`.
        path: usually ending in .safetensors.
        classes: names of the K classes.
        preprocess: {"size": [H, W], "mean": [...], "std": [...], "mode": "L" | "RGB"}.
        posthoc: {"temperature": T > 0, "logit_offsets": [K floats]}.

    Raises:
        TypeError: not a packed network. ValueError: unknown keys.
    """
    from safetensors.torch import save_file

    if not isinstance(packed, PackedModel):
        raise TypeError(f"save: packed must be what bnn.pack returned, got {type(packed).__name__}")
    entries = {
        "bnn.classes": packed.classes if classes is None else [str(c) for c in classes],
        "bnn.preprocess": packed.preprocess if preprocess is None else preprocess,
        "bnn.posthoc": packed.posthoc if posthoc is None else posthoc,
        "bnn.head": _program.head_entry(packed.steps),
    }
    metadata = {"bnn.format": FORMAT, "bnn.layout": LAYOUT, "bnn.graph": json.dumps({"steps": packed.steps})}
    metadata |= {key: json.dumps(value) for key, value in entries.items() if value is not None}
    _checked_metadata(metadata, "save")
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    save_file({k: v.contiguous() for k, v in packed.layers.state_dict().items()}, temporary, metadata)
    os.replace(temporary, path)
    return path


@torch.inference_mode(False)
def load(path: str | os.PathLike) -> PackedModel:
    """Read a packed network; needs nothing of the code that trained it.

    Raises:
        FileNotFoundError: no such file.
        FileRefused (a ValueError): truncated, foreign or newer file, unknown layer, sizes that disagree, stray bits.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as problem:
        raise FileRefused(f"{path}: not a complete safetensors file ({problem})") from problem
    with file:
        meta = _checked_metadata(file.metadata() or {}, str(path))
        steps = meta["bnn.graph"]["steps"]
        try:
            with torch.device("meta"):
                layers = {s["name"]: _program.build_layer(s["kind"], s["args"]) for s in steps
                          if s["kind"] in _program.LAYERS}  # fmt: skip
            _program.set_dtype(steps, layers)
            model = PackedModel(steps, layers)
        except _BUILD_ERRORS as problem:
            raise FileRefused(f"{path}: the graph does not describe a network ({problem})") from problem
        expected = model.layers.state_dict()
        _check_tensors(file, expected, path)
        # Copies: in a file tensors lie anywhere, on which the last digits of torch's products depend on some CPUs.
        tensors = {name: file.get_tensor(name).to(like.dtype, copy=True) for name, like in expected.items()}
        model.layers.load_state_dict(tensors, assign=True)
    _check_tail_bits(model, path)
    _check_class_count(model, meta, path)
    model.classes, model.preprocess, model.posthoc = (
        meta.get(f"bnn.{key}") for key in ("classes", "preprocess", "posthoc")
    )
    return model.eval().requires_grad_(False)


def _checked_metadata(metadata: dict[str, str], path: str) -> dict:
    """The metadata strings as values, every key and version known."""

    def refuse(condition: bool, why: str) -> None:
        if condition:
            raise FileRefused(f"{path}: {why}")

    refuse("bnn.format" not in metadata, "a safetensors file, but not a packed bnn model (no 'bnn.format')")
    for key, known in (("bnn.format", FORMAT), ("bnn.layout", LAYOUT)):
        version = metadata.get(key)
        refuse(version != known, f"{key} is {version!r}, this version of bnn reads {known!r}; update bnn")
    known_keys = {f"bnn.{k}" for k in ("format", "layout", "graph", "classes", "preprocess", "posthoc", "head")}
    refuse(bool(unknown := sorted(set(metadata) - known_keys)), f"unknown metadata {unknown}; update bnn")
    values: dict = {}
    for key in sorted(known_keys - {"bnn.format", "bnn.layout"}):
        if key in metadata:
            try:
                values[key] = json.loads(metadata[key])
            except (ValueError, RecursionError) as problem:
                raise FileRefused(f"{path}: {key} is not JSON ({problem})") from problem
    refuse("bnn.graph" not in values, "no 'bnn.graph'")
    _check_graph(values["bnn.graph"], refuse)
    classes = values.get("bnn.classes")
    refuse(classes is not None and not _is_list(classes, str), "bnn.classes must be a list of strings")
    for key, keys in (("bnn.posthoc", _POSTHOC_KEYS), ("bnn.preprocess", _PREPROCESS_KEYS)):
        value = values.get(key, {})
        refuse(not isinstance(value, dict) or not set(value) <= keys, f"{key} has keys other than {sorted(keys)}")
    posthoc = values.get("bnn.posthoc", {})
    temperature = posthoc.get("temperature", 1.0)
    refuse(not _is_number(temperature) or not temperature > 0, "the temperature must be a positive number")
    offsets = posthoc.get("logit_offsets") or []
    refuse(not isinstance(offsets, list) or not all(map(_is_number, offsets)), "logit_offsets must be finite numbers")
    if "bnn.preprocess" in values:
        _check_preprocess(values["bnn.preprocess"], refuse)
    head, expected = values.get("bnn.head"), _program.head_entry(values["bnn.graph"]["steps"])
    refuse(head != expected, f"bnn.head is {head!r}, the graph's variational head says {expected!r}")
    return values


def _is_number(value) -> bool:
    """A finite number of sensible size: JSON has integers of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _check_preprocess(entry: Any, refuse) -> None:
    size, mode = entry.get("size"), entry.get("mode")
    pixels = _is_list(size, int) and len(size) == 2 and all(0 < edge < 2**15 for edge in size)
    refuse(not pixels, f"preprocess size must be [H, W] in pixels, got {size!r}")
    refuse(mode not in ("L", "RGB"), f"preprocess mode must be 'L' or 'RGB', got {mode!r}")
    for key in ("mean", "std"):
        value = entry.get(key)
        fits = isinstance(value, list) and len(value) == len("RGB" if mode == "RGB" else "L")
        fits = fits and all(_is_number(v) and (key == "mean" or v > 0) for v in value)
        refuse(not fits, f"preprocess {key} must be one number a channel of mode {mode!r}, got {value!r}")


def _is_list(value, kind) -> bool:
    return isinstance(value, list) and all(isinstance(v, kind) for v in value)


def _check_graph(graph, refuse) -> None:
    refuse(not isinstance(graph, dict) or set(graph) != {"steps"}, "bnn.graph has keys other than 'steps'; update bnn")
    steps = graph["steps"]
    refuse(not _is_list(steps, dict) or not 0 < len(steps) <= _MAX_STEPS, "bnn.graph has no list of steps")
    bound = {_program.INPUT}
    for step in steps:
        refuse(set(step) != _STEP_KEYS, f"a step has keys {sorted(step)}, expected {sorted(_STEP_KEYS)}; update bnn")
        name, kind, args = step["name"], step["kind"], step["args"]
        refuse(not isinstance(name, str) or not name or "." in name or name in bound, f"bad step name {name!r}")
        known = isinstance(kind, str) and (kind in _program.LAYERS or kind in _program.FUNCTIONS)
        refuse(not known, f"unknown layer kind {kind!r}; update bnn")
        least, most = _program.ARITY.get(kind, (1, 1))
        fits = _is_list(step["inputs"], str) and least <= len(step["inputs"]) <= most
        refuse(not fits, f"step {name!r} has inputs {step['inputs']!r}, expected {least} to {most} names")
        unbound = [i for i in step["inputs"] if i not in bound]
        refuse(bool(unbound), f"step {name!r} reads {unbound}, which no earlier step made")
        refuse(not isinstance(args, dict) or not all(_is_plain(v) for v in args.values()), f"bad args of {name!r}")
        fields = _program.arg_names(kind)
        refuse(set(args) != fields, f"step {name!r} has args {sorted(args)}, expected {sorted(fields)}")
        head = _program.HEADS.get(kind)
        refuse(head is not None and step is not steps[-1], f"step {name!r}, a {head}, must be the last one")
        bound.add(name)
        if args.get("words") and args.get("stream"):
            bound.add(name + _program.WORDS)


def _is_plain(value) -> bool:
    """A JSON scalar, or a short list of integers; integers of a size that layers have."""
    values = value if isinstance(value, list) else [value]
    small = all(not isinstance(v, int) or -1 <= v < 2**31 for v in values)
    return len(values) <= 4 and small and all(v is None or isinstance(v, bool | int | float | str) for v in values)


def _check_tensors(file, expected: dict[str, torch.Tensor], path: Path) -> None:
    present = set(file.keys())
    for name in sorted(present ^ set(expected)):
        raise FileRefused(f"{path}: tensor {name!r} is {'not in the graph' if name in present else 'missing'}")
    types = {"F32": torch.float32, "I64": torch.int64, "I8": torch.int8, "F16": torch.float16, "BF16": torch.bfloat16}
    for name, tensor in expected.items():
        entry = file.get_slice(name)
        shape, dtype = list(entry.get_shape()), types.get(entry.get_dtype())
        fits = dtype == tensor.dtype or (dtype is not None and dtype.is_floating_point and tensor.is_floating_point())
        if shape != list(tensor.shape) or not fits:
            raise FileRefused(f"{path}: tensor {name!r} is {entry.get_dtype()} {shape}, the graph says "
                              f"{tensor.dtype} {list(tensor.shape)}")  # fmt: skip


def _check_class_count(model: PackedModel, meta: dict, path: Path) -> None:
    last = model.steps[-1]
    outputs = last["args"].get("out_features")  # of every layer that a network can end in
    offsets = meta.get("bnn.posthoc", {}).get("logit_offsets") or None
    counts = {"bnn.classes": meta.get("bnn.classes"), "logit_offsets": offsets}
    sizes = {f"step {last['name']!r}": outputs} | {k: len(v) for k, v in counts.items() if v is not None}
    if len({size for size in sizes.values() if size is not None}) > 1:
        raise FileRefused(f"{path}: the numbers of classes disagree: {sizes}")


def _check_tail_bits(model: PackedModel, path: Path) -> None:
    for name, layer in model.layers.items():
        if isinstance(layer, PackedBinaryConv2d):
            inputs = layer.in_channels // layer.groups
        elif isinstance(layer, PackedBinaryLinear):
            inputs = layer.in_features
        else:
            continue
        if inputs % 64 and bool((layer.weight[..., -1] >> (inputs % 64)).any()):
            raise FileRefused(f"{path}: the weights of {name!r} have bits set beyond their {inputs} channels")
