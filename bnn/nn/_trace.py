"""A training network as the steps of `bnn.nn._program`, or the reason why it can't be packed."""

import copy
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from bnn.nn import _program

_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)
_FUNCTIONS = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    operator.mul: "mul",
    operator.imul: "mul",
    torch.mul: "mul",
    torch.cat: "cat",
    torch.mean: "mean",
    "mean": "mean",
    torch.flatten: "flatten",
    "flatten": "flatten",
    F.relu: "relu",
    torch.relu: "relu",
    F.adaptive_avg_pool2d: "adaptive_avg_pool2d",
}
# the parameters of these functions: tensors; then the rest with defaults
_PARAMETERS: dict[str, tuple[tuple[str, ...], dict]] = {
    "adaptive_avg_pool2d": (("input",), {"output_size": None}),
    "add": (("input", "other"), {}),
    "cat": (("tensors",), {"dim": 0}),
    "flatten": (("input",), {"start_dim": 0, "end_dim": -1}),
    "mean": (("input",), {"dim": None, "keepdim": False}),
    "mul": (("input", "other"), {}),
    "relu": (("input",), {"inplace": False}),
}
_EMPTY = nn.ModuleDict()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        library = module.__module__.startswith(("torch.nn", "bnn.nn"))
        return library and not isinstance(module, nn.Sequential | nn.ModuleList)


class _WholeNorms(_Tracer):
    """timm's batch norm with an activation inside stays whole."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return _is_norm_act(module) or super().is_leaf_module(module, qualified_name)


def _is_norm_act(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and type(module).__name__ == "BatchNormAct2d"


def trace(model: nn.Module) -> tuple[list[dict], dict[str, nn.Module]]:
    """The network as steps, with copies of its layers."""
    steps: list[dict] = []
    layers: dict[str, Any] = {}
    names: dict[fx.Node, str] = {}
    overwritten: set[fx.Node] = set()
    for node in _WholeNorms().trace(model).nodes:
        if overwritten & set(node.all_input_nodes):
            raise ValueError(f"pack: {node.name!r} reads a value that an operation before it changed in place")
        if _in_place(node, model):
            overwritten.add(node.args[0])
        if node.op == "placeholder":
            if names:
                raise ValueError(f"pack: the model takes a second input {node.target!r}; a packed network takes one")
            names[node] = _program.INPUT
        elif node.op == "call_module":
            layer = model.get_submodule(str(node.target))
            if node.kwargs or not _known(node.args, names):
                raise ValueError(f"pack: layer {node.target!r} must be called on tensors alone, by position")
            inputs = [names[a] for a in node.args]
            for part in _parts(layer):
                _check_layer(node.target, part)
                name = free_name(node.name, steps)
                layers[name] = copy.deepcopy(part)
                if hasattr(part, "inplace"):
                    layers[name].inplace = False  # steps may be reordered
                steps.append({"name": name, "kind": type(part).__name__, "inputs": inputs, "args": {}})
                inputs = [name]
            names[node] = inputs[0]
        elif node.op in ("call_function", "call_method"):
            steps.append(_function_step(node, names, free_name(node.name, steps)))
            names[node] = steps[-1]["name"]
        elif node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node) or not steps or names[result] != steps[-1]["name"]:
                raise ValueError("pack: the model's output must be its last operation, a single tensor")
        else:
            raise ValueError(f"pack: the model reads {node.target!r} directly, which a packed network can't do")
    return steps, layers


def _parts(layer: Any) -> list[Any]:
    """A layer as those of torch that it consists of, without those that do nothing in eval mode."""
    parts = [layer]
    if _is_norm_act(layer):
        norm = nn.BatchNorm2d(layer.num_features, layer.eps, affine=layer.affine).eval()
        norm.weight, norm.bias, norm.track_running_stats = layer.weight, layer.bias, layer.track_running_stats
        norm.running_mean, norm.running_var = layer.running_mean, layer.running_var
        parts = [norm, layer.drop, layer.act]
    return [part for part in parts if not isinstance(part, _NOTHING)]


def _in_place(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        layer = model.get_submodule(str(node.target))
        return getattr(layer, "inplace", False) and not isinstance(layer, _NOTHING)
    return node.target in (operator.iadd, operator.imul) or bool(node.kwargs.get("inplace", False))


def _check_layer(target: str, layer: nn.Module) -> None:
    kind, known = type(layer).__name__, [*_program.LAYERS, "BinaryConv2d", "BinaryLinear"]
    if kind not in known:
        raise ValueError(f"pack: layer {target!r} is a {kind}, which a packed network can't have; "
                         f"expected one of {sorted(known)}")  # fmt: skip
    for name, value in _program.FIXED.get(kind, {}).items():
        if getattr(layer, name) != value:
            raise ValueError(f"pack: layer {target!r} has {name}={getattr(layer, name)!r}; "
                             f"a packed network's {kind} has {value!r}")  # fmt: skip


def free_name(name: str, steps: list[dict]) -> str:
    """A step's name: unlike the input, earlier steps and what every ModuleDict has (`keys`, `pop`)."""
    taken = {_program.INPUT, *(step["name"] for step in steps)}
    while name in taken or hasattr(_EMPTY, name):
        name += "_"
    return name


def _function_step(node: fx.Node, names: dict[fx.Node, str], name: str) -> dict:
    kind = _FUNCTIONS.get(node.target)
    if kind is None:
        raise ValueError(f"pack: operation {node.name!r} is not one that a packed network has; "
                         f"expected one of {sorted(_program.FUNCTIONS)}")  # fmt: skip
    inputs, options = _PARAMETERS[kind]
    given = dict(zip((*inputs, *options), node.args, strict=False)) | node.kwargs
    tensors = [given.pop(parameter, None) for parameter in inputs]
    if kind == "cat" and isinstance(tensors[0], list | tuple):
        tensors = list(tensors[0])
    values = options | given
    fits = len(node.args) <= len(inputs) + len(options) and set(values) == set(options)
    if kind == "mean":  # over the pixels
        fits = fits and values["dim"] in ((2, 3), [2, 3], (-2, -1), [-2, -1])
        values["dim"] = [2, 3]
    fits = fits and _known(tensors, names) and None not in values.values() and values.pop("end_dim", -1) == -1
    if not fits:
        raise ValueError(f"pack: operation {node.format_node()} has arguments that a packed network can't have")
    values.pop("inplace", None)
    return {"name": name, "kind": kind, "inputs": [names[t] for t in tensors], "args": values}


def _known(values: Iterable, names: dict[fx.Node, str]) -> bool:
    return all(isinstance(value, fx.Node) and value in names for value in values)
