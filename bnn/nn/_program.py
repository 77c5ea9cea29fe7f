"""The straight-line program that a packed network is: a list of steps over named values, as plain data.

A step is {"name", "kind", "inputs", "args"}: it calls the layer or function `kind` on the values `inputs` and binds
the result to `name`; a packed layer with two outputs binds the words to `name` + "#words". Only kinds listed here
exist, so a program from a file can name nothing else.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnn import ops
from bnn.nn._packed import PackedEpilogue
from bnn.nn.activations import RPReLU, RSign, require
from bnn.nn.binary_conv2d import PackedBinaryConv2d
from bnn.nn.binary_linear import PackedBinaryLinear
from bnn.nn.blend import Blend
from bnn.nn.cosine_linear import CosineLinear
from bnn.nn.gated_add import GatedAdd
from bnn.nn.int8_conv2d import Int8Conv2d, Int8Linear
from bnn.nn.variational_head import VariationalHead

_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias")

# kind -> class and the constructor arguments that are stored
LAYERS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d, ("output_size",)),
    "AvgPool2d": (nn.AvgPool2d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
    "BatchNorm1d": (nn.BatchNorm1d, ("num_features", "eps", "affine")),
    "BatchNorm2d": (nn.BatchNorm2d, ("num_features", "eps", "affine")),
    "Blend": (Blend, ("channels",)),
    "Conv2d": (nn.Conv2d, _CONV),
    "CosineLinear": (CosineLinear, CosineLinear.FIELDS),
    "Flatten": (nn.Flatten, ("start_dim", "end_dim")),
    "GatedAdd": (GatedAdd, GatedAdd.FIELDS),
    "GELU": (nn.GELU, ("approximate",)),
    "Hardsigmoid": (nn.Hardsigmoid, ()),
    "Hardswish": (nn.Hardswish, ()),
    "Hardtanh": (nn.Hardtanh, ("min_val", "max_val")),
    "Int8Conv2d": (Int8Conv2d, Int8Conv2d.FIELDS),
    "Int8Linear": (Int8Linear, Int8Linear.FIELDS),
    "Linear": (nn.Linear, ("in_features", "out_features", "bias")),
    "MaxPool2d": (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    "PReLU": (nn.PReLU, ("num_parameters",)),
    "PackedBinaryConv2d": (PackedBinaryConv2d, PackedBinaryConv2d.FIELDS),
    "PackedBinaryLinear": (PackedBinaryLinear, PackedBinaryLinear.FIELDS),
    "RPReLU": (RPReLU, ("channels",)),
    "RSign": (RSign, ("channels", "surrogate")),
    "ReLU": (nn.ReLU, ()),
    "ReLU6": (nn.ReLU6, ()),
    "SiLU": (nn.SiLU, ()),
    "Sigmoid": (nn.Sigmoid, ()),
    "VariationalHead": (VariationalHead, VariationalHead.FIELDS),
}
HEADS = {"CosineLinear": "cosine head", "VariationalHead": "variational head"}  # float32, hence the last step
PACKED = (PackedBinaryConv2d, PackedBinaryLinear)
INT8 = ("Int8Conv2d", "Int8Linear")

# kind -> options that are not stored, with the only value they may have
FIXED: dict[str, dict] = {
    "AvgPool2d": {"divisor_override": None},
    "BatchNorm1d": {"track_running_stats": True},
    "BatchNorm2d": {"track_running_stats": True},
    "BinaryConv2d": {"real_weight": False},
    "BinaryLinear": {"real_weight": False},
    "Conv2d": {"padding_mode": "zeros"},
    "MaxPool2d": {"return_indices": False},
}

# kind -> function of the inputs and of the stored arguments
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "adaptive_avg_pool2d": lambda x, *, output_size: F.adaptive_avg_pool2d(x, output_size),
    "add": lambda a, b: a + b,
    "cast": lambda x, *, dtype: x.to(DTYPES[dtype]) if x.is_floating_point() else x,
    "cat": lambda *parts, dim: torch.cat(parts, dim),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "flatten": lambda x, *, start_dim: torch.flatten(x, start_dim),
    "mean": lambda x, *, dim, keepdim: x.mean(dim, keepdim),
    "mul": lambda a, b: a * b,
    "pixel_mean": lambda x: ops.multires_pool2d(x, [(1, 1)])[0],
    "relu": lambda x: F.relu(x),
}

# kind -> fewest and most inputs, where that is not 1
ARITY: dict[str, tuple[int, int]] = {
    "PackedBinaryConv2d": (1, 2),
    "PackedBinaryLinear": (1, 2),
    "Blend": (2, 2),
    "GatedAdd": (3, 3),
    "add": (2, 2),
    "cat": (1, 1000),
    "mul": (2, 2),
}

WORDS = "#words"
INPUT = "input"


def arg_names(kind: str) -> set[str]:
    """The names of a step's arguments."""
    if kind in LAYERS:
        return set(LAYERS[kind][1])
    parameters = signature(FUNCTIONS[kind]).parameters.values()
    return {p.name for p in parameters if p.kind == p.KEYWORD_ONLY}


