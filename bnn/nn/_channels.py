"""Which channels of a network must be cut alike: those that are added, concatenated or grouped with each other."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnn.nn._trace import _NOTHING, _function_step, _Tracer
from bnn.nn.activations import RPReLU, RSign
from bnn.nn.binary_conv2d import BinaryConv2d
from bnn.nn.binary_linear import BinaryLinear

CONVS = (nn.Conv2d, BinaryConv2d)
LINEARS = (nn.Linear, BinaryLinear)
VECTORS = (_BatchNorm, RPReLU, RSign, nn.PReLU)  # one number a channel, or for PReLU one for all
_PASSING = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.Flatten, nn.Hardtanh, nn.ReLU, nn.Sigmoid, *_NOTHING)


class Block:
    """Neighbouring channels of which a split keeps the first ceil(rate size), or all if `whole`."""

    def __init__(self, size: int, whole: bool = False) -> None:
        self.size, self.whole = size, whole
        self.parts: list[Block] = []  # what it turned out to consist of, or to be


Layout = list[Block] | None  # the channels of a value, in order; None: the image, which keeps all of them


@dataclass
class Layer:
    """A layer with parameters, and the layouts of what it reads and returns."""

    name: str
    module: Any
    inputs: Layout
    outputs: Layout


def kept(layout: Layout, count: int, rate: float) -> Tensor:
    """Which of `count` channels stay, bool [count]; a flattened channel is `count / size` neighbours."""
    if layout is None or count == 1:
        return torch.ones(count, dtype=torch.bool)
    blocks = _leaves(layout)
    first = [block.size if block.whole else math.ceil(rate * block.size - 1e-9) for block in blocks]
    masks = [torch.arange(block.size) < number for block, number in zip(blocks, first, strict=True)]
    return torch.cat(masks).repeat_interleave(count // _size(layout))


def follow(model: nn.Module) -> list[Layer]:
    """The layers with parameters in the order of execution. What the output consists of is whole.

    Raises:
        ValueError: a layer or operation for which there is no rule; it is named.
    """
    layers: dict[str, Layer] = {}
    values: dict[fx.Node, Layout] = {}
    flat: set[fx.Node] = set()  # channels times an unknown number of pixels
    for node in _Tracer().trace(model).nodes:
        if node.op == "placeholder":
            values[node] = None
        elif node.op == "call_module":
            name, module = str(node.target), model.get_submodule(str(node.target))
            values[node] = _through(name, module, values[node.args[0]], layers)
            if isinstance(module, nn.Flatten) or (node.args[0] in flat and not isinstance(module, LINEARS)):
                flat.add(node)
        elif node.op in ("call_function", "call_method"):
            values[node] = _function(node, values, flat)
        elif node.op == "output" and isinstance(node.args[0], fx.Node):
            _keep_whole(values[node.args[0]])
        else:
            raise ValueError(f"split: no rule for {node.format_node()}")
    return list(layers.values())


def _through(name: str, module: Any, inputs: Layout, layers: dict[str, Layer]) -> Layout:
    if isinstance(module, _PASSING):
        return inputs
    if not isinstance(module, (*CONVS, *LINEARS, *VECTORS)):
        raise ValueError(f"split: layer {name!r} is a {type(module).__name__}, for which there is no rule")
    if name in layers:  # called again
        _unify(layers[name].inputs, inputs, name)
        return layers[name].outputs
    outputs = inputs
    if isinstance(module, CONVS):
        inputs, outputs = _convolution(name, module, inputs)
    elif isinstance(module, LINEARS):
        outputs = [Block(module.out_features)]
        if inputs is not None and module.in_features % _size(inputs):
            raise ValueError(f"split: layer {name!r} reads {module.in_features} features of {_size(inputs)} channels")
    layers[name] = Layer(name, module, inputs, outputs)
    return outputs


def _convolution(name: str, conv: Any, inputs: Layout) -> tuple[Layout, Layout]:
    """Depthwise: what goes in comes out. Grouped: every group keeps the same channels of its own."""
    if is_depthwise(conv):
        return inputs, inputs
    if conv.groups == 1:
        return inputs, [Block(conv.out_channels)]
    group = [Block(conv.in_channels // conv.groups)] * conv.groups
    _unify(inputs, group, name)
    return (group if inputs is not None else None), [Block(conv.out_channels // conv.groups)] * conv.groups


def is_depthwise(conv: Any) -> bool:
    """Whether every channel has one filter of its own."""
    return conv.groups == conv.in_channels == conv.out_channels > 1


def _function(node: fx.Node, values: dict[fx.Node, Layout], flat: set[fx.Node]) -> Layout:
    names = {value: value.name for value in values}
    try:
        step = _function_step(node, names, node.name)
    except ValueError as problem:
        raise ValueError("split: " + str(problem).removeprefix("pack: ")) from None
    inputs = [value for name in step["inputs"] for value in values if value.name == name]
    layouts = [values[value] for value in inputs]
    kind, axis = step["kind"], step["args"].get("dim", step["args"].get("start_dim", 1))
    if axis != 1 or (kind == "cat" and (flat & set(inputs) or None in layouts)):
        raise ValueError(f"split: no rule for {node.format_node()}: only channels of layers can be joined")
    if kind == "flatten" or flat & set(inputs):
        flat.add(node)
    if kind == "cat":
        return [block for layout in layouts for block in layout or []]
    if kind in ("add", "mul"):
        _unify(layouts[0], layouts[1], node.name)
        return layouts[0] if layouts[1] is not None else None
    return layouts[0]


def _leaves(layout: list[Block]) -> list[Block]:
    return [leaf for block in layout for leaf in (_leaves(block.parts) if block.parts else [block])]


def _size(layout: list[Block]) -> int:
    return sum(block.size for block in layout)


def _keep_whole(layout: Layout) -> None:
    for block in _leaves(layout or []):
        block.whole = True


def _unify(a: Layout, b: Layout, where: str) -> None:
    """Cut the blocks of both into the same leaves; channels that meet the image's are kept whole."""
    if a is None or b is None:
        _keep_whole(a)
        _keep_whole(b)
        return
    if _size(a) != _size(b):
        raise ValueError(f"split: {_size(a)} and {_size(b)} channels meet in {where!r}")
    while True:
        pair = next(((x, y) for x, y in zip(_leaves(a), _leaves(b), strict=False) if x is not y), None)
        if pair is None:
            return
        small, large = sorted(pair, key=lambda block: block.size)
        small.whole |= large.whole
        rest = [Block(large.size - small.size, large.whole)] if large.size > small.size else []
        large.parts = [small, *rest]
