"""TST and V-TST: a new head on the frozen body of a finished run (Jordahn and Olmos, ICML 2024, arXiv 2405.01196).

h = body(x) is fixed; the old classifier is dropped, and a deeper head, randomly initialized, learns the images again:

    TST      mu = W2 relu(W1 h + b1) + b2,   logits = V mu + c,   L = CE(logits, y)
    V-TST    log sigma^2 = logsigmoid(U2 relu(U1 h + a1) + a2),   z = mu + sigma eps,   logits = V z + c
             L = CE(logits, y) + kl_weight KL(N(mu, sigma^2) || N(0, I)) / Z,   one z an image and step
             p(y | x) = (1/m) sum_s softmax(V z_s + c)_y   (softmax, then mean; log p is what the network returns)

CE is plain, or balanced softmax: -log softmax(logits + log pi)_y. After every pass the head is evaluated on the
validation split, and the one with the lowest NLL is kept. Beside it in the table: the source run, the source run with
a temperature fitted on the validation split, and the heads named in `controls`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bnn import metrics, posthoc
from bnn.nn import VariationalHead
from bnn.nn.variational_head import MAX_SAMPLES, MAX_SEED, gaussian_kl, two_stage_head
from bnn.recipes import _report
from bnn.recipes._config import From, RunConfig, require
from bnn.recipes._report import Result
from bnn.recipes._session import Session, begin_from
from bnn.recipes._two_stage import Inputs, Kept, fixed_inputs, moving_inputs
from bnn.recipes.plain import make_loss
from bnn.training import seed as seeds
from bnn.training.loop import fit
from bnn.training.run import load_model
from bnn.training.sampler import BatchSampler

ROWS = {"vtst": "V-TST", "tst": "TST", "reinit": "control: new linear classifier"}


@dataclass(frozen=True)
class Config(RunConfig):
    """Train a new head, plain or variational, on the frozen body of a finished run."""

    from_run: From = None
    """Run whose body is kept (required)."""
    variational: bool = True
    """V-TST; no: TST."""
    latent_features: int = 128
    """Z, size of the latent; the hidden layers have 3 Z units."""
    samples: int = 10
    """m, samples of z whose probabilities are averaged."""
    sampling_seed: int = 0
    """Seed of these samples: the same input gives the same output."""
    kl_weight: float = 0.1
    """Factor on KL / Z; 1 is the paper's."""
    loss: Literal["ce", "balanced_softmax"] = "balanced_softmax"
    """Loss of the head; without a long tail both are the same."""
    body_mode: Literal["eval", "released"] = "eval"
    """eval: fixed features; released: as the authors' code, batch norm normalizes by batch and its averages move on."""
    views: int = 8
    """Augmented views of every image in the cache of features, beside the clean one; body_mode eval only."""
    steps: int = 3000
    """Steps of a head, rounded to whole passes over the cache (released: over the images)."""
    batch_size: int = 256
    """Images a step, over all processes together."""
    lr: float = 1e-3
    """Learning rate at the first step (Adam); falls to 0 along half a cosine."""
    weight_decay: float = 1e-3
    """Weight decay, 1 / step / learning rate."""
    stop_on: Literal["nll", "objective"] = "nll"
    """Validation figure whose minimum decides which pass is kept; objective: NLL + kl_weight KL / Z, as released."""
    controls: tuple[Literal["tst", "reinit"], ...] = ("tst", "reinit")
    """Other heads to train for their rows; reinit: the old architecture, a linear classifier."""
    seed: int = 0
    """Seed of the heads, batches and augmentation."""


def run(config: Config) -> Result:
    """Train the heads, evaluate on the test split, fill the run folder; returns folder and table."""
    check(config)
    wanted = "vtst" if config.variational else "tst"
    origin = Path(str(config.from_run))
    source: Any = load_model(origin).requires_grad_(False)
    head = {"latent_features": config.latent_features}
    if config.variational:
        head |= {"samples": config.samples, "seed": config.sampling_seed}
    session = begin_from("vtst", config, origin, wanted, head, sampler="instance")
    source.to(session.device.torch_device)
    inputs = cache(
        partial(fixed_inputs, session, source, config.views, config.seed)
    )  # made once, if a head is still to be trained
    names = (*(name for name in config.controls if name != wanted), wanted)
    networks = {name: train(config, session, source, name, inputs) for name in names}

    session.run.save_model(networks[wanted])
    test, counts = session.data.splits["test"], session.data.class_counts
    logits, labels = _report.outputs(session, source, test)
    temperature = posthoc.fit_temperature(*_report.outputs(session, source, session.data.splits["val"]))
    rows = [
        _report.row("source", logits, labels, counts),
        _report.row("control: temperature scaling", posthoc.apply(logits, temperature), labels, counts),
    ]
    for name, network in networks.items():
        logits, _ = _report.outputs(session, network, test)
        rows.append(_report.row(ROWS[name], logits, labels, counts))
    return _report.write(session, rows, logits, labels)  # `wanted` is the last one


