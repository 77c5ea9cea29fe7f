"""What `bnn bench` was pointed at: a network's name, a packed file or a run, as a packed network with its twin."""

import difflib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import bnn
from bnn import models
from bnn.commands.info import default_shape
from bnn.models._classifier import SMALL_IMAGE
from bnn.models.twins import twin
from bnn.nn import BinaryConv2d, Int8Conv2d, PackedBinaryConv2d
from bnn.nn.packing import PackedModel
from bnn.nn.real_weights import binary_layers
from bnn.training.run import load_model, read_config, read_json


@dataclass(frozen=True)
class Subject:
    """packed: the network, in each dtype of its real layers that is known. image: channels, height, width. rival,
    twin: its twin in words and as a module, if known."""

    name: str
    packed: dict[str, PackedModel]
    image: tuple[int, int, int]
    rival: str | None = None
    twin: nn.Module | None = None


def open_subject(target: str, image_size: int | None, classes: int | None) -> Subject:
    """What `target` names.

    Raises:
        ValueError: no binary network of that name (the nearest is named), classes for a network that has its own,
            no image size for a file without one.
        FileNotFoundError: no such file or run.
    """
    path = Path(target)
    if target in models.names():
        return _named(target, image_size, classes)
    if not path.exists():
        _refuse(target)
    if classes is not None:
        raise ValueError(f"--classes: {target} has its own classes; the flag is for the name of a network")
    return _run(path, image_size) if path.is_dir() else _file(path, image_size)


def _refuse(target: str) -> None:
    if Path(target).suffix or len(Path(target).parts) > 1:
        raise FileNotFoundError(f"{target}: no such packed file or run folder")
    close = difflib.get_close_matches(target, models.names(), n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    names = ", ".join(models.names())
    raise ValueError(f"MODEL: expected one of {names}, a packed file or a run folder; got {target!r}{hint}")


def _named(name: str, image_size: int | None, classes: int | None) -> Subject:
    default_classes, channels, default_size = default_shape(name)
    count, size = classes or default_classes, image_size or default_size
    packed = _pack(name, models.build(name, count, channels, size))
    return Subject(name, packed, (channels, size, size), *twin(name, count, channels, size))


def _run(folder: Path, image_size: int | None) -> Subject:
    network = read_config(folder)["network"]
    channels, built = network["in_channels"], network["image_size"]  # the twin's stem is the one of that size
    size = image_size or built
    packed = _pack(str(folder), load_model(folder))
    correction = folder / "posthoc.json"
    for form in packed.values():
        form.posthoc = read_json(correction) if correction.exists() else None
    return Subject(
        str(folder), packed, (channels, size, size), *twin(network["name"], network["num_classes"], channels, built)
    )


def _file(path: Path, image_size: int | None) -> Subject:
    packed = bnn.load(path)
    if packed.preprocess is None and image_size is None:
        raise ValueError(f"--image-size: {path} records no image size; give the side of its images in pixels")
    height, width = (image_size, image_size) if image_size else packed.preprocess["size"]  # type: ignore[index]
    channels = next((s["args"]["in_channels"] for s in packed.steps if "in_channels" in s["args"]), 1)
    outputs = packed.steps[-1]["args"].get("out_features")
    known = None if outputs is None else architecture(packed, channels)
    found = (None, None) if known is None else twin(known[0], outputs, channels, known[1])
    return Subject(str(path), {"packed": packed}, (channels, height, width), *found)


def _pack(name: str, model: nn.Module) -> dict[str, PackedModel]:
    if not binary_layers(model):
        raise ValueError(f"MODEL: {name} has no binary layers, so there is nothing to pack; give a binary network")
    dtypes = {"packed": torch.float32, "packed bf16": torch.bfloat16, "packed int8": torch.int8}
    return {form: bnn.pack(model, dtype=dtype) for form, dtype in dtypes.items()}


def architecture(packed: PackedModel, in_channels: int) -> tuple[str, int] | None:
    """A network of `bnn.models` with the convolutions of `packed`, and an image size that gives it the same stem.

    A packed file is a program and does not say what it was; heads differ between recipes, so they are not compared.
    """
    for name in models.names():
        for size in (SMALL_IMAGE, SMALL_IMAGE + 1):
            with torch.device("meta"):
                model = models.build(name, 2, in_channels, size)
            if binary_layers(model) and _convolutions(model) == _convolutions(packed):
                return name, size
    return None


def _convolutions(model: nn.Module) -> Counter:
    """How often each shape occurs; a layer and its packed form count as the same."""
    real = nn.Conv2d | Int8Conv2d
    found = [m for m in model.modules() if isinstance(m, real | BinaryConv2d | PackedBinaryConv2d)]
    return Counter(
        (isinstance(m, real), m.in_channels, m.out_channels, m.kernel_size, m.stride, m.groups) for m in found
    )
