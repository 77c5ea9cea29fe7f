"""The steps of a network (`bnn.nn._program`) rewritten as fewer: what follows a layer alone becomes part of it. The
arithmetic is reordered."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bnn.nn import _program
from bnn.nn._trace import free_name
from bnn.nn.activations import RPReLU
from bnn.nn.binary_conv2d import BinaryConv2d, PackedBinaryConv2d
from bnn.nn.binary_linear import BinaryLinear, PackedBinaryLinear
from bnn.nn.gated_add import GatedAdd
from bnn.ops._training import binarize_weight

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_CONVOLUTIONS = (nn.Conv2d, BinaryConv2d)
_KEEP_SHAPES = {"BatchNorm2d", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "PReLU", "ReLU", "ReLU6", "RPReLU",
                "RSign", "SiLU", "Sigmoid", "relu"}  # fmt: skip
_BROADCAST = {"add", "mul", "Blend"}
_KEEP_CHANNELS = {"AvgPool2d", "MaxPool2d"}


def users_of(name: str, steps: list[dict]) -> list[dict]:
    """The steps that read a value."""
    return [step for step in steps if name in step["inputs"]]


def only_user(name: str, steps: list[dict]) -> dict | None:
    """The step that alone reads a value, once."""
    users = users_of(name, steps)
    return users[0] if len(users) == 1 and users[0]["inputs"].count(name) == 1 else None


def absorb(step: dict, user: dict, steps: list[dict], layers: dict[str, Any]) -> None:
    """`step` takes the place of `user`, and its name: later steps need no change. The layer is the caller's to set."""
    layers.pop(step["name"], None)
    steps.remove(step)
    steps[steps.index(user)] = step
    step["name"] = user["name"]


def flattens(step: dict, layers: dict[str, Any]) -> bool:
    """[N, C, 1, 1] to [N, C]."""
    layer = layers.get(step["name"])
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    return step["kind"] == "flatten" and step["args"]["start_dim"] == 1


def averages(step: dict, layers: dict[str, Any], flat: bool) -> bool:
    """[N, C, H, W] to [N, C, 1, 1], or to [N, C] if `flat`."""
    layer, kind = layers.get(step["name"]), step["kind"]
    if kind == "mean" or flat:
        return kind == "mean" and step["args"]["keepdim"] != flat
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return layer.output_size in (1, (1, 1))
    size = step["args"].get("output_size")
    return kind == "pixel_mean" or (kind == "adaptive_avg_pool2d" and size in (1, (1, 1), [1, 1]))


def fold_real_layers(steps: list[dict], layers: dict[str, Any]) -> None:
    """Everything but what follows binary layers."""
    fold_norms(steps, layers)
    _average_before_blends(steps, layers)
    _fold_gates(steps, layers)


def fold_norms(steps: list[dict], layers: dict[str, Any]) -> None:
    """Conv2d followed by nothing but BatchNorm2d becomes one Conv2d."""
    for step in list(steps):
        user = only_user(step["name"], steps)
        if step["kind"] == "Conv2d" and user is not None and user["kind"] == "BatchNorm2d":
            layers[user["name"]] = fuse_conv_bn_eval(layers[step["name"]], layers[user["name"]])
            absorb(step, user, steps, layers)


def _average_before_blends(steps: list[dict], layers: dict[str, Any]) -> None:
    """A Blend whose mean over pixels alone is read becomes one of means, each taken once."""
    means: dict[str, str] = {}
    for step in list(steps):
        user = only_user(step["name"], steps)
        if step["kind"] != "Blend" or user is None or not averages(user, layers, flat=False):
            continue
        for name in step["inputs"]:
            if name not in means:
                means[name] = free_name(f"{name}_mean", steps)
                mean = {"name": means[name], "kind": "pixel_mean", "inputs": [name], "args": {}}
                steps.insert(steps.index(step), mean)
        step["inputs"] = [means[name] for name in step["inputs"]]
        layers[user["name"]] = layers[step["name"]]
        absorb(step, user, steps, layers)


def _fold_gates(steps: list[dict], layers: dict[str, Any]) -> None:
    """gate * x [* s], BatchNorm2d and + s, each read by the next alone, become a GatedAdd, where nothing broadcasts but
    the gate, from its one pixel."""
    shapes = _shapes(steps, layers)
    for step in [step for step in steps if step["kind"] == "mul"]:
        line = list(islice(_line(step, steps), 3))
        multiply = line[:1] != [] and line[0]["kind"] == "mul"
        line = line[: 2 + multiply]
        if [user["kind"] for user in line[multiply:]] != ["BatchNorm2d", "add"]:
            continue
        before, add = line[multiply:]
        norm = layers[before["name"]]
        shortcut = _other(add, before["name"])
        x, gate = sorted(step["inputs"], key=lambda name: shapes[name].one_pixel)
        whole, one = _Shape(norm.num_features, False), _Shape(norm.num_features, True)
        if (shapes[x], shapes[shortcut], shapes[gate]) != (whole, whole, one):
            continue
        if multiply and _other(line[0], step["name"]) != shortcut:
            continue
        for user in line:
            absorb(step, user, steps, layers)
        step["inputs"], step["kind"] = [x, shortcut, gate], "GatedAdd"
        scale, bias = _norm_affine(norm)
        layers[step["name"]] = gated = GatedAdd(len(scale), multiply).to(scale.device)
        gated.scale.copy_(scale)
        gated.bias.copy_(bias)


