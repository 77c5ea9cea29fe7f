"""Parts of a recipe that trains a head on a frozen body: what it learns from, and the best of its states."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bnn.recipes import _report
from bnn.recipes._distillation import cache_features
from bnn.recipes._images import TrainingImages
from bnn.recipes._session import Session


@dataclass(frozen=True)
class Inputs:
    """What a head learns from."""

    dataset: Any  # with labels [N]
    features: Callable[[dict], Tensor]  # a batch of it -> h [B, D], without gradient
    validation: Callable[[], tuple[Tensor, Tensor]]  # h and labels of the validation split, on the CPU


def fixed_inputs(session: Session, network: Any, views: int, seed: int) -> Inputs:
    """Features of a body in eval mode, computed once: every image clean and in `views` augmented versions."""
    images = TrainingImages(session, seed, session.run.config["image_size"])
    cached = cache_features(network, images, [session.run.config["image_size"]], views, session.device)
    validation = _report.outputs(session, network.features, session.data.splits["val"])
    return Inputs(cached, lambda batch: batch["feature"], lambda: validation)


def moving_inputs(session: Session, network: Any, seed: int) -> Inputs:
    """Features of a body whose batch norm is in training mode: of augmented images, by the statistics of the batch."""
    images = TrainingImages(session, seed, session.run.config["image_size"])

    def features(batch: dict) -> Tensor:
        with torch.no_grad():
            return network.features(images(batch))

    validation = partial(_report.outputs, session, network.features, session.data.splits["val"])
    return Inputs(images.dataset, features, validation)


class Kept(nn.Module):
    """A module in training, and a copy of it from the moment when its validation figure was lowest."""

    lowest: Tensor

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self.best: Any = copy.deepcopy(module).requires_grad_(False)
        self.register_buffer("lowest", torch.tensor(math.inf))

    def offer(self, figure: float) -> None:
        """Copy the module if `figure` is lower than all before."""
        if figure < self.lowest:
            self.lowest.fill_(figure)
            self.best.load_state_dict(self.module.state_dict())
