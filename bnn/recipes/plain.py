"""Ordinary supervised training: the baseline and the controls of every other recipe.

    ce                      L = -log softmax(z)_y
    balanced_softmax        L = -log softmax(z + log pi)_y      (Ren et al. 2020; Menon et al. 2021)
    label_aware_smoothing   smoothing that grows with the size of the class   (MiSLAS, Zhong et al. 2021)

The long tail enters by the loss or by the sampler (class_balanced: as many images of every class).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn import losses
from bnn.recipes import _report
from bnn.recipes._config import From, TrainConfig, require
from bnn.recipes._images import TrainingImages
from bnn.recipes._report import Result
from bnn.recipes._session import begin, build_network
from bnn.training.loop import fit
from bnn.training.run import read_config
from bnn.training.sampler import BatchSampler

Loss = Literal["ce", "balanced_softmax", "label_aware_smoothing"]


@dataclass(frozen=True)
class Config(TrainConfig):
    """Train a network with a supervised loss."""

    loss: Loss = "ce"
    """Loss; balanced_softmax and label_aware_smoothing use the class counts."""
    sampler: Literal["instance", "class_balanced"] = "instance"
    """instance: every image once an epoch; class_balanced: as many of every class."""
    mixup: bool = False
    """Train on a x + (1 - a) x', a uniform in [0, 1), x' another training image, with both labels in these shares."""
    split: Literal["train", "source"] = "train"
    """source: train on the source classes of glyphs instead, to make a teacher."""
    from_run: From = None
    """Run whose body (all but the classifier) the network starts from."""


def run(config: Config) -> Result:
    """Train, evaluate on the test split, fill the run folder; returns folder and table."""
    source = config.split == "source"
    require(not source or config.data == "glyphs", "split", "train: only glyphs has a source", config.split)
    smoothing = config.loss == "label_aware_smoothing"
    require(not (smoothing and config.mixup), "loss", "ce or balanced_softmax with --mixup", config.loss)
    if config.from_run is not None:
        read_config(Path(config.from_run))
    session = begin("plain", config)
    model = build_network(session, config, config.from_run)
    images = TrainingImages(session, config.seed, config.image_size, config.mixup)
    loss = make_loss(config.loss, session.counts)

    def step(batch: dict) -> dict[str, Tensor]:
        logits = model(images(batch))
        return {"loss": loss(logits, images.labels(batch, logits.shape[1]))}

    train = images.dataset
    fit(
        session.run,
        "train",
        model,
        step,
        train,
        BatchSampler(train.labels, config.batch_size, seed=config.seed, balanced=config.sampler == "class_balanced"),
        torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay),
        session.device,
        epochs=config.epochs,
        evaluate=_report.validation(session, model),
    )

    session.run.save_model(model)
    logits, labels = _report.outputs(session, model, session.data.splits["test"])
    rows = [_report.row(f"{config.model}, {config.loss}", logits, labels, session.data.class_counts)]
    return _report.write(session, rows, logits, labels)


def make_loss(name: str, counts: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """(logits [N, K], labels [N]) -> mean loss. counts: training images of each class, [K]."""
    if name == "balanced_softmax":
        return lambda logits, labels: losses.balanced_softmax(logits, labels, counts)
    if name == "label_aware_smoothing":
        return lambda logits, labels: losses.label_aware_smoothing(logits, labels, counts)
    return F.cross_entropy