def check(config: Config) -> None:
    """Raise ValueError for a number out of range."""
    require(config.from_run is not None, "from", "the folder of a finished run", None)
    require(config.latent_features >= 1, "latent-features", "at least 1", config.latent_features)
    require(1 <= config.samples <= MAX_SAMPLES, "samples", f"1 to {MAX_SAMPLES}", config.samples)
    require(0 <= config.sampling_seed < MAX_SEED, "sampling-seed", f"0 to {MAX_SEED - 1}", config.sampling_seed)
    require(config.kl_weight >= 0, "kl-weight", "0 or more", config.kl_weight)
    require(config.views >= 0, "views", "0 or more", config.views)
    require(config.steps >= 1, "steps", "at least 1", config.steps)
    require(config.batch_size >= 2, "batch-size", "at least 2", config.batch_size)
    require(config.lr > 0, "lr", "a number above 0", config.lr)
    require(config.weight_decay >= 0, "weight-decay", "0 or more", config.weight_decay)


def train(config: Config, session: Session, source: Any, name: str, fixed: Callable[[], Inputs]) -> Any:
    """A copy of `source` with the new head `name`, from the pass with the lowest validation figure."""
    seeds.seed_torch("head", config.seed)
    network = copy.deepcopy(source)
    network.classifier = new_head(config, name, source.feature_dim, len(session.data.classes))
    network.to(session.device.torch_device)
    released = config.body_mode == "released"
    kept = Kept(network if released else network.classifier)
    if not session.run.finished(name, kept):
        inputs = moving_inputs(session, network, config.seed) if released else fixed()
        fit_head(config, session, name, kept, network.classifier, inputs)
    if released:
        return kept.best
    network.classifier = kept.best
    return network


def new_head(config: Config, name: str, in_features: int, num_classes: int) -> nn.Module:
    """The head `name`, a key of ROWS, randomly initialized."""
    if name == "reinit":
        return nn.Linear(in_features, num_classes)
    samples = config.samples if name == "vtst" else None
    return two_stage_head(in_features, num_classes, config.latent_features, samples, config.sampling_seed)


def fit_head(config: Config, session: Session, name: str, kept: Kept, head: nn.Module, inputs: Inputs) -> None:
    """Train `head`, which is `kept.module` or a part of it."""
    criterion, counts = make_loss(config.loss, session.counts), session.data.class_counts

    def step(batch: dict) -> dict[str, Tensor]:
        h = inputs.features(batch)
        if not isinstance(head, VariationalHead):
            return {"loss": criterion(head(h), batch["label"])}
        logits, kl = head.draw(h)
        ce, kl = criterion(logits, batch["label"]), kl.mean() / config.latent_features
        return {"loss": ce + config.kl_weight * kl, "ce": ce, "kl": kl}

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        h, labels = inputs.validation()
        h = h.to(session.device.torch_device)
        scores = metrics.evaluate(head(h).cpu(), labels, counts, bootstrap=0)
        scores["objective"] = scores["nll"]
        if isinstance(head, VariationalHead):
            kl = gaussian_kl(*head.posterior(h)).mean().item() / config.latent_features
            scores["objective"] += config.kl_weight * kl
        kept.offer(scores[config.stop_on])
        return scores

    batches = BatchSampler(inputs.dataset.labels, config.batch_size, seed=config.seed)
    optimizer = torch.optim.Adam(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    training = (kept, step, inputs.dataset, batches, optimizer, session.device)
    epochs = max(1, round(config.steps / len(batches)))
    fit(session.run, name, *training, epochs=epochs, evaluate=evaluate, float32=True)
