"""A new classifier on the frozen body of a finished run: decoupled training, the classics of long-tailed recognition.

    crt    new linear classifier, cross-entropy, as many images of every class             (Kang et al., ICLR 2020)
    lws    z_k = f_k (w_k h + b_k): f, at first 1, is learned as in crt; w and b stay      (Kang et al.)
    tau    z_k = w_k h / |w_k|^tau: nothing is learned, tau is the one of 0, 0.05, ... 1 with the highest mean class
           accuracy on the validation split                                                (Kang et al.)
    lort   new linear classifier, every image as often, cross-entropy with targets that are almost uniform:
           q_y = 1 - d + d / K, q_k = d / K                                                (Sun et al., ICLR 2025)

h is the feature vector, computed once with the body in eval mode: of every image clean and in `views` augmented
versions. The classifier of the last step is kept. Beside it in the table: the source run, and the new classifier with a
temperature fitted on the validation split, since lort's probabilities are near 1 / K by design.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnn import losses, metrics, posthoc
from bnn.recipes import _report
from bnn.recipes._config import From, RunConfig, require
from bnn.recipes._report import Result
from bnn.recipes._session import Session, begin_from
from bnn.recipes._two_stage import fixed_inputs
from bnn.training import seed as seeds
from bnn.training.loop import fit
from bnn.training.run import load_model
from bnn.training.sampler import BatchSampler

# What a later step, such as p2p, has to know of the classifier: recorded in place of the source run's
TRAINED_WITH = {
    "crt": {"loss": "ce", "sampler": "class_balanced"},
    "lws": {"loss": "ce", "sampler": "class_balanced"},
    "tau": {},
    "lort": {"loss": "label_over_smoothing", "sampler": "instance"},
}


@dataclass(frozen=True)
class Config(RunConfig):
    """Train or rescale the classifier of a finished run; its body stays as it is."""

    from_run: From = None
    """Run whose body is kept (required)."""
    method: Literal["crt", "lws", "tau", "lort"] = "crt"
    """crt and lort: a new classifier; lws and tau: the old one's rows rescaled, by learned factors or their lengths."""
    smoothing: float = 0.98
    """d of lort."""
    views: int = 8
    """Augmented views of every image in the cache of features, beside the clean one."""
    steps: int = 3000
    """Steps, rounded to whole passes over the cache; not tau."""
    batch_size: int = 256
    """Images a step, over all processes together."""
    lr: float = 1e-3
    """Learning rate at the first step (Adam); falls to 0 along half a cosine."""
    weight_decay: float = 0.0
    """Weight decay, 1 / step / learning rate."""
    seed: int = 0
    """Seed of the classifier, batches and augmentation."""


class Scaled(nn.Module):
    """f_k (w_k h + b_k), w and b fixed."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = copy.deepcopy(linear).requires_grad_(False)
        self.factors = nn.Parameter(torch.ones(linear.out_features))

    def forward(self, h: Tensor) -> Tensor:
        return self.factors * self.linear(h)


def run(config: Config) -> Result:
    """Make the classifier, evaluate on the test split, fill the run folder; returns folder and table."""
    check(config)
    origin = Path(str(config.from_run))
    source: Any = load_model(origin).requires_grad_(False)
    rescales = config.method in ("lws", "tau")
    linear = isinstance(source.classifier, nn.Linear)
    require(linear or not rescales, "method", "crt or lort, as the source run's classifier isn't linear", config.method)
    head: Any = "same" if rescales else None
    session = begin_from("retrain", config, origin, config.method, head, **TRAINED_WITH[config.method])
    source.to(session.device.torch_device)
    val, test, counts = session.data.splits["val"], session.data.splits["test"], session.data.class_counts

    network, name = copy.deepcopy(source), str(config.method)
    if config.method == "tau":
        require(val is not test, "from", "a run whose validation split is not its test split", config.from_run)
        tau = posthoc.fit_tau(source.classifier.weight, *_report.outputs(session, source.features, val))
        network.classifier = rescaled(source.classifier, posthoc.tau_normalize(source.classifier.weight, tau))
        name = f"tau = {tau:g}"
    else:
        network.classifier = train(config, session, source)
    session.run.save_model(network)

    logits, labels = _report.outputs(session, network, test)
    temperature = posthoc.fit_temperature(*_report.outputs(session, network, val))
    rows = [
        _report.row("source", *_report.outputs(session, source, test), counts),
        _report.row(name, logits, labels, counts),
        _report.row(f"{name}, temperature scaling", posthoc.apply(logits, temperature), labels, counts),
    ]
    return _report.write(session, rows, logits, labels)


def check(config: Config) -> None:
    """Raise ValueError for a number out of range."""
    require(config.from_run is not None, "from", "the folder of a finished run", None)
    require(0 <= config.smoothing < 1, "smoothing", "0 or more, below 1", config.smoothing)
    require(config.views >= 0, "views", "0 or more", config.views)
    require(config.steps >= 1, "steps", "at least 1", config.steps)
    require(config.batch_size >= 2, "batch-size", "at least 2", config.batch_size)
    require(config.lr > 0, "lr", "a number above 0", config.lr)
    require(config.weight_decay >= 0, "weight-decay", "0 or more", config.weight_decay)


def train(config: Config, session: Session, source: Any) -> nn.Linear:
    """The classifier of crt, lort or lws on the features of `source`."""
    seeds.seed_torch("head", config.seed)
    old, new = source.classifier, nn.Linear(source.feature_dim, len(session.data.classes))
    head = (Scaled(old) if config.method == "lws" else new).to(session.device.torch_device)
    if not session.run.finished(config.method, head):
        fit_head(config, session, source, head)
    if isinstance(head, Scaled):
        bias = head.factors * head.linear.bias
        return rescaled(head.linear, head.factors[:, None] * head.linear.weight, bias)
    return head


def fit_head(config: Config, session: Session, source: Any, head: nn.Module) -> None:
    """Train `head` on cached features."""
    inputs, counts = fixed_inputs(session, source, config.views, config.seed), session.data.class_counts

    def step(batch: dict) -> dict[str, Tensor]:
        logits, labels = head(batch["feature"]), batch["label"]
        if config.method == "lort":
            return {"loss": losses.label_over_smoothing(logits, labels, config.smoothing)}
        return {"loss": F.cross_entropy(logits, labels)}

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        h, labels = inputs.validation()
        return metrics.evaluate(head(h.to(session.device.torch_device)).cpu(), labels, counts, bootstrap=0)

    balanced = config.method != "lort"
    batches = BatchSampler(inputs.dataset.labels, config.batch_size, seed=config.seed, balanced=balanced)
    learned = [p for p in head.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=config.lr, weight_decay=config.weight_decay)
    training = (head, step, inputs.dataset, batches, optimizer, session.device)
    epochs = max(1, round(config.steps / len(batches)))
    fit(session.run, config.method, *training, epochs=epochs, evaluate=evaluate, float32=True)


@torch.no_grad()
def rescaled(linear: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A copy of `linear` with other values; bias None: zeros, which keep the architecture."""
    new = copy.deepcopy(linear)
    new.weight.copy_(weight)
    new.bias.copy_(torch.zeros_like(new.bias) if bias is None else bias)
    return new
