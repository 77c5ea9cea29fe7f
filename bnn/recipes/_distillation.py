"""Parts of a distillation: a frozen encoder with a classifier of its own, its cached features, the images for both."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bnn import ops
from bnn.data import Images, augment
from bnn.data.hashing import uniform
from bnn.recipes._session import Session, load_data
from bnn.training import seed as seeds
from bnn.training.device import Device


class Teacher(nn.Module):
    """classifier(encoder.features(x)): the encoder is frozen and stays in eval mode, the classifier is new."""

    def __init__(self, encoder: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.feature_dim = encoder.feature_dim
        self.classifier = nn.Linear(encoder.feature_dim, num_classes)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    def features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, feature_dim], without gradient."""
        with torch.no_grad():
            return self.encoder.features(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def views(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The square images x [B, C, S, S] averaged down to every side in `sizes`; each at most S."""
    if list(sizes) == [x.shape[-1]]:
        return [x]
    return ops.multires_pool2d(x, [(size, size) for size in sizes])


class TrainingImages:
    """The long-tailed images at side `size`, augmented as a function of (seed, epoch, index), mixed if `mixup`."""

    def __init__(self, session: Session, seed: int, size: int, mixup: bool = False) -> None:
        fields = session.run.config
        data = session.data if size == fields["image_size"] else load_data(fields, image_size=size)
        self.dataset: Images = data.splits["train"]
        self.normalize, self.flip = data.preprocess.normalize, data.flip
        self.seed, self.mixup = seed, mixup

    def __call__(self, batch: dict) -> Tensor:
        """A batch of `dataset` -> [B, C, size, size] float32 channels-last."""
        x = self.augmented(batch["image"], batch["index"], batch["epoch"])
        if self.mixup:
            x = self._mixed(x, batch["index"], batch["epoch"])
        return x

    def augmented(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """uint8 [B, C, size, size] at positions `index` -> float32, channels-last, normalized."""
        moved = augment(images, index, seed=self.seed, epoch=epoch, flip=self.flip)
        return self.normalize(moved).contiguous(memory_format=torch.channels_last)

    def _mixed(self, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        """a x + (1 - a) x': a and the other image follow from (seed, epoch, index) as the augmentation does."""
        keys = (seeds.derive("mixup", self.seed), epoch, index.cpu().numpy())
        share = torch.from_numpy(uniform(*keys, 0)).to(x.device).view(-1, 1, 1, 1)
        other = torch.from_numpy(uniform(*keys, 1) * len(self.dataset)).long()
        return share * x + (1 - share) * self.augmented(self.dataset.images(other).to(x.device), other, epoch)


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
def cache_features(
    teacher: Teacher, images: TrainingImages, sizes: Sequence[int], copies: int, device: Device
) -> Features:
    """Features of every training image, once clean and `copies` times augmented, each at every side in `sizes`."""
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
