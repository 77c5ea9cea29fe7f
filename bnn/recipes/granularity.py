"""Granularity: auxiliary classes that look like the target classes (Zhao et al., arXiv 2410.15980, CVPR 2025).

1. neighbors   every target class gets auxiliary classes that resemble it, a small class more of them than a large one
2. train       one classifier over K target and M auxiliary classes, all target images and `per_class` images of every
               auxiliary class an epoch, drawn afresh by a hash of (seed, epoch, image)
               L(x, y) = -log( pi_y e^{z_y} / sum_j w_yj pi_j e^{z_j} ),  pi: the prior of an epoch over all K + M
               w_yj: 1, or for a target class and its neighbor, in both directions, 0 (hard) or soft_weight (soft);
               back: 0 also for all other auxiliary classes beside an auxiliary label
3. drop        the rows of the auxiliary classes, weights and biases: what is saved is an ordinary network of K classes

The images are not looked for here: `bnn curate` chooses them for a folder, `glyphs` draws its own (lookalikes.py).
The paper trains as long as its data is large. `steps` fixes the number of steps instead, so that what is compared is
not the length of the training.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bnn import losses
from bnn.data import Data, Images, folder, longtail, lookalikes, neighbors
from bnn.data.hashing import uniform
from bnn.recipes import _report
from bnn.recipes._config import From, TrainConfig, require
from bnn.recipes._images import TrainingImages
from bnn.recipes._report import Result
from bnn.recipes._session import begin, build_network
from bnn.training import seed as seeds
from bnn.training.loop import fit
from bnn.training.run import read_config
from bnn.training.sampler import PartSampler

GLYPH_MAPS = ("lookalikes", "random")


@dataclass(frozen=True)
class Config(TrainConfig):
    """Train with auxiliary classes that resemble the target classes."""

    neighbors: str = "lookalikes"
    """lookalikes, random (the control: as many other characters; both glyphs only) or a JSON map FILE."""
    auxiliary: str | None = None
    """Folder with one folder of images for every auxiliary class; not for glyphs, which draws them."""
    neighbors_per_class: tuple[int, int, int] = (2, 4, 8)
    """Look-alikes of a class with many, medium, few training images, glyphs only."""
    per_class: int = 10
    """Images of an auxiliary class in an epoch, all it has if these are fewer."""
    silencing: Literal["none", "hard", "back", "soft"] = "hard"
    """Which classes do not compete, see above; none: balanced softmax over all."""
    silenced_rows: Literal["both", "target", "auxiliary"] = "both"
    """Labels that silence their neighbors."""
    soft_weight: float = 0.1
    """Weight of a neighbor with soft silencing, 0 to 1."""
    mixup: bool = False
    """Train on a x + (1 - a) x', a uniform in [0, 1), x' another image of the epoch; both losses in these shares."""
    steps: int | None = None
    """Training steps instead of --epochs, to compare with a run on fewer images; an epoch's length divides them."""
    from_run: From = None
    """Run whose body (all but the classifier) the network starts from."""