def _line(step: dict, steps: list[dict]) -> Iterator[dict]:
    """The step that alone reads this one, the one that alone reads that, and so on."""
    while (user := only_user(step["name"], steps)) is not None:
        yield user
        step = user


def _other(step: dict, name: str) -> str:
    """The other one of two inputs."""
    first, second = step["inputs"]
    return second if first == name else first


class _Shape(NamedTuple):
    """What is known of [N, C, H, W]."""

    channels: int | None
    one_pixel: bool  # for images of any size


def _shapes(steps: list[dict], layers: dict[str, Any]) -> dict[str, _Shape]:
    """Of the results of steps, by name."""
    shapes = {_program.INPUT: _Shape(None, False)}
    for step in steps:
        shapes[step["name"]] = _shape(step, layers, [shapes[name] for name in step["inputs"]])
    return shapes


def _shape(step: dict, layers: dict[str, Any], inputs: list[_Shape]) -> _Shape:
    layer, kind = layers.get(step["name"]), step["kind"]
    channels = [shape.channels for shape in inputs]
    known = [c for c in channels if c is not None]
    if averages(step, layers, flat=False):
        return _Shape(channels[0], True)
    if isinstance(layer, _CONVOLUTIONS):
        point = layer.kernel_size == (1, 1) and layer.padding in (0, (0, 0))
        return _Shape(layer.out_channels, inputs[0].one_pixel and point)
    if kind in _KEEP_SHAPES:
        return inputs[0]
    if kind in _BROADCAST and len(known) == len(channels):
        return _Shape(max(known), all(shape.one_pixel for shape in inputs))
    if kind in _KEEP_CHANNELS:
        return _Shape(channels[0], False)
    if kind == "cat" and len(known) == len(channels) and step["args"]["dim"] == 1:
        return _Shape(sum(known), all(shape.one_pixel for shape in inputs))
    return _Shape(None, False)


def _norm_affine(norm: Any) -> tuple[Tensor, Tensor]:
    """BatchNorm in eval mode as y = factor x + offset, float64."""
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    factor = factor * norm.weight.double() if norm.affine else factor
    offset = -norm.running_mean.double() * factor
    return factor, offset + norm.bias.double() if norm.affine else offset


def pack_binary_layers(steps: list[dict], layers: dict[str, Any], fold: bool) -> None:
    """Replace training layers, and with `fold` the batch norm, addition and RPReLU or PReLU that follow only them."""
    shapes = _shapes(steps, layers)
    for step in list(steps):
        if step["kind"] in ("BinaryConv2d", "BinaryLinear"):
            _pack_binary(step, steps, layers, shapes, fold)


def _pack_binary(step: dict, steps: list[dict], layers: dict[str, Any], shapes: dict[str, _Shape], fold: bool) -> None:
    layer = layers[step["name"]]
    words, _, alpha = binarize_weight(layer.weight.detach(), layer.scale)
    scale = alpha.double() if alpha.numel() else torch.ones(len(words), dtype=torch.float64, device=words.device)
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.detach().double()
    rprelu = None
    if fold:
        user = only_user(step["name"], steps)
        if user is not None and isinstance(layers.get(user["name"]), _NORMS):
            factor, offset = _norm_affine(layers[user["name"]])
            scale, bias = scale * factor, bias * factor + offset
            absorb(step, user, steps, layers)
            user = only_user(step["name"], steps)
        if user is not None and user["kind"] == "add":
            other = _other(user, step["name"])
            fits = shapes[other].one_pixel == shapes[step["name"]].one_pixel
            if fits and shapes[other].channels in (None, len(scale)):
                absorb(step, user, steps, layers)
                step["inputs"].append(other)
                user = only_user(step["name"], steps)
        if user is not None and user["kind"] in ("RPReLU", "PReLU"):
            rprelu = _rprelu(layers[user["name"]], len(scale))
            absorb(step, user, steps, layers)
    layers[step["name"]] = _packed_layer(layer, words, scale, bias, rprelu)
    step["kind"] = type(layers[step["name"]]).__name__


def _rprelu(layer: RPReLU | nn.PReLU, channels: int) -> Tensor:
    """before, slope, after: [3, K]."""
    if isinstance(layer, nn.PReLU):
        zero = layer.weight.new_zeros(channels)
        rows = [zero, layer.weight.expand(channels), zero]
    else:
        rows = [layer.before, layer.slope, layer.after]
    return torch.stack(rows).detach()


def _packed_layer(layer: BinaryConv2d | BinaryLinear, words: Tensor, scale: Tensor, bias: Tensor,
                  rprelu: Tensor | None) -> PackedBinaryConv2d | PackedBinaryLinear:  # fmt: skip
    packed: Any
    flags = {"has_shift": layer.shift is not None, "has_rprelu": rprelu is not None}
    if isinstance(layer, BinaryLinear):
        packed = PackedBinaryLinear(layer.in_features, layer.out_features, **flags)
    else:
        packed = PackedBinaryConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
                                    layer.padding, layer.dilation, layer.groups, layer.pad_value, **flags)  # fmt: skip
    packed = packed.to(words.device)
    packed.weight.copy_(words)
    packed.scale.copy_(scale)
    packed.bias.copy_(bias)
    if layer.shift is not None:
        packed.shift.copy_(layer.shift.detach())
    if rprelu is not None:
        packed.rprelu.copy_(rprelu)
    return packed
