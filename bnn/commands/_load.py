"""A run folder or a packed file as something that turns images into logits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import bnn
from bnn import posthoc
from bnn.data import Preprocess
from bnn.training.run import load_model, read_config, read_json


@dataclass(frozen=True)
class Target:
    """What RUN or FILE named.

    config: config.json of a run, {} for a file. forward: float32 [N, C, H, W] -> corrected logits [N, K].
    """

    path: Path
    config: dict[str, Any]
    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    classes: list[str] | None
    preprocess: Preprocess
    posthoc: dict[str, Any] | None


def open_target(name: str) -> Target:
    """Raises FileNotFoundError if there is neither, ValueError if it can't be read or records no preprocessing."""
    path = Path(name)
    if path.is_dir():
        return _open_run(path)
    packed = bnn.load(path)
    if packed.preprocess is None:
        raise ValueError(f"{path} records no preprocessing; pack it from a run with bnn pack")
    preprocess = Preprocess.from_dict(packed.preprocess)
    return Target(path, {}, packed, packed, packed.classes, preprocess, packed.posthoc)


def _open_run(path: Path) -> Target:
    config, model = read_config(path), load_model(path)
    correction = read_json(path / "posthoc.json") if (path / "posthoc.json").exists() else None

    def forward(x: Tensor) -> Tensor:
        logits = model(x)
        if correction is None:
            return logits
        return posthoc.apply(logits, correction["temperature"], logits.new_tensor(correction["logit_offsets"]))

    preprocess = Preprocess.from_dict(config["preprocess"])
    return Target(path, config, model, forward, config["classes"], preprocess, correction)
