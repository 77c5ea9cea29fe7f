"""CANDLE: calibrate a teacher on the long tail, distil it into a binary student (Kim et al., arXiv 2404.00285).

1. calibrate   f_T frozen and in eval mode; a new linear classifier g_T on its features learns the long-tailed images
               with a loss that knows the class counts. This is the only place where the long tail enters.
2. distil      J = (1 - lambda) L_FS + lambda L_KL,     lambda = sigmoid(MLP([L_FS, L_KL, progress]))
               L_FS = 1 - cos(P f_S(x), f_T(x)),        L_KL = T^2 KL(softmax(z_T / T) || softmax(z_S / T))
               the student descends J (lambda fixed), the MLP ascends J (the losses fixed), with one learning rate.

two_step is ReActNet's schedule (Liu et al. 2020): half of the epochs with real weights, only activations binary, then
half with binary weights that start from these. Optimizer and learning rate start again; projection and balance go on,
and progress runs once over both. Beyond the paper: source_images of other classes, which the teacher labels.

Not in what could be read of the paper, and therefore options: which term lambda weighs (balance_on), the MLP's input,
the temperature (a teacher that is almost one-hot at T = 1 passes the long tail on; T = 8 does not), the form of L_FS.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnn import losses, models
from bnn.nn.real_weights import binary_layers, use_real_weights
from bnn.recipes import _distillation, _report
from bnn.recipes._config import From, require
from bnn.recipes._distillation import Balance, Teacher, TeacherConfig, cache_features, load_teacher, part_of, validation
from bnn.recipes._images import Mix, TrainingImages, WithSource, views
from bnn.recipes._report import Result
from bnn.recipes._session import Session, begin, build_network
from bnn.recipes.plain import Loss, make_loss
from bnn.training import seed as seeds
from bnn.training.distributed import mean_across
from bnn.training.loop import fit
from bnn.training.run import read_config
from bnn.training.sampler import BatchSampler


@dataclass(frozen=True)
class Config(TeacherConfig):
    """Distil a calibrated teacher into a binary student."""

    calibration_loss: Loss = "balanced_softmax"
    """Loss of the teacher's new classifier."""
    calibration_sampler: Literal["instance", "class_balanced"] = "instance"
    """Sampling for it."""
    calibration_steps: int = 1500
    """Its steps, rounded to whole passes over the cached features."""
    calibration_lr: float = 5e-3
    """Its learning rate (AdamW)."""
    calibration_weight_decay: float = 0.3
    """Its weight decay (AdamW, decoupled), 1 / step / learning rate."""
    calibration_views: int = 4
    """Augmented views of every image in the cache, beside the clean one."""
    temperature: float = 8.0
    """T of the distillation."""
    balance: Literal["adversarial", "fixed"] = "adversarial"
    """Who chooses lambda: an MLP that maximizes J, or fixed_balance."""
    balance_on: Literal["kl", "features"] = "kl"
    """The term that lambda weighs; the other one gets 1 - lambda."""
    fixed_balance: float = 0.5
    """lambda if fixed, 0 to 1."""
    ce_weight: float = 0.0
    """Weight of an added cross-entropy with the labels."""
    mixup: bool = True
    """Train on a x + (1 - a) x', a uniform in [0, 1), x' another training image; the teacher labels the mixture."""
    mixup_partner: Literal["any", "class_balanced"] = "class_balanced"
    """x': any image, or one of a class drawn uniformly, so that small classes are seen as often as large ones."""
    teacher_resolutions: tuple[int, ...] = ()
    """Image sides for the teacher, pixels; empty: image_size only. Images are rendered at the largest and pooled."""
    multires_in: Literal["calibration", "distill", "both"] = "calibration"
    """Where the teacher sees all of them (distill: mean of its features over the sizes)."""
    two_step: bool = False
    """Train the first half of the epochs with real weights, only activations binary."""
    source_images: int = 0
    """Images of the source split added to every batch of the distillation, glyphs only; the teacher labels them."""
    from_run: From = None
    """Run whose body (all but the classifier) the student starts from."""


def run(config: Config) -> Result:
    """Calibrate, distil, evaluate on the test split, fill the run folder; returns folder and table."""
    check(config)
    session = begin("candle", config)
    largest = max((config.image_size, *config.teacher_resolutions))
    mix: Mix = "mixup" if config.mixup else "none"
    images = TrainingImages(session, config.seed, largest, mix, config.mixup_partner == "class_balanced")
    teacher = load_teacher(config, session)
    student = build_network(session, config, config.from_run)

    calibrate(config, session, teacher, images)
    distil(config, session, teacher, student, images)

    session.run.save_model(student)
    logits, labels = _report.outputs(session, student, session.data.splits["test"])
    counts = session.data.class_counts
    guide = _report.row("teacher, calibrated", *_report.outputs(session, teacher, session.data.splits["test"]), counts)
    rows = [_report.row(f"{config.model}, candle", logits, labels, counts), guide]
    return _report.write(session, rows, logits, labels)


