"""Ordinary supervised training: the baseline and the controls of every other recipe.

    ce                      L = -log softmax(z)_y
    balanced_softmax        L = -log softmax(z + log pi)_y      (Ren et al. 2020; Menon et al. 2021)
    label_aware_smoothing   smoothing that grows with the size of the class   (MiSLAS, Zhong et al. 2021)
    class_balanced          ce weighted by (1 - b) / (1 - b^n_y), b = 0.9999  (Cui et al. 2019)
    ldam                    ce with margins ~ n_y^(-1/4) between cosines, and the weights of class_balanced from 80 %
                            of the epochs on: LDAM-DRW                        (Cao et al. 2019)
    label_over_smoothing    ce with almost uniform targets                    (LORT, Sun et al. 2025)

The long tail enters by the loss or by the sampler (class_balanced: as many images of every class), or stays out: cosine
head, mixup, cutmix.
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
from bnn.recipes._images import Mix, TrainingImages
from bnn.recipes._report import Result
from bnn.recipes._session import begin, build_network
from bnn.training.loop import fit
from bnn.training.run import read_config
from bnn.training.sampler import BatchSampler

Loss = Literal["ce", "balanced_softmax", "label_aware_smoothing", "class_balanced", "label_over_smoothing"]
REWEIGHT_FROM = {"class_balanced": 0.0, "ldam": 0.8}  # losses with weights
TAKE_MIXTURES = ("ce", "balanced_softmax")


@dataclass(frozen=True)
class Config(TrainConfig):
    """Train a network with a supervised loss."""

    loss: Literal[Loss, "ldam"] = "ce"
    """Loss; all but ce and label_over_smoothing use the class counts, ldam needs the cosine head."""
    reweight_from: float | None = None
    """Part of the epochs after which class-balanced weights set in; default class_balanced 0, ldam 0.8; 1: never."""
    head: Literal["linear", "cosine"] = "linear"
    """Classifier; cosine: scale times the cosine of the angle between features and the class's weight."""
    cosine_scale: float = 30.0
    """Scale of the cosine head."""
    learn_scale: bool = False
    """Train the scale of the cosine head too, from there on."""
    sampler: Literal["instance", "class_balanced"] = "instance"
    """instance: every image once an epoch; class_balanced: as many of every class."""
    mix: Mix = "none"
    """mixup: train on a x + (1 - a) x', a uniform in [0, 1), x' another training image; cutmix: on x with a square of
    x' of area 1 - a in it; with both labels in the shares that the image has of them."""
    split: Literal["train", "source"] = "train"
    """source: train on the source classes of glyphs instead, to make a teacher."""
    from_run: From = None
    """Run whose body (all but the classifier) the network starts from."""


def run(config: Config) -> Result:
    """Train, evaluate on the test split, fill the run folder; returns folder and table."""
    check(config)
    cosine = {"kind": "cosine", "scale": config.cosine_scale, "learned": config.learn_scale}
    session = begin("plain", config, head=cosine if config.head == "cosine" else None)
    model = build_network(session, config, config.from_run)
    images = TrainingImages(session, config.seed, config.image_size, config.mix)
    early = make_loss(config.loss, session.counts, weighted=False, scale=config.cosine_scale)
    late = make_loss(config.loss, session.counts, scale=config.cosine_scale)
    part = REWEIGHT_FROM.get(config.loss, 0.0) if config.reweight_from is None else config.reweight_from

    def step(batch: dict) -> dict[str, Tensor]:
        logits = model(images(batch))
        loss = late if batch["epoch"] >= part * config.epochs else early
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


def check(config: Config) -> None:
    """Raise ValueError for values that exclude each other or lie outside their range."""
    require(
        config.split != "source" or config.data == "glyphs", "split", "train: only glyphs has a source", config.split
    )
    takes = config.mix == "none" or config.loss in TAKE_MIXTURES
    require(takes, "loss", f"{' or '.join(TAKE_MIXTURES)} with --mix {config.mix}", config.loss)
    if config.reweight_from is not None:
        require(config.loss in REWEIGHT_FROM, "reweight-from", f"none with --loss {config.loss}", config.reweight_from)
        require(0 <= config.reweight_from <= 1, "reweight-from", "0 to 1", config.reweight_from)
    cosine, ldam = config.head == "cosine", config.loss == "ldam"
    require(cosine or not ldam, "head", "cosine with --loss ldam", config.head)
    require(cosine or config.cosine_scale == 30, "cosine-scale", "none with --head linear", config.cosine_scale)
    require(config.cosine_scale > 0, "cosine-scale", "a number above 0", config.cosine_scale)
    learned = "the cosine head, and another loss than ldam, whose margins are parts of a fixed scale"
    require(
        not config.learn_scale or (cosine and not ldam), "learn-scale", learned, config.loss if cosine else "linear"
    )
    if config.from_run is not None:
        read_config(Path(config.from_run))


def make_loss(
    name: str, counts: Tensor, weighted: bool = True, scale: float = 30.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """(logits [N, K], labels [N]) -> mean loss.

    counts: training images of each class, [K]. weighted: with the weights of class_balanced and ldam. scale: of the
    cosine head under ldam.
    """
    beta = losses.EFFECTIVE_BETA if weighted else 0.0
    if name == "class_balanced":
        return lambda logits, labels: losses.class_balanced(logits, labels, counts, beta)
    if name == "ldam":
        return lambda logits, labels: losses.ldam(logits, labels, counts, scale=scale, beta=beta)
    if name == "label_over_smoothing":
        return losses.label_over_smoothing
    if name == "balanced_softmax":
        return lambda logits, labels: losses.balanced_softmax(logits, labels, counts)
    if name == "label_aware_smoothing":
        return lambda logits, labels: losses.label_aware_smoothing(logits, labels, counts)
    return F.cross_entropy
