"""Which weights Knowledge Evolution keeps from one generation to the next (Taha et al. 2021, arXiv 2103.05152).

A split is a dict: the name of a parameter or buffer, as in the state dict -> bool mask of its shape, True in the
fit-hypothesis, which is kept; the rest is the reset-hypothesis. What is not in the dict is kept. Masks play no part in
forward or backward. Split rate s:

    kels           M[k, c] = [k in first ceil(s K)] [c in first ceil(s C)], but all inputs of the first layer and all
                   outputs of the last; vectors of a channel (batch norm, bias, shift, RPReLU) go with it. It is a
                   network of its own, s times as wide, at about s^2 of the multiplications: `extract_slim`.
    wels           M = [u >= 1 - s], u uniform in [0, 1), for every weight of a layer; arbitrary, no slim network.
    later_layers   M = 1 up to some layer, 0 after it: later-layer forgetting (Zhou et al., ICLR 2022), a control.

A binary layer's mask is that of its latent weights.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnn.nn._channels import CONVS, LINEARS, Layer, follow, is_depthwise, kept
from bnn.nn.activations import RPReLU, RSign, require
from bnn.nn.binary_conv2d import BinaryConv2d
from bnn.nn.binary_linear import BinaryLinear

Split = dict[str, Tensor]


def kels(model: nn.Module, rate: float) -> Split:
    """The kernel-level split: what is added, concatenated or grouped is cut alike.

    A grouped convolution keeps the first ceil(s C / G) channels of every group, on both sides; a depthwise one the
    channels it is given; a concatenation the first ones of every part.

    Args:
        model: torch.fx-traceable, of the layers and functions that `bnn.pack` knows; not changed.
        rate: s in (0, 1].

    Raises:
        ValueError: a rate out of range; a layer or operation without a rule, by name.
    """
    require(0 < rate <= 1, "rate", "in (0, 1]", rate)
    return {name: mask for layer in follow(model) for name, mask in _masks(layer, rate).items()}


def wels(model: nn.Module, rate: float, generator: torch.Generator) -> Split:
    """The weight-level split: each weight of a convolution or linear layer is kept with probability s in (0, 1]."""
    require(0 < rate <= 1, "rate", "in (0, 1]", rate)
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, (*CONVS, *LINEARS))]
    return {f"{name}.weight": torch.rand(layer.weight.shape, generator=generator) >= 1 - rate for name, layer in layers}


def later_layers(model: nn.Module, share: float) -> Split:
    """All of the first ceil(share L) of the L convolutions and linear layers, in the order of execution, none later.

    A vector belongs to the last of these layers before it. share in (0, 1]. Raises as `kels` does.
    """
    require(0 < share <= 1, "share", "in (0, 1]", share)
    layers = follow(model)
    remaining = math.ceil(share * sum(isinstance(layer.module, (*CONVS, *LINEARS)) for layer in layers) - 1e-9)
    split: Split = {}
    for layer in layers:
        remaining -= isinstance(layer.module, (*CONVS, *LINEARS))
        for name, mask in _masks(layer, 1.0).items():
            split[name] = mask if remaining >= 0 else torch.zeros_like(mask)
    return split


def _masks(layer: Layer, rate: float) -> Split:
    """Masks of a layer's tensors: the weight by inputs and outputs, `shift` by inputs, other vectors by outputs."""
    module, masks = layer.module, {}
    for name, tensor in _tensors(module):
        if tensor.dim() > 1:
            mask = _matrix(layer, rate)
            masks[name] = mask.view(*mask.shape, *(1,) * (tensor.dim() - 2)).expand(tensor.shape).clone()
        elif tensor.dim() == 1:  # not the number of batches that a batch norm has seen
            masks[name] = kept(layer.inputs if name == "shift" else layer.outputs, len(tensor), rate)
    return {f"{layer.name}.{name}" if layer.name else name: mask for name, mask in masks.items()}


def _matrix(layer: Layer, rate: float) -> Tensor:
    """Outer product of the channels kept on both sides, bool [K, C / G]."""
    module = layer.module
    if isinstance(module, LINEARS):
        rows, columns = kept(layer.outputs, module.out_features, rate), kept(layer.inputs, module.in_features, rate)
    else:
        rows = kept(layer.outputs, module.out_channels, rate)
        columns = kept(layer.inputs, module.in_channels, rate).view(module.groups, -1).any(0)  # alike in every group
    return rows[:, None] & columns


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


