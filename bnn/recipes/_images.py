"""From a training batch to the network's input."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn import ops
from bnn.data import Images, augment
from bnn.data.hashing import uniform
from bnn.recipes._config import require
from bnn.recipes._session import Session, load_data
from bnn.training import seed as seeds

Mix = Literal["none", "mixup", "cutmix"]


def views(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The square images x [B, C, S, S] averaged down to every side in `sizes`; each at most S."""
    if list(sizes) == [x.shape[-1]]:
        return [x]
    return ops.multires_pool2d(x, [(size, size) for size in sizes])


class TrainingImages:
    """The long-tailed images at side `size`, augmented and mixed as a function of (seed, epoch, index).

    mix: "none"; "mixup": a x + (1 - a) x', a uniform in [0, 1), x' another image (Zhang et al., ICLR 2018); "cutmix": x
        with a square of x' in place, which would fill 1 - a of the image and is cut off at its edges (Yun et al., ICCV
        2019). balanced: x' is an image of a class drawn uniformly, else any.
    split: of glyphs, "source" instead of the run's own.
    """

    def __init__(
        self,
        session: Session,
        seed: int,
        size: int,
        mix: Mix = "none",
        balanced: bool = False,
        split: str | None = None,
    ) -> None:
        fields = session.run.config
        changes = {"image_size": size, "split": split or fields.get("split")}
        same = all(fields.get(name) == value for name, value in changes.items())
        data = session.data if same else load_data(fields, **changes)
        self.dataset: Images = data.splits["train"]
        self.normalize = data.preprocess.normalize
        self.flip = {"yes": True, "no": False}.get(fields.get("mirror", "auto"), data.flip)
        self.seed, self.size, self.mix, self.balanced = seed, size, mix, balanced
        self.by_class = self.dataset.labels.argsort(stable=True)

    def __call__(self, batch: dict) -> Tensor:
        """A batch of `dataset` -> [B, C, size, size] float32 channels-last."""
        x = self.augmented(batch["image"], batch["index"], batch["epoch"])
        if self.mix == "none":
            return x
        kept, other = self._mixture(batch["index"], batch["epoch"])
        partner = self.augmented(self.dataset.images(other).to(x.device), other, batch["epoch"])
        return kept * x + (1 - kept) * partner

    def labels(self, batch: dict, num_classes: int) -> Tensor:
        """Labels [B] of a batch, or what its mixtures hold of each class [B, num_classes]."""
        if self.mix == "none":
            return batch["label"]
        kept, other = self._mixture(batch["index"], batch["epoch"])
        share = kept.mean((1, 2, 3))[:, None]
        own, partner = (
            F.one_hot(y, num_classes).float() for y in (batch["label"], self.dataset.labels[other].to(share.device))
        )
        return share * own + (1 - share) * partner

    def augmented(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """uint8 [B, C, size, size] at positions `index` -> float32, channels-last, normalized."""
        moved = augment(images, index, seed=self.seed, epoch=epoch, flip=self.flip)
        return self.normalize(moved).contiguous(memory_format=torch.channels_last)

    def _mixture(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """What is kept of a pixel's own image, [B, 1, 1, 1] or [B, 1, size, size] on the device of `index`, and the
        other image [B]: functions of (seed, epoch, index)."""
        keys = (seeds.derive("mixup", self.seed), epoch, index.cpu().numpy())
        share, chosen, within, *centre = (torch.from_numpy(uniform(*keys, n)) for n in range(5))
        kept = share if self.mix == "mixup" else self._outside(share, *centre)
        other = (chosen * len(self.dataset)).long()
        if self.balanced:
            counts = self.dataset.labels.bincount()
            label = (chosen * len(counts)).long()
            other = self.by_class[counts.cumsum(0)[label] - counts[label] + (within * counts[label]).long()]
        return kept.view(len(index), 1, *kept.shape[1:] or (1, 1)).to(index.device), other

    def _outside(self, share: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """1 for pixels [B, size, size] outside the square of area 1 - share about (row, column), 0 inside."""
        centre = (torch.arange(self.size) + 0.5) / self.size
        half = (1 - share).sqrt()[:, None] / 2
        rows, columns = ((centre - middle[:, None]).abs() < half for middle in (row, column))
        return 1 - (rows[:, :, None] & columns[:, None, :]).float()


class WithSource:
    """The B images of a batch, then n of the source split of glyphs, moved and mixed in the same way.

    Image r of the n accompanies image floor(r B / n) of the B, and is drawn by a hash of (seed, epoch, index of that
    one, how many accompany it before r). So neither a resume nor the number of processes, which divide B and n among
    them, changes it.

    Raises:
        ValueError: `count`, n over all processes, does not divide by their number.
    """

    def __init__(self, session: Session, images: TrainingImages, count: int) -> None:
        self.count, rest = divmod(count, session.device.processes)
        divides = f"a multiple of {session.device.processes}, the number of processes"
        require(not rest, "source-images", divides, count)
        self.images, self.seed = images, seeds.derive("source", images.seed)
        self.source = TrainingImages(session, self.seed, images.size, images.mix, split="source")

    def __call__(self, batch: dict) -> Tensor:
        """A batch of the training images -> [B + n, C, size, size] float32 channels-last."""
        index, epoch = batch["index"], batch["epoch"]
        drawn = self.drawn(index.cpu(), epoch)
        pixels = self.source.dataset.images(drawn).to(index.device)
        source = self.source({"image": pixels, "index": drawn.to(index.device), "epoch": epoch})
        return torch.cat([self.images(batch), source])

    def drawn(self, index: Tensor, epoch: int) -> Tensor:
        """Positions [n] in the source split, for the images `index` [B]."""
        place = torch.arange(self.count) * len(index)
        image, before = index[place // self.count].numpy(), (place % self.count // len(index)).numpy()
        return (torch.from_numpy(uniform(self.seed, epoch, image, before)) * len(self.source.dataset)).long()
