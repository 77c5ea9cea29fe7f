"""What every recipe does first: check, choose the device, load the data, open the run folder, build the network."""

import dataclasses
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bnn import data as datasets
from bnn import models
from bnn.data import Data
from bnn.models.external import is_external
from bnn.recipes._config import RunConfig, TrainConfig, require, to_dict
from bnn.training import device as devices
from bnn.training import seed as seeds
from bnn.training.device import Device
from bnn.training.run import Run, check_folder, load_model, read_config, versions

DATA_FIELDS = ("draw", "image_size", "num_classes", "profile", "imbalance", "n_max", "fonts", "data_root")
# What a run takes over from the one that it starts from
INHERITED = ("data", *DATA_FIELDS, "split", "mirror", "model", "seed", "loss", "sampler", "reweight_from")
HOLD_OUT = 20  # every 20th source image is kept for validation


@dataclass(frozen=True)
class Session:
    """An open run: its folder, data and device."""

    run: Run
    data: Data
    device: Device
    counts: Tensor  # training images of each class, int64 [K], on the device


Prepare = Callable[[Data], tuple[Data, dict[str, Any]]]


def begin(
    recipe: str,
    config: TrainConfig,
    *,
    prepare: Prepare = lambda data: (data, {}),
    head: dict[str, Any] | None = None,
) -> Session:
    """Everything that can fail because of a wrong argument fails here, before anything is trained or overwritten.

    prepare: data -> the data to train on, and more fields for config.json.
    head: of the network, a linear one if None; see `bnn.models.build`.
    """
    check_train(config)
    device = devices.start(config.device, config.precision)
    fields = {"recipe": recipe, **to_dict(config), **device.resolved}
    folder = config.out or Path("runs") / f"{recipe}-{config.data.replace(':', '-').replace('/', '-')}-s{config.seed}"
    if device.main:
        check_folder(folder, fields, resume=config.resume, overwrite=config.overwrite)
    data, more = prepare(load_data(fields))
    return open_session(folder, {**fields, **more}, data, with_head(network(config, data), head), device, config)


def begin_from(
    recipe: str,
    config: RunConfig,
    origin: Path,
    name: str,
    head: dict[str, Any] | Literal["same"] | None = "same",
    **changes: Any,
) -> Session:
    """As `begin`, for a recipe that works on the network of the finished run `origin` with the same data.

    The folder is ORIGIN-NAME unless the config says otherwise. head: the network's, "same" as that of `origin`.
    changes: recorded fields that are other than in `origin`.
    """
    source = read_config(origin)
    if (origin / "posthoc.json").exists():
        raise ValueError(f"--from {origin}: it is corrected already; give the run it came from, {source['from']}")
    device = devices.start(config.device, "no")
    inherited = {field: source[field] for field in INHERITED if field in source}
    fields = {"recipe": recipe, **inherited, "base_recipe": source["recipe"], **changes}
    fields |= {**to_dict(config), **device.resolved}
    folder = config.out or origin.with_name(f"{origin.name}-{name}")
    if device.main:
        check_folder(folder, fields, resume=config.resume, overwrite=config.overwrite)
    data = load_data(fields)
    if list(data.classes) != source["classes"]:
        raise ValueError(f"--from {origin}: the classes of {source['data']} have changed since it was trained")
    net = source["network"] if head == "same" else with_head(source["network"], head)
    return open_session(folder, fields, data, net, device, config)


def open_session(
    folder: Path, fields: dict[str, Any], data: Data, net: dict[str, Any], device: Device, config: RunConfig
) -> Session:
    """Write config.json (or compare with the one there) and return the open run."""
    record = {
        **fields,
        "network": net,
        "classes": list(data.classes),
        "class_counts": data.class_counts.tolist(),
        "preprocess": data.preprocess.to_dict(),
        "versions": versions(),
        "command": shlex.join(["bnn", *sys.argv[1:]]),
    }
    run = Run(folder, record, resume=config.resume, overwrite=config.overwrite, main=device.main)
    device.accelerator.wait_for_everyone()
    return Session(run, data, device, data.class_counts.to(device.torch_device))


def check_train(config: TrainConfig) -> None:
    """Raise ValueError for a number out of range or an unknown model."""
    named = f"one of {', '.join(models.names())}, torchvision:NETWORK or timm:NETWORK"
    require(config.model in models.names() or is_external(config.model), "model", named, config.model)
    models.check_name(config.model)
    fits = is_external(config.model) or not config.pretrained
    require(fits, "pretrained", "a --model of torchvision or timm with it", config.model)
    require(config.epochs >= 1, "epochs", "at least 1", config.epochs)
    require(config.batch_size >= 2, "batch-size", "at least 2", config.batch_size)
    require(config.lr > 0, "lr", "a number above 0", config.lr)
    require(config.weight_decay >= 0, "weight-decay", "0 or more", config.weight_decay)


def load_data(fields: dict[str, Any], **changes: Any) -> Data:
    """The data of a run from its recorded fields; `changes` replace some of them."""
    fields = {**fields, **changes}
    source = fields.get("split") == "source"
    known: dict[str, Any] = {name: fields[name] for name in DATA_FIELDS if fields.get(name) is not None}
    data = datasets.load(fields["data"], **known, source=source, download=bool(fields.get("download")))
    return _source_as_data(data) if source else data


def _source_as_data(data: Data) -> Data:
    """The source split as a data set of its own: every 20th image is validation and test, the others train."""
    images = data.splits["source"]
    index = torch.arange(len(images))
    held_out, train = images.subset(index[index % HOLD_OUT == 0]), images.subset(index[index % HOLD_OUT != 0])
    return dataclasses.replace(
        data,
        classes=data.source_classes,
        splits={"train": train, "val": held_out, "test": held_out},
        class_counts=train.labels.bincount(minlength=len(data.source_classes)),
        source_classes=(),
    )


def network(config: TrainConfig, data: Data) -> dict[str, Any]:
    """Arguments of `bnn.models.build` for this data set."""
    return {
        "name": config.model,
        "num_classes": len(data.classes),
        "in_channels": len(data.preprocess.mean),
        "image_size": config.image_size,
    }


def with_head(net: dict[str, Any], head: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of `bnn.models.build` for the same network with `head`, a linear one if None."""
    body = {name: value for name, value in net.items() if name != "head"}
    return body if head is None else {**body, "head": head}


def build_network(session: Session, config: TrainConfig, body_from: str | None = None) -> Any:
    """The network of config.json (from `bnn.models`) with weights drawn from the seed.

    body_from: another run to take the body from, and the classifier too when it is of the same kind and classes.

    Raises:
        ValueError: the other run's network has another body.
    """
    seeds.seed_torch("weights", config.seed)
    model = models.build(**session.run.config["network"], pretrained=config.pretrained)
    if body_from is not None:
        _copy_body(model, session.run.config, body_from)
    return model


def _copy_body(model: nn.Module, config: dict[str, Any], body_from: str) -> None:
    theirs, ours = read_config(Path(body_from)), config["network"]
    for name in ("name", "in_channels"):
        was = theirs["network"][name]
        if was != ours[name]:
            raise ValueError(f"--from {body_from}: its {name} is {was!r}, this run's is {ours[name]!r}: no common body")
    state = load_model(Path(body_from)).state_dict()
    if (theirs["classes"], theirs["network"].get("head")) != (config["classes"], ours.get("head")):
        state = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    model.load_state_dict(state, strict=False)
