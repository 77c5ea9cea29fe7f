"""Knowledge Evolution: train in generations, draw a part of the weights again between them (Taha et al., CVPR 2021).

    generation 1       every weight drawn at random, the whole dense network trained for `epochs`
    generation g > 1   W <- M W + (1 - M) R for every convolution and linear layer, R drawn at random; then the same
                       training again: new optimizer, learning rate from the start

M is fixed and used nowhere else: both parts are trained all the time. With mask "kels" (`bnn.nn.split_masks`) the kept
part, the fit-hypothesis, is a network of its own, s = `split_rate` times as wide, at about s^2 of the multiplications:
the slim network. It starts at chance and is to catch up with the dense one over the generations.

The controls cost as much: `long` is one training of generations x epochs, `llf` forgets the later layers instead
(Zhou et al., ICLR 2022). In the table, "slim" is evaluated as it is cut out, without any training of its own.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bnn import models
from bnn.nn.packed_file import save
from bnn.nn.packing import pack
from bnn.nn.split_masks import Split, extract_slim, kels, later_layers, reset, wels
from bnn.recipes import _report
from bnn.recipes._config import TrainConfig, require
from bnn.recipes._images import TrainingImages
from bnn.recipes._report import Result
from bnn.recipes._session import Session, begin, build_network
from bnn.recipes.plain import make_loss
from bnn.training import seed as seeds
from bnn.training.loop import fit
from bnn.training.run import load_model
from bnn.training.sampler import BatchSampler


@dataclass(frozen=True)
class Config(TrainConfig):
    """Train in generations; keep a part of the weights from one to the next."""

    epochs: int = 24
    """Passes over the training images in every generation."""
    generations: int = 5
    """Trainings in a row."""
    mask: Literal["kels", "wels"] = "kels"
    """kels: the first channels of every layer, with a slim network; wels: single weights at random."""
    split_rate: float = 0.5
    """s: share of the channels (kels) or weights (wels) that is kept, above 0, below 1."""
    control: Literal["none", "long", "llf"] = "none"
    """long: one training of generations x epochs; llf: forget the later layers instead."""
    llf_keep: float = 0.5
    """Share of the layers that llf keeps, the first ones."""
    loss: Literal["ce", "balanced_softmax"] = "ce"
    """Loss; balanced_softmax uses the class counts."""
    label_smoothing: float = 0.1
    """Share of every label that is spread over all classes, 0 to below 1."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """sgd: momentum 0.9, as the authors have it (with lr 0.256 at batch size 32, weight decay 1e-4)."""
    init: Literal["kaiming_normal", "torch"] = "kaiming_normal"
    """Generation 1 of real layers: N(0, 2 / fan_in), or torch's U(+-1 / sqrt(fan_in)), from which R always is."""
    reset_vectors: bool = False
    """Also start batch norm, bias, shift and RPReLU of the channels that are not kept again."""
    slim_norm: Literal["copied", "reestimated"] = "copied"
    """Batch norm statistics of the slim network: of the dense one, or its own over the training images."""


def run(config: Config) -> Result:
    """Train all generations, evaluate dense and slim after each, fill the run folder; returns folder and table."""
    check(config)
    session = begin("ke", config)
    model = build_network(session, config)
    initialize(config, model)
    split = make_split(config, model)
    images = TrainingImages(session, config.seed, config.image_size)

    rows: list[dict[str, Any]] = []
    for generation in range(1, 2 if config.control == "long" else config.generations + 1):
        if generation > 1:
            reset(model, split, seeds.generator("reset", config.seed, generation), vectors=config.reset_vectors)
        train(config, session, model, split, images, generation)
        rows += evaluate(config, session, model, split, images, generation)

    session.run.save_model(model)
    if has_slim(config) and session.run.main:
        slim = slim_network(config, session, load_model(session.run.folder), split, images)
        classes, preprocess = list(session.data.classes), session.data.preprocess.to_dict()
        save(pack(slim), session.run.folder / "slim.safetensors", classes, preprocess)
    logits, labels = _report.outputs(session, model, session.data.splits["test"])
    return _report.write(session, rows, logits, labels)


