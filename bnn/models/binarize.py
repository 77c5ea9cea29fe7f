"""`bnn.binarize`: an existing full-precision network as a binary one that trains and packs."""

import copy
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from bnn.models._follow import RELUS, WEIGHTS, Network
from bnn.nn import BinaryConv2d, BinaryLinear, RPReLU

Skip = str | Iterable[str] | Callable[[str, nn.Module], bool]
FIRST_SHIFT = -0.5  # half a standard deviation of a normalized input


def binarize(model: nn.Module, skip: Skip = ()) -> nn.Module:
    """A copy of `model` whose convolutions and linear layers are binary where that makes sense; `model` is not changed.

    nn.Conv2d becomes `BinaryConv2d`, nn.Linear `BinaryLinear`: its weights are the latent ones, its bias stays, every
    input channel gets a threshold (`shift=True`). These stay real:

        the layers that read the network's input or make its output;
        1x1 convolutions of stride 2 and more, and 1x1 convolutions that are alone on a shortcut;
        depthwise convolutions; gates (squeeze and excitation), which see one pixel an image;
        subclasses (such as a convolution that standardizes its weights), layers with hooks, padding that is not zeros,
        and `skip`.

    A ReLU leaves a sign nothing to see: sign(relu(x)) is +1 always. Where a binary layer reads what nn.ReLU or nn.ReLU6
    made, that module becomes RPReLU (one called with several numbers of channels: PReLU). Where the clipping can't be
    replaced (a function in `forward`), the layer's thresholds start at 0.5 instead of 0. Activations with negative
    values, such as SiLU, GELU and Hardswish, stay.

    Args:
        model: one that torch.fx can follow, as `bnn.pack` will have to.
        skip: names of layers or patterns of them ("layer4.*"), or a function of (name, layer).

    Returns:
        The copy, on the same device and in the same mode. Its attribute `binarize_report` is a list of dicts, one for
        every layer with weights and every replaced activation: name, kind, becomes, why.

    Raises:
        ValueError: torch.fx can't follow the network; nothing becomes binary; a pattern in `skip` fits no layer.
    """
    model = copy.deepcopy(model)
    network, skipped = Network(model), _skipped(model, skip)
    report: list[dict[str, str]] = []
    binary: list[nn.Module] = []
    for name, layer in model.named_modules():
        if isinstance(layer, WEIGHTS):
            why = "skip" if name in skipped else _stays_real(layer, network)
            becomes = type(layer).__name__ if why else f"Binary{type(layer).__name__}"
            report.append({"name": name, "kind": type(layer).__name__, "becomes": becomes, "why": why})
            binary += [] if why else [layer]
    if not binary:
        raise ValueError(
            f"binarize: no layer of this {type(model).__name__} can become binary, see bnn.binarize's rules"
        )
    relus = _relus(binary, network)
    replaced = set(relus)
    late = {layer for layer in binary for node in network.calls[layer] if network.clipped_by(node, replaced)}
    new: dict[nn.Module, nn.Module] = {layer: _binary(layer, layer in late) for layer in binary} | relus
    for row in report:
        if model.get_submodule(row["name"]) in late:
            row["why"] = "its input is never negative: thresholds start at 0.5"
    names = {module: name for name, module in model.named_modules()}
    report += [{"name": names[old], "kind": type(old).__name__, "becomes": type(relu).__name__,
                "why": "a binary layer reads it"} for old, relu in relus.items()]  # fmt: skip
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out a second name of a layer
            if child in new:
                setattr(parent, name, new[child])
    model.binarize_report = report  # type: ignore[assignment]
    return model


def _skipped(model: nn.Module, skip: Skip) -> set[str]:
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, WEIGHTS)}
    if callable(skip):
        return {name for name, layer in layers.items() if skip(name, layer)}
    patterns = [skip] if isinstance(skip, str) else list(skip)
    found = {pattern: {name for name in layers if fnmatchcase(name, pattern)} for pattern in patterns}
    for pattern, names in found.items():
        if not names:
            raise ValueError(f"skip: {pattern!r} fits no convolution or linear layer; there are {', '.join(layers)}")
    return set().union(*found.values())


def _stays_real(layer: Any, network: Network) -> str:
    """Why, or "" if it becomes binary."""
    if type(layer) not in (nn.Conv2d, nn.Linear):
        return f"a {type(layer).__name__} is neither Conv2d nor Linear itself"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "has forward hooks"
    nodes = network.calls.get(layer, [])
    if not nodes:
        return "not called as a layer"
    rules: list[tuple[str, Callable[[Any], bool]]] = [
        ("reads the network's input", network.reads_the_input),
        ("makes the network's output", network.makes_the_output),
        ("gates: sees one pixel an image", network.gates),
    ]
    if isinstance(layer, nn.Conv2d):
        if layer.padding_mode != "zeros":
            return f"padding_mode={layer.padding_mode!r}"
        if isinstance(layer.padding, str) and _padding(layer) is None:
            return f"padding={layer.padding!r} is not the same on both sides"
        if layer.groups == layer.in_channels > 1:
            return "depthwise: a sum of too few products"
        if max(layer.kernel_size) == 1 and max(layer.stride) > 1:
            return "1x1 of stride 2 or more: a shortcut"
        if max(layer.kernel_size) == 1:
            rules.append(("1x1, alone on a shortcut", network.on_a_shortcut))
    return next((why for why, holds in rules if any(holds(node) for node in nodes)), "")


def _padding(conv: nn.Conv2d) -> tuple[int, ...] | None:
    """In numbers; None where "same" pads one side more than the other."""
    if not isinstance(conv.padding, str):
        return tuple(conv.padding)
    total = [
        0 if conv.padding == "valid" else d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
    ]
    return None if any(pixels % 2 for pixels in total) else tuple(pixels // 2 for pixels in total)


def _relus(binary: list[nn.Module], network: Network) -> dict[nn.Module, nn.Module]:
    """The ReLU modules whose outputs binary layers read, with what replaces them."""
    new: dict[nn.Module, nn.Module] = {}
    for layer in binary:
        for call in network.calls[layer]:
            for relu in map(network.module, network.clipped_by(call, set())):
                if isinstance(relu, RELUS) and relu not in new:
                    counts = {network.channels(node) for node in network.calls[relu]}
                    count = counts.pop() if len(counts) == 1 else None
                    new[relu] = nn.PReLU() if count is None else RPReLU(count)
    like: Any = next(iter(binary)).weight
    return {old: module.to(like.device, like.dtype).train(old.training) for old, module in new.items()}


@torch.no_grad()
def _binary(layer: Any, late: bool) -> nn.Module:
    bias = layer.bias is not None
    new: Any
    if isinstance(layer, nn.Linear):
        new = BinaryLinear(layer.in_features, layer.out_features, bias, shift=True)
    else:
        padding: Any = _padding(layer)
        new = BinaryConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, padding,
                           layer.dilation, layer.groups, bias, shift=True)  # fmt: skip
    new = new.to(layer.weight.device, layer.weight.dtype)
    new.weight, new.bias = layer.weight, layer.bias
    new.shift.fill_(FIRST_SHIFT if late else 0.0)
    return new.train(layer.training)