def run(config: Config) -> Result:
    """Train, drop the auxiliary classes, evaluate on the test split, fill the run folder; returns folder and table."""
    check(config)
    session = begin("granularity", config, prepare=partial(with_neighbors, config))
    targets, device = len(session.data.classes), session.device.torch_device
    near = neighbors.relation(session.run.config["neighbor_map"], session.data.classes)
    images = TrainingImages(session, config.seed, config.image_size)
    counts = images.dataset.labels.bincount(minlength=sum(near.shape))
    counts[targets:].clamp_(max=config.per_class)
    epochs, length = schedule(config, int(counts.sum()) // config.batch_size)
    sampler = PartSampler(images.dataset.labels, counts, config.batch_size, length=length, seed=config.seed)
    model = build_network(session, config, config.from_run)
    model.classifier = resized(model.classifier, sum(near.shape), config.seed)
    weights, prior = silencing_weights(config, near).to(device), counts.to(device)

    def step(batch: dict) -> dict[str, Tensor]:
        index, epoch = batch["index"], batch["epoch"]
        x, mixture = images.augmented(batch["image"], index, epoch), None
        if config.mixup:
            share, other = partners(config.seed, epoch, index, sampler.order(epoch))
            second = images.augmented(images.dataset.images(other).to(device), other, epoch)
            x = second.lerp(x, share.view(-1, 1, 1, 1))
            mixture = images.dataset.labels[other].to(device), share
        return {"loss": losses.neighbor_silencing(model(x), batch["label"], prior, weights, mixture=mixture)}

    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    evaluate = _report.validation(session, lambda x: model(x)[:, :targets])
    train = ("train", model, step, images.dataset, sampler, optimizer, session.device)
    fit(session.run, *train, epochs=epochs, evaluate=evaluate)

    model.classifier = resized(model.classifier, targets, config.seed)
    session.run.save_model(model)
    logits, labels = _report.outputs(session, model, session.data.splits["test"])
    name = f"{config.model}, granularity, {config.neighbors} {config.silencing}"
    return _report.write(session, [_report.row(name, logits, labels, session.data.class_counts)], logits, labels)


def check(config: Config) -> None:
    """Raise ValueError for values that exclude each other or lie outside their range."""
    require(config.per_class >= 1, "per-class", "at least 1", config.per_class)
    require(config.steps is None or config.steps >= 1, "steps", "at least 1", config.steps)
    require(0 <= config.soft_weight <= 1, "soft-weight", "0 to 1", config.soft_weight)
    wanted = config.neighbors_per_class
    require(min(wanted) >= 0 < max(wanted), "neighbors-per-class", "0 or more, not all 0", wanted)
    if config.data == "glyphs":
        require(config.auxiliary is None, "auxiliary", "nothing: glyphs draws the images", config.auxiliary)
    else:
        built_in = config.neighbors in GLYPH_MAPS
        require(not built_in, "neighbors", f"a JSON map with --data {config.data}", config.neighbors)
        require(config.auxiliary is not None, "auxiliary", f"a folder with --data {config.data}", config.auxiliary)
    if config.from_run is not None:
        read_config(Path(config.from_run))


def with_neighbors(config: Config, data: Data) -> tuple[Data, dict[str, Any]]:
    """The data with auxiliary images after those to train on, and the map and the kind of loss for config.json."""
    found = neighbor_map(config, data)
    neighbors.check(found, data.classes)
    names, size = neighbors.auxiliary_classes(found), data.preprocess.size
    if data.name == "glyphs":
        images: Images = lookalikes.images(names, config.draw, config.image_size, config.fonts)
    else:
        images = folder.only(config.auxiliary or "", names, size, data.preprocess.mode)
    joined = neighbors.Joined(data.splits["train"], images, len(data.classes))
    record = {"neighbor_map": found, "loss": "balanced_softmax"}  # p2p reads which softmax the loss saw
    return replace(data, splits={**data.splits, "train": joined}), record


def neighbor_map(config: Config, data: Data) -> neighbors.NeighborMap:
    """The map that --neighbors means."""
    if config.neighbors not in GLYPH_MAPS:
        return neighbors.read(config.neighbors)
    masks = longtail.groups(data.class_counts)
    wanted = sum(masks[g] * n for g, n in zip(("many", "medium", "few"), config.neighbors_per_class, strict=True))
    found = lookalikes.lookalikes(data.classes, torch.as_tensor(wanted).tolist())
    return found if config.neighbors == "lookalikes" else lookalikes.shuffled(found, data.classes, config.draw)


def schedule(config: Config, longest: int) -> tuple[int, int]:
    """Epochs and steps in each; an epoch has images for `longest` steps."""
    if config.steps is None:
        return config.epochs, longest
    fewest = ceil(config.steps / max(1, longest))
    epochs = next(n for n in range(fewest, config.steps + 1) if config.steps % n == 0)
    return epochs, config.steps // epochs


def silencing_weights(config: Config, near: Tensor) -> Tensor:
    """w [K + M, K + M] of `losses.neighbor_silencing`."""
    silenced = {"none": 1.0, "soft": config.soft_weight}.get(config.silencing, 0.0)
    return losses.neighbor_weights(near, silenced, rows=config.silenced_rows, others=config.silencing == "back")


def partners(seed: int, epoch: int, index: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Shares [B] on the device of `index`, and positions [B] of other images of the epoch, those in `order`."""
    keys = (seeds.derive("mixup", seed), epoch, index.cpu().numpy())
    share, place = torch.from_numpy(uniform(*keys, 0)), torch.from_numpy(uniform(*keys, 1))
    return share.to(index.device), order[(place * len(order)).long()]


def resized(classifier: nn.Linear, classes: int, seed: int) -> nn.Linear:
    """A linear classifier with the first rows of this one; rows beyond are drawn from the seed."""
    seeds.seed_torch("auxiliary classes", seed)
    wanted = nn.Linear(classifier.in_features, classes).to(classifier.weight)
    kept = min(classes, classifier.out_features)
    with torch.no_grad():
        wanted.weight[:kept] = classifier.weight[:kept]
        wanted.bias[:kept] = classifier.bias[:kept]
    return wanted
