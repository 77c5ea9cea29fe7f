"""Checkpoints that others published, read into the networks here: the same function, or a refusal that names the key.

    reactnet_a    liuzechun/ReActNet, mobilenet/2_step2: feature.N.binary_3x3.weights, feature.N.move11.bias, ...
    reactnet18    liuzechun/ReActNet, resnet/2_step2: layerS.B.binary_conv.weight, layerS.B.move0.bias, ...
    birealnet18   liuzechun/Bi-Real-net, pytorch_implementation/BiReal18_34: layerS.B.binary_conv.weights, ...
    bnext_t       hpi-xnor/BNext: feature.N.Attention.binary_conv.weight, feature.N.FFN_1.scale, ...

One difference is left: the sign of an activation that is exactly 0 is 0 there and +1 here. A weight of exactly 0 is
refused for that reason. A file of reactnet18's first training step has the keys of the second, but its weights are
meant to stay real: nothing in the file says so.
"""

import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# our key -> theirs, the parts of a concatenation separated by blanks; alternatives in the order of trial
_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_HEAD = (r"classifier\.(weight|bias)", (r"fc.\1",))
_RESNET = [
    (r"body\.0\.weight", ("conv1.weight",)),
    (rf"body\.1\.{_NORM}", (r"bn1.\1",)),
    (rf"body\.(\d+)\.norm\.{_NORM}", (r"@\1.bn1.\2",)),
    (r"body\.(\d+)\.shortcut\.([12])\.(\w+)", (r"@\1.downsample.\2.\3",)),
    _HEAD,
]
_REACTNET_A = [
    (r"body\.0\.weight", ("feature.0.conv1.weight",)),
    (rf"body\.1\.{_NORM}", (r"feature.0.bn1.\1",)),
    (r"body\.(\d+)\.spatial\.shift", (r"@\1.move11.bias",)),
    (r"body\.(\d+)\.spatial\.weight", (r"@\1.binary_3x3.weights",)),
    (rf"body\.(\d+)\.spatial_norm\.{_NORM}", (r"@\1.bn1.\2",)),
    (r"body\.(\d+)\.spatial_activation\.before", (r"@\1.move12.bias",)),
    (r"body\.(\d+)\.spatial_activation\.slope", (r"@\1.prelu1.weight",)),
    (r"body\.(\d+)\.spatial_activation\.after", (r"@\1.move13.bias",)),
    (r"body\.(\d+)\.point\.shift", (r"@\1.move21.bias",)),
    (r"body\.(\d+)\.point\.weight",
     (r"@\1.binary_pw.weights", r"@\1.binary_pw_down1.weights @\1.binary_pw_down2.weights")),
    (rf"body\.(\d+)\.point_norm\.{_NORM}", (r"@\1.bn2.\2", r"@\1.bn2_1.\2 @\1.bn2_2.\2")),
    (r"body\.(\d+)\.point_activation\.before", (r"@\1.move22.bias",)),
    (r"body\.(\d+)\.point_activation\.slope", (r"@\1.prelu2.weight",)),
    (r"body\.(\d+)\.point_activation\.after", (r"@\1.move23.bias",)),
    _HEAD,
]  # fmt: skip
_REACTNET18 = [
    (r"body\.(\d+)\.conv\.shift", (r"@\1.move0.bias",)),
    (r"body\.(\d+)\.conv\.weight", (r"@\1.binary_conv.weight",)),
    (r"body\.(\d+)\.activation\.before", (r"@\1.move1.bias",)),
    (r"body\.(\d+)\.activation\.slope", (r"@\1.prelu.weight",)),
    (r"body\.(\d+)\.activation\.after", (r"@\1.move2.bias",)),
    *_RESNET,
]
# units of bnext_t: ours -> theirs
_UNITS = {"#spatial": ("Attention",), "#points.0": ("FFN", "FFN_1"), "#points.1": ("FFN_2",)}
_UNIT = r"body\.(\d+)\.(spatial|points\.[01])\."
_BNEXT = [
    (r"body\.0\.weight", ("feature.0.conv1.weight",)),
    (rf"body\.1\.{_NORM}", (r"feature.0.bn1.\1",)),
    (r"body\.15\.weight", ("prelu.weight",)),
    (_UNIT + r"conv\.shift", (r"@\1.#\2.move.bias",)),
    (_UNIT + r"conv\.weight", (r"@\1.#\2.binary_conv.weight",)),
    (_UNIT + rf"norm\.{_NORM}", (r"@\1.#\2.norm1.\3",)),
    (_UNIT + rf"last_norm\.{_NORM}", (r"@\1.#\2.norm2.\3",)),
    (_UNIT + r"activation\.weight", (r"@\1.#\2.activation2.weight",)),
    (_UNIT + r"entrance\.weight", (r"@\1.#\2.activation1.weight",)),
    (_UNIT + r"blend\.share", (r"@\1.#\2.scale",)),
    (_UNIT + r"gate\.([13])\.(weight|bias)", (r"@\1.#\2.se.se.\3.\4",)),
    _HEAD,
]
_RULES: dict[str, Sequence[tuple[str, tuple[str, ...]]]] = {
    "reactnet_a": _REACTNET_A,
    "reactnet18": _REACTNET18,
    "birealnet18": [(r"body\.(\d+)\.conv\.weight", (r"@\1.binary_conv.weights",)), *_RESNET],
    "bnext_t": _BNEXT,
}
# in the files of bnext_t, but without effect on its outputs
_UNUSED = re.compile(r"feature\.0\.prelu\.weight|.*\.(activation1\.weight|binary_activation\.temperature)")
_UNREADABLE = (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError)