def layer_args(layer: nn.Module) -> dict:
    """The stored constructor arguments of a layer, as JSON values."""
    kind = type(layer).__name__
    args = {name: getattr(layer, name) for name in LAYERS[kind][1]}
    if "bias" in args:
        args["bias"] = args["bias"] is not None
    return {k: list(v) if isinstance(v, tuple) else v for k, v in args.items()}


def build_layer(kind: str, args: dict) -> nn.Module:
    """The layer that `layer_args` described."""
    return LAYERS[kind][0](**{k: tuple(v) if isinstance(v, list) else v for k, v in args.items()})


def dtype_beside_int8(steps: list[dict], layers: Mapping[str, nn.Module]) -> str:
    """float16, which costs a processor fewer instructions than bfloat16 and rounds less; but real weights and variances
    may not fit into it, and torch's convolutions in it are slow: where a layer with its own stays, bfloat16; but
    shares and slopes do."""
    rest = [layers[step["name"]] for step in steps[:-1] if step["name"] in layers]
    real = [layer for layer in rest if not isinstance(layer, PackedEpilogue | Blend | nn.PReLU)]
    return "bfloat16" if any(layer.state_dict() for layer in real) else "float16"


def set_dtype(steps: list[dict], layers: Mapping[str, nn.Module]) -> None:
    """Real layers and streams get the dtype of the first cast that rounds; without one, `dtype_beside_int8` where there
    are 8-bit layers, else float32. The last step has float32."""
    casts = [step["args"]["dtype"] for step in steps if step["kind"] == "cast"]
    require(set(casts) <= set(DTYPES), "the dtype of a cast", f"one of {sorted(DTYPES)}", casts)
    rounds = [name for name in casts if name != "float32"]
    if not rounds and any(step["kind"] in INT8 for step in steps):
        rounds = [dtype_beside_int8(steps, layers)]
    for step in steps[:-1] if rounds else ():
        layer = layers.get(step["name"])
        if isinstance(layer, PackedEpilogue):
            layer.stream_dtype = DTYPES[rounds[0]]
        elif layer is not None:
            layer.to(DTYPES[rounds[0]])


def head_entry(steps: list[dict]) -> dict | None:
    """{"m", "seed"} of the variational head that the program ends with, or None."""
    args = steps[-1]["args"]
    return {"m": args["samples"], "seed": args["seed"]} if steps[-1]["kind"] == "VariationalHead" else None


class Link(NamedTuple):
    """A step with places instead of names; words are bound to the place after `output`."""

    step: dict
    is_layer: bool
    inputs: list[int]
    output: int
    unused: list[int]  # from here on


def link(steps: list[dict]) -> list[Link]:
    """What `walk` executes."""
    place = {INPUT: 0}
    for i, step in enumerate(steps):
        place |= {step["name"]: 2 * i + 1, step["name"] + WORDS: 2 * i + 2}
    last = {name: i for i, step in enumerate(steps) for name in step["inputs"]}
    return [
        Link(step, step["kind"] in LAYERS, [place[name] for name in step["inputs"]], place[step["name"]],
             [place[name] for name in dict.fromkeys(step["inputs"]) if last[name] == i])
        for i, step in enumerate(steps)
    ]  # fmt: skip


def walk(links: list[Link], layers: nn.ModuleDict, x: Tensor) -> Iterator[tuple[dict, Tensor | tuple[Tensor, Tensor]]]:
    """Execute the program; every step with its result. A value is dropped after its last use."""
    values: list = [x, *[None] * 2 * len(links)]
    for each in links:
        yield each.step, execute(each, layers, values)


def execute(link: Link, layers: nn.ModuleDict, values: list) -> Tensor | tuple[Tensor, Tensor]:
    """One step on the values of the places; what it gives."""
    step, is_layer, places, output, unused = link
    inputs = [values[place] for place in places]
    result = layers[step["name"]](*inputs) if is_layer else FUNCTIONS[step["kind"]](*inputs, **step["args"])
    if isinstance(result, tuple):
        values[output : output + 2] = result
    else:
        values[output] = result
    for place in unused:
        values[place] = None
    return result


def run(links: list[Link], layers: nn.ModuleDict, x: Tensor) -> Tensor:
    """What the last step of the program gives."""
    [(_, result)] = deque(walk(links, layers, x), maxlen=1)
    return result[0] if isinstance(result, tuple) else result