def check(config: Config) -> None:
    """Raise ValueError for values outside their range."""
    require(config.generations >= 1, "generations", "at least 1", config.generations)
    require(0 < config.split_rate < 1, "split-rate", "above 0 and below 1", config.split_rate)
    require(0 < config.llf_keep < 1, "llf-keep", "above 0 and below 1", config.llf_keep)
    require(0 <= config.label_smoothing < 1, "label-smoothing", "0 to below 1", config.label_smoothing)


def initialize(config: Config, model: nn.Module) -> None:
    """The weights of generation 1; those of binary layers are torch's, of which only signs and means count."""
    seeds.seed_torch("initial weights", config.seed)
    for layer in model.modules():
        if config.init == "kaiming_normal" and isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def make_split(config: Config, model: nn.Module) -> Split:
    """What is kept: a function of network and seed, the same in every generation and after a resume."""
    if config.control == "llf":
        return later_layers(model, config.llf_keep)
    if config.mask == "wels":
        return wels(model, config.split_rate, seeds.generator("split", config.seed))
    return kels(model, config.split_rate)


def train(config: Config, session: Session, model: Any, split: Split, images: TrainingImages, generation: int) -> None:
    """One generation; its images are moved as no generation before saw them, as in one long training."""
    long = config.control == "long"
    loss, first = make_loss(config.loss, session.counts), (generation - 1) * config.epochs

    def step(batch: dict) -> dict[str, Tensor]:
        logits = model(images({**batch, "epoch": first + batch["epoch"]}))
        sure = F.one_hot(batch["label"], logits.shape[1]).float()
        return {"loss": loss(logits, sure.lerp(torch.full_like(sure, 1 / logits.shape[1]), config.label_smoothing))}

    def validate() -> dict[str, float]:
        figures = _report.validation(session, model)()
        if has_slim(config):
            slim = _report.validation(session, slim_network(config, session, model, split, images))()
            figures |= {f"slim_{name}": value for name, value in slim.items()}
        return figures

    seed = seeds.derive("generation", config.seed, generation)
    batches = BatchSampler(images.dataset.labels, config.batch_size, seed=seed)
    phase = "long" if long else f"generation-{generation}"
    training = (model, step, images.dataset, batches, make_optimizer(config, model), session.device)
    epochs = config.epochs * config.generations if long else config.epochs
    fit(session.run, phase, *training, epochs=epochs, evaluate=validate)


def make_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """A new one for every generation: no moments survive."""
    rate, decay = config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=decay)
    return torch.optim.Adam(model.parameters(), rate, weight_decay=decay)


def has_slim(config: Config) -> bool:
    """Whether what is kept is a network."""
    return config.mask == "kels" and config.control != "llf"


@torch.no_grad()
def slim_network(config: Config, session: Session, model: Any, split: Split, images: TrainingImages) -> Any:
    """The slim network of `model` as it is now, in eval mode."""
    slim = extract_slim(model, split).eval()
    if config.slim_norm == "reestimated":
        norms = [layer for layer in slim.modules() if isinstance(layer, _BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain mean over the batches
            norm.train()
        for indices in torch.arange(len(images.dataset)).split(config.batch_size):
            device = next(slim.parameters()).device
            slim(images.normalize(images.dataset.images(indices).to(device)))
        slim.eval()
    return slim


def evaluate(
    config: Config, session: Session, model: Any, split: Split, images: TrainingImages, generation: int
) -> list[dict[str, Any]]:
    """Rows of the table after a generation: dense, then slim, with their multiplications an image."""
    networks = {"dense": model}
    if has_slim(config):
        networks["slim"] = slim_network(config, session, model, split, images)
    place = "one long training" if config.control == "long" else f"generation {generation}"
    counts, rows = session.data.class_counts, []
    for name, network in networks.items():
        logits, labels = _report.outputs(session, network, session.data.splits["test"])
        layers = models.summary(copy.deepcopy(network).cpu(), config.image_size, len(session.data.preprocess.mean))
        cost = {unit: sum(layer[unit] for layer in layers) for unit in ("binary_macs", "real_macs")}
        rows.append({**_report.row(f"{place}, {name}", logits, labels, counts), "generation": generation, **cost})
    return rows