def load_published(name: str, path: str | os.PathLike) -> nn.Module:
    """A network of `bnn.models` with the weights of a published checkpoint, in eval mode, for 3 x 224 x 224 images.

    Its number of classes is that of the file; bnext_t has the stem for small images unless they are 1000, as published.

    Args:
        name: "reactnet_a", "reactnet18", "birealnet18" or "bnext_t".
        path: a safetensors file or one of torch.save (read with weights_only); the state dict itself or under
            "state_dict" or "model", with or without the prefix "module.".

    Raises:
        FileNotFoundError: no such file.
        ValueError: another name; not such a file; a key that is missing, unknown or of the wrong size; a binary weight
            that is 0; weights of bnext_t that are not binary yet.
    """
    from bnn.models import build

    if name not in _RULES:
        raise ValueError(f"published checkpoints are known of {', '.join(_RULES)}; got {name!r}")
    state = read_state(path)
    if "fc.weight" not in state or state["fc.weight"].dim() != 2:
        raise ValueError(f"{path} is no published checkpoint of {name}: it has no matrix 'fc.weight'")
    classes = len(state["fc.weight"])
    small = name == "bnext_t" and classes != 1000
    with torch.device("meta"):
        model = build(name, classes, 3, 32 if small else 224)
    wanted = model.state_dict()
    used: set[str] = set()
    loaded = {key: _tensor(name, key, like, state, used, path) for key, like in wanted.items()}
    _check_rest(name, {key: value for key, value in state.items() if key not in used}, path)
    model.load_state_dict(loaded, assign=True)
    return model.eval()


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without wrappers and the prefix "module."; nothing in the file is executed.

    Raises:
        FileNotFoundError: no such file. ValueError: not a state dict of safetensors or torch.save.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        state: Any
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, SafetensorError) as problem:
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise ValueError(f"{path} can't be read as a state dict (weights only): {reason[:200]}") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict: expected tensors by name, alone or under 'state_dict'")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _tensor(name: str, key: str, like: Tensor, state: dict[str, Tensor], used: set[str], path) -> Tensor:
    """Our tensor `key`, made of the published ones."""
    choices = _published_keys(name, key)
    keys = next((found for found in choices if all(k in state for k in found)), None)
    if keys is None:
        missing = next(k for k in choices[0] if k not in state)
        raise ValueError(f"{path} is no published checkpoint of {name}: {missing!r} is missing")
    used.update(keys)
    parts = [state[k] for k in keys]
    if like.dim() == 0:
        return parts[0].clone()
    share = (like.shape[0] // len(parts), *like.shape[1:])
    for k, part in zip(keys, parts, strict=True):
        allowed = {torch.Size(share), torch.Size((share[0] if len(share) == 1 else torch.Size(share).numel(), 1))}
        allowed |= {torch.Size((1, share[0], 1, 1))} if len(share) == 1 else set()
        if part.shape not in allowed:
            raise ValueError(f"{path}: {k!r} has the size {list(part.shape)}, {name} needs {list(share)}")
        if k.endswith((".weight", ".weights")) and ".binary_" in k and not part.all():
            raise ValueError(f"{path}: {k!r} has a weight that is exactly 0, whose sign is 0 there and +1 here")
    tensor = (torch.cat([p.reshape(share) for p in parts]) if len(parts) > 1 else parts[0].reshape(share)).to(
        like.dtype
    )
    # the published 1x1 unit limits its share whenever it runs, the others only in training
    return tensor.clamp(0, 1) if ".points." in key and key.endswith("blend.share") else tensor


def _published_keys(name: str, key: str) -> list[list[str]]:
    """The ways in which a published file may name what makes up our `key`."""
    for pattern, templates in _RULES[name]:
        match = re.fullmatch(pattern, key)
        if match:
            found = [match.expand(template) for template in templates]
            for ours, theirs in _UNITS.items():
                found = [f.replace(ours, unit) for f in found for unit in (theirs if ours in f else ("",))]
            return [[_block(name, k) for k in f.split()] for f in found]
    raise AssertionError(f"no rule for {name}'s {key!r}")


def _block(name: str, key: str) -> str:
    """@N, the position of a block in our body -> its published name."""

    def published(match: re.Match) -> str:
        position = int(match[1])
        if name in ("reactnet_a", "bnext_t"):
            return f"feature.{position - 1}"
        stage, block = divmod(position - 3, 4)  # after convolution, norm and pooling
        return f"layer{stage + 1}.{block}"

    return re.sub(r"@(\d+)", published, key)


def _check_rest(name: str, rest: dict[str, Tensor], path) -> None:
    """Refuse what was not read, unless it is known to be without effect."""
    for key, value in sorted(rest.items()):
        if name == "bnext_t" and _UNUSED.fullmatch(key):
            continue
        if name == "bnext_t" and key.endswith(".binary_conv.temperature"):
            if float(value.max()) >= 1e-7:
                raise ValueError(f"{path}: {key!r} is {float(value.max()):g}: its weights are not binary (below 1e-7)")
            continue
        raise ValueError(f"{path} is no published checkpoint of {name}: unknown key {key!r}")
