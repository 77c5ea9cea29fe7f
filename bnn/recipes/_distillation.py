"""Parts of a distillation: a frozen encoder with its own classifier, its cached features, the weight of two losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bnn import metrics, models
from bnn.models import external, teachers
from bnn.recipes import _report
from bnn.recipes._config import TrainConfig, require
from bnn.recipes._images import TrainingImages, views
from bnn.recipes._session import Session
from bnn.training import seed as seeds
from bnn.training.device import Device
from bnn.training.loop import Step
from bnn.training.run import load_model, read_config


@dataclass(frozen=True)
class TeacherConfig(TrainConfig):
    """Fields of a recipe that has a teacher."""

    teacher: str = "glyphs"
    """glyphs (the network that ships with bnn), the folder of a run, torchvision:NETWORK or timm:NETWORK."""
    teacher_weights: Path | None = None
    """Checkpoint of a teacher of torchvision or timm; default: the published weights, downloaded."""
    teacher_size: int | None = None
    """Side to which that teacher's images are enlarged, pixels; 0: not; default: what its weights were made for."""


class Teacher(nn.Module):
    """classifier(encoder.features(x)): the encoder is frozen and stays in eval mode, the classifier is new."""

    def __init__(self, encoder: Any, num_classes: int) -> None:
        super().__init__()
        self.encoder: Any = encoder.eval().requires_grad_(False)
        self.feature_dim: int = encoder.feature_dim
        self.classifier = nn.Linear(encoder.feature_dim, num_classes)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    def features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, feature_dim], without gradient."""
        with torch.no_grad():
            return self.encoder.features(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def check_teacher(config: TeacherConfig) -> None:
    """Raise ValueError or FileNotFoundError for a teacher that does not exist, or fields that are not for it."""
    other = external.is_external(config.teacher)
    for flag, value in (("teacher-weights", config.teacher_weights), ("teacher-size", config.teacher_size)):
        require(other or value is None, flag, "a --teacher of torchvision or timm with it", config.teacher)
    size = config.teacher_size
    require(size is None or size == 0 or size >= 8, "teacher-size", "8 pixels or more, or 0", size)
    if other:
        external.check(config.teacher)
        if config.teacher_weights is not None and not config.teacher_weights.is_file():
            raise FileNotFoundError(f"--teacher-weights: {config.teacher_weights} is no file")
    elif config.teacher != "glyphs":
        read_config(Path(config.teacher))


def load_teacher(config: TeacherConfig, session: Session) -> Teacher:
    """The encoder that `config` names, with a new classifier for the data of `session`."""
    encoder, shown = _encoder(config, session), session.run.config["network"]["in_channels"]
    if not isinstance(encoder, teachers.Encoder):
        channels = next(p for p in encoder.parameters() if p.dim() == 4).shape[1]
        made = f"bnn train plain --data {session.run.config['data']} --model resnet_tiny makes one"
        expected = f"a network for images of {shown} channels, not {channels} ({made})"
        require(channels == shown, "teacher", expected, config.teacher)
    seeds.seed_torch("teacher", config.seed)
    teacher = Teacher(encoder, len(session.data.classes))
    return teacher.to(session.device.torch_device).to(memory_format=torch.channels_last)


def _encoder(config: TeacherConfig, session: Session) -> nn.Module:
    if external.is_external(config.teacher):
        images = session.data.preprocess
        return teachers.teacher(config.teacher, config.teacher_weights, images.mean, images.std, config.image_size,
                                config.teacher_size)  # fmt: skip
    return models.pretrained("glyph_teacher") if config.teacher == "glyphs" else load_model(Path(config.teacher))


def validation(session: Session, teacher: Teacher) -> Callable[[], dict[str, float]]:
    """As `_report.validation`, while only the classifier is trained: the features are computed once."""
    features, labels = _report.outputs(session, teacher.features, session.data.splits["val"])

    def evaluate() -> dict[str, float]:
        with torch.no_grad():
            logits = teacher.classifier(features.to(session.device.torch_device)).cpu()
        return metrics.evaluate(logits, labels, session.data.class_counts, bootstrap=0)

    return evaluate


class Balance(nn.Module):
    """lambda in (0, 1) from [L_FS, L_KL, progress]; float32, since bfloat16 can't tell 0.999 from 1."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers = (nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, seen: Tensor) -> Tensor:
        with torch.autocast(seen.device.type, enabled=False):
            return self.layers(seen).sigmoid().squeeze()


class Features(Dataset):
    """Cached features float32 [M, D] with labels int64 [M]."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        index = torch.tensor(indices)
        return {"feature": self.features[index], "label": self.labels[index]}


@torch.no_grad()
def cache_features(teacher: Any, images: TrainingImages, sizes: Sequence[int], copies: int, device: Device) -> Features:
    """`teacher.features` of every training image, once clean and `copies` times augmented, each at all `sizes`."""
    features, labels = [], []
    for first in range(0, len(images.dataset), 256):
        index = torch.arange(first, min(first + 256, len(images.dataset)))
        pixels = images.dataset.images(index).to(device.torch_device)
        clean = images.normalize(pixels).contiguous(memory_format=torch.channels_last)
        for x in (clean, *(images.augmented(pixels, index, epoch) for epoch in range(copies))):
            for view in views(x, sizes):
                with device.autocast():
                    features.append(teacher.features(view).float().cpu())
                labels.append(images.dataset.labels[index])
    return Features(torch.cat(features), torch.cat(labels))


def part_of(step: Step, epochs: range, total: int) -> Step:
    """`step` for a phase that is `epochs` of `total`: "epoch" and "progress" are those of the whole training."""
    start, share = epochs.start / total, len(epochs) / total

    def part(batch: dict) -> dict[str, Tensor]:
        whole = {"epoch": epochs.start + batch["epoch"], "progress": start + share * batch["progress"]}
        return step({**batch, **whole})

    return part