@torch.no_grad()
def reset(model: nn.Module, split: Split, generator: torch.Generator, *, vectors: bool = False) -> None:
    """W <- M W + (1 - M) R in place, R ~ U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's own initial distribution.

    Args:
        model: what the split was made for.
        split: masks.
        generator: on the CPU; the result is a function of its state.
        vectors: give vectors of the reset-hypothesis their initial values too; the authors' code doesn't.
    """
    for prefix, module in model.named_modules():
        for name, tensor in _tensors(module):
            mask = split.get(f"{prefix}.{name}" if prefix else name)
            if mask is None:
                continue
            mask = mask.to(tensor.device)
            if tensor.dim() > 1:
                bound = tensor[0].numel() ** -0.5
                fresh = torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator).to(tensor)
                tensor.copy_(torch.where(mask, tensor, fresh))
            elif vectors:
                tensor[~mask] = _initial(module, name)


def _initial(module: nn.Module, name: str) -> float:
    """What an entry of a vector starts from."""
    if isinstance(module, _BatchNorm):
        return float(name in ("weight", "running_var"))
    return 0.25 if isinstance(module, nn.PReLU) or name == "slope" else 0.0


@torch.no_grad()
def extract_slim(model: nn.Module, split: Split) -> Any:
    """The fit-hypothesis as a network of its own: the same class, with only the channels that `split` keeps.

    Weights, vectors and running statistics are copied as they are; nothing is fitted. In eval mode its outputs equal
    those of `model` with the weights' masks in its forward. There alpha, the scale of a binary filter, is the mean over
    the whole dense filter: latent weights are multiplied by alpha / alpha_slim, so that scale="mean" finds it again.

    Args:
        model: what the split was made for; not changed.
        split: from `kels`.

    Returns:
        A module that trains, packs and saves like any other; where `model` states its `feature_dim`, so does it.

    Raises:
        ValueError: the split is of another network, or not by channels.
    """
    slim: Any = copy.deepcopy(model)
    _check(slim, split)
    for prefix, module in slim.named_modules():
        for name, tensor in _tensors(module):
            mask = split.get(f"{prefix}.{name}" if prefix else name)
            if mask is None:
                continue
            small = _cut(tensor, mask.to(tensor.device))
            if name == "weight" and _has_alpha(module):
                rows = mask.flatten(1).any(1).to(tensor.device)
                small = small * _alpha(tensor)[rows] / _alpha(small)
            if name in module._parameters:
                setattr(module, name, nn.Parameter(small, tensor.requires_grad))
            else:
                setattr(module, name, small)
        _resize(module)
    if hasattr(slim, "feature_dim") and hasattr(slim, "classifier"):
        slim.feature_dim = slim.classifier.in_features
    return slim


def _has_alpha(module: nn.Module) -> bool:
    binary = isinstance(module, BinaryConv2d | BinaryLinear)
    return binary and module.scale == "mean" and not module.real_weight


def _alpha(weight: Tensor) -> Tensor:
    """Mean abs(w) of every filter, [K, 1, ...]; at least the smallest positive number, so that it divides."""
    return weight.abs().mean(tuple(range(1, weight.dim())), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)


def _cut(tensor: Tensor, mask: Tensor) -> Tensor:
    """The entries that an outer-product mask keeps, as a tensor of as many dimensions."""
    for dim in range(tensor.dim()):
        others = tuple(d for d in range(mask.dim()) if d != dim)
        index = (mask.any(others) if others else mask).nonzero().flatten()
        tensor = tensor.index_select(dim, index)
    return tensor


def _check(model: nn.Module, split: Split) -> None:
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if tensor.dim()}
    for name in sorted(shapes.keys() | split.keys()):
        if name not in split or shapes.get(name) != split[name].shape:
            raise ValueError(f"extract_slim: the split does not fit {name!r} of this network: expected one from kels")
        mask = split[name]
        if not mask.any() or _cut(mask, mask).numel() != mask.sum():
            raise ValueError(f"extract_slim: the split of {name!r} is not by channels: it has no slim network")


def _resize(module: Any) -> None:
    """Make the sizes that a layer states those of its tensors."""
    if isinstance(module, CONVS):
        rows, columns = module.weight.shape[:2]
        module.groups = rows if is_depthwise(module) else module.groups
        module.in_channels, module.out_channels = columns * module.groups, rows
    elif isinstance(module, LINEARS):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, RPReLU):
        module.channels = len(module.slope)
    elif isinstance(module, RSign):
        module.channels = len(module.shift)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, _BatchNorm) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