def check(config: Config) -> None:
    """Raise ValueError for values that exclude each other or lie outside their range."""
    require(config.temperature > 0, "temperature", "a number above 0", config.temperature)
    require(0 <= config.fixed_balance <= 1, "fixed-balance", "0 to 1", config.fixed_balance)
    require(config.ce_weight >= 0, "ce-weight", "0 or more", config.ce_weight)
    require(not config.mixup or not config.ce_weight, "ce-weight", "0 with --mixup (no labels)", config.ce_weight)
    require(config.calibration_steps >= 1, "calibration-steps", "at least 1", config.calibration_steps)
    require(config.calibration_views >= 0, "calibration-views", "0 or more", config.calibration_views)
    source = config.source_images == 0 or (config.source_images > 0 and config.data == "glyphs")
    require(source, "source-images", "0, or more with --data glyphs, which has a source split", config.source_images)
    if config.two_step:
        require(config.epochs >= 2, "epochs", "at least 2 with --two-step", config.epochs)
        layers = binary_layers(models.build(config.model, 2))
        require(len(layers) > 0, "model", "one with binary layers with --two-step", config.model)
    sizes = config.teacher_resolutions
    require(min(sizes, default=8) >= 8, "teacher-resolutions", "8 pixels or more", sizes)
    _distillation.check_teacher(config)
    if config.from_run is not None:
        read_config(Path(config.from_run))


def calibrate(config: Config, session: Session, teacher: Teacher, images: TrainingImages) -> None:
    """Phase 1: train the teacher's classifier on cached features."""
    if session.run.finished("calibrate", teacher.classifier):
        return
    cache = cache_features(teacher, images, sizes_in(config, "calibration"), config.calibration_views, session.device)
    loss = make_loss(config.calibration_loss, session.counts)

    def step(batch: dict) -> dict[str, Tensor]:
        return {"loss": loss(teacher.classifier(batch["feature"]), batch["label"])}

    balanced = config.calibration_sampler == "class_balanced"
    batches = BatchSampler(cache.labels, config.batch_size, seed=config.seed, balanced=balanced)
    rate, decay = config.calibration_lr, config.calibration_weight_decay
    optimizer = torch.optim.AdamW(teacher.classifier.parameters(), lr=rate, weight_decay=decay)
    epochs = max(1, round(config.calibration_steps / len(batches)))
    training = (teacher.classifier, step, cache, batches, optimizer, session.device)
    fit(session.run, "calibrate", *training, epochs=epochs, evaluate=validation(session, teacher), float32=True)


def distil(config: Config, session: Session, teacher: Teacher, student: Any, images: TrainingImages) -> None:
    """Phase 2: train student, projection and balance with one loss and one optimizer; two_step: in two phases."""
    seeds.seed_torch("projection and balance", config.seed)  # whether or not phase 1 ran in this process
    same = student.feature_dim == teacher.feature_dim
    project = nn.Identity() if same else nn.Linear(student.feature_dim, teacher.feature_dim, bias=False)
    balance = Balance() if config.balance == "adversarial" else nn.Identity()
    modules = nn.ModuleDict({"student": student, "projection": project, "balance": balance})
    inputs = WithSource(session, images, config.source_images) if config.source_images else images
    sizes = sizes_in(config, "distill")

    def step(batch: dict) -> dict[str, Tensor]:
        x, labels = inputs(batch), batch["label"]  # source images are last and have no label
        wanted = torch.stack([teacher.features(view) for view in views(x, sizes)]).mean(0)
        features = student.features(views(x, [config.image_size])[0])
        logits = student.classifier(features)
        fs = losses.feature_cosine(project(features), wanted)
        kl = losses.kl_distillation(logits, teacher.classifier(wanted), config.temperature)
        values = objective(config, balance, fs, kl, batch["progress"])
        if config.ce_weight:
            values["loss"] = values["loss"] + config.ce_weight * F.cross_entropy(logits[: len(labels)], labels)
        return values

    def train(phase: str, epochs: range, seed: int) -> None:
        batches = BatchSampler(images.dataset.labels, config.batch_size, seed=seed)
        optimizer = torch.optim.Adam(modules.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        training = (modules, part_of(step, epochs, config.epochs), images.dataset, batches, optimizer, session.device)
        fit(session.run, phase, *training, epochs=len(epochs), evaluate=_report.validation(session, student))

    half = config.epochs // 2 if config.two_step else 0
    if half:
        use_real_weights(student)
        train("distil-real", range(half), seeds.derive("distil-real", config.seed))
        use_real_weights(student, False)
    train("distil", range(half, config.epochs), config.seed)


def objective(config: Config, balance: nn.Module, fs: Tensor, kl: Tensor, progress: float) -> dict[str, Tensor]:
    """J, with the gradient of J for the student and of -J for the balance: one backward pass serves both."""
    seen = mean_across(torch.stack([fs, kl]))
    lam = fs.new_tensor(config.fixed_balance)
    if config.balance == "adversarial":
        lam = balance(torch.cat([seen, seen.new_tensor([progress])]))

    def mean(weight: Tensor, fs: Tensor, kl: Tensor) -> Tensor:
        other, weighed = (fs, kl) if config.balance_on == "kl" else (kl, fs)
        return (1 - weight) * other + weight * weighed

    ascent = mean(lam, seen[0], seen[1])
    loss = mean(lam.detach(), fs, kl) - (ascent - ascent.detach())  # the bracket is 0: the value is J
    return {"loss": loss, "features": fs, "kl": kl, "lambda": lam}


def sizes_in(config: Config, phase: Literal["calibration", "distill"]) -> tuple[int, ...]:
    """Image sides at which the teacher looks in a phase."""
    several = config.teacher_resolutions and config.multires_in in (phase, "both")
    return config.teacher_resolutions if several else (config.image_size,)
