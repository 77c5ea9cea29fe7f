"""Labelled images, how a picture becomes the network's input, and augmentation without state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bnn.data.hashing import uniform

if TYPE_CHECKING:
    from PIL.Image import Image

_CHANNELS = {"L": 1, "RGB": 3}
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's mode "L"
CACHE_BYTES = 2**30  # decoded pixels that one `DecodedImages` keeps
THREADS = min(8, os.cpu_count() or 1)  # Pillow decodes without the interpreter lock

Picture = str | PathLike[str] | BinaryIO


def require(module: str, extra: str = "run") -> Any:
    """Import a package of an extra, or say what to install."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this data set needs {module.split('.')[0]}: pip install 'bnn-torch[{extra}]'", name=module
        ) from error


class Images(Dataset):
    """N labelled images, fetched by batch. labels: int64 [N]. Images: uint8 [B, C, H, W]."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """uint8 [B, C, H, W] of the positions `indices`, in their order."""
        raise NotImplementedError

    def subset(self, indices: Tensor | Sequence[int]) -> Images:
        """The images at `indices`, renumbered from 0."""
        raise NotImplementedError

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A whole batch at once, as torch's DataLoader asks for it (pair it with `collate`)."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return {"image": self.images(index), "label": self.labels[index], "index": index}

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([i]).items()}


def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """`collate_fn` for a DataLoader over Images: its batches need no collating. A named function, so it pickles."""
    return batch


class TensorImages(Images):
    """Images in memory. images: uint8 [N, C, H, W]; labels: int [N]."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4 or len(images) != len(labels):
            raise ValueError(
                f"TensorImages: expected uint8 images [N, C, H, W] and labels [N]; "
                f"got {images.dtype} {list(images.shape)} and {list(labels.shape)}"
            )
        self.tensor = images
        self.labels = labels.to(torch.int64)

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        return self.tensor[torch.as_tensor(indices, dtype=torch.int64)]

    def subset(self, indices: Tensor | Sequence[int]) -> TensorImages:
        index = torch.as_tensor(indices, dtype=torch.int64)
        return TensorImages(self.tensor[index], self.labels[index])


class DecodedImages(Images):
    """Pictures that are decoded when first asked for; those before position CACHE_BYTES / (C H W) stay in memory.

    size: (H, W); mode: "L" or "RGB". A subclass says how picture i is read.
    """

    def __init__(self, labels: Tensor, size: tuple[int, int], mode: str) -> None:
        self.labels, self.size, self.mode = labels.to(torch.int64), size, mode
        self._shape = (_CHANNELS[mode], *size)
        self._kept = torch.empty(min(len(labels), CACHE_BYTES // (self._shape[0] * size[0] * size[1])), *self._shape,
                                 dtype=torch.uint8)  # fmt: skip
        self._known = torch.zeros(len(self._kept), dtype=torch.bool)

    def read(self, i: int) -> Tensor:
        """uint8 [C, H, W] of picture i."""
        raise NotImplementedError

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        index = torch.as_tensor(indices, dtype=torch.int64)
        out = torch.empty(len(index), *self._shape, dtype=torch.uint8)
        keeps = index < len(self._kept)
        ready = keeps.clone()
        ready[keeps] = self._known[index[keeps]]
        out[ready] = self._kept[index[ready]]
        missing = torch.nonzero(~ready).flatten().tolist()
        with ThreadPoolExecutor(THREADS) as pool:
            for place, picture in zip(missing, pool.map(self.read, index[missing].tolist()), strict=True):
                out[place] = picture
        new = keeps & ~ready
        self._kept[index[new]], self._known[index[new]] = out[new], True
        return out


class FolderImages(DecodedImages):
    """Image files, decoded when asked for. size: (H, W); mode: "L" or "RGB"."""

    def __init__(self, paths: Sequence[str | Path], labels: Tensor, size: tuple[int, int], mode: str) -> None:
        if len(paths) != len(labels):
            raise ValueError(f"FolderImages: {len(paths)} paths but {len(labels)} labels")
        super().__init__(labels, size, mode)
        self.paths = list(paths)

    def read(self, i: int) -> Tensor:
        return read_image(self.paths[i], self.size, self.mode)

    def subset(self, indices: Tensor | Sequence[int]) -> FolderImages:
        index = torch.as_tensor(indices, dtype=torch.int64)
        return FolderImages([self.paths[i] for i in index.tolist()], self.labels[index], self.size, self.mode)


def _to_mode(image: Image, mode: str) -> Image:
    """To 8-bit L or RGB: 16-bit depth is scaled, transparency laid over white."""
    from PIL import Image as pil

    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it as PNG or JPEG")
    if image.mode.startswith("I"):
        image = pil.fromarray((np.asarray(image).clip(0, 65535) / 257.0).round().astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(mode)


def decode(source: Picture, mode: str, name: str = "", least: int | None = None) -> Image:
    """The whole picture in mode "L" or "RGB", turned as its EXIF says.

    source: path or open file (then `name` is what an error calls it). least: sides that suffice, in pixels: a JPEG may
    come out smaller by 2, 4 or 8, but not below twice these, which its decoder does many times faster.
    Raises FileNotFoundError, or ValueError with the path for a file that cannot be decoded.
    """
    pil, ops = require("PIL.Image"), require("PIL.ImageOps")
    name = name or str(source)
    if isinstance(source, str | PathLike) and not Path(source).is_file():
        raise FileNotFoundError(f"image: no such file: {name}")
    try:
        with pil.open(source) as opened:
            if least is not None:
                opened.draft(None, (2 * least, 2 * least))
            return _to_mode(ops.exif_transpose(opened), mode)
    except (OSError, SyntaxError, ValueError, EOFError, pil.DecompressionBombError) as error:
        raise ValueError(f"image: cannot read {name} ({error}); remove it or save it again") from error


def read_image(source: Picture, size: tuple[int, int], mode: str, name: str = "") -> Tensor:
    """uint8 [C, H, W]: decoded, cut to the aspect ratio of `size` = (H, W) about the middle, resized (bilinear)."""
    image = decode(source, mode, name, max(size))
    fitted = require("PIL.ImageOps").fit(image, (size[1], size[0]), method=require("PIL.Image").Resampling.BILINEAR)
    return torch.from_numpy(np.array(fitted)).reshape(*size, _CHANNELS[mode]).permute(2, 0, 1).contiguous()


def as_mode(batch: Tensor, mode: str) -> Tensor:
    """uint8 [B, C, H, W], C 1 or 3, with the channels of `mode`: grey repeated, or 0.299 R + 0.587 G + 0.114 B."""
    if batch.shape[1] == _CHANNELS[mode]:
        return batch
    if mode == "RGB":
        return batch.expand(-1, 3, -1, -1)
    weights = torch.tensor(_LUMA, device=batch.device).view(1, 3, 1, 1)
    return (batch * weights).sum(1, keepdim=True).round().to(torch.uint8)


@dataclass(frozen=True)
class Preprocess:
    """From a picture to the network's input.

    size: (H, W) in pixels. mean, std: per channel, of values in [0, 1]. mode: "L" (grey) or "RGB".
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str

    def __post_init__(self) -> None:
        if self.mode not in _CHANNELS:
            raise ValueError(f"Preprocess: mode must be 'L' or 'RGB'; got {self.mode!r}")
        if not len(self.mean) == len(self.std) == _CHANNELS[self.mode] or not all(s > 0 for s in self.std):
            raise ValueError(
                f"Preprocess: mode {self.mode} needs {_CHANNELS[self.mode]} means and as many std above 0; "
                f"got {self.mean} and {self.std}"
            )

    def normalize(self, batch: Tensor) -> Tensor:
        """(x/255 - mean) / std as float32; batch [B, C, H, W] in [0, 255], uint8 or float (what `augment` returns)."""
        scale = torch.tensor([1.0 / (255.0 * s) for s in self.std], device=batch.device)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=batch.device)
        return torch.addcmul(shift.view(-1, 1, 1), batch.to(torch.float32), scale.view(-1, 1, 1))

    def read(self, path: str | PathLike[str]) -> Tensor:
        """`read_image` with this size and mode: uint8 [C, H, W]."""
        return read_image(path, self.size, self.mode)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and a string: what a packed file keeps under `bnn.preprocess`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Inverse of `to_dict`. Raises ValueError for missing or unknown keys."""
        if set(values) != {"size", "mean", "std", "mode"}:
            raise ValueError(f"Preprocess: expected keys mean, mode, size, std; got {', '.join(sorted(values))}")
        height, width = values["size"]
        return cls((int(height), int(width)), tuple(values["mean"]), tuple(values["std"]), values["mode"])


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation in [0, 1] of uint8 [N, C, H, W], rounded to 4 digits."""
    std, mean = torch.std_mean(images.double() / 255.0, dim=(0, 2, 3))
    return tuple(round(m, 4) for m in mean.tolist()), tuple(max(round(s, 4), 1e-2) for s in std.tolist())


def augment(
    batch: Tensor,
    index: Tensor,
    *,
    seed: int,
    epoch: int,
    max_shift: int = 2,
    jitter: float = 0.2,
    flip: bool = False,
) -> Tensor:
    """Shift, contrast and brightness (and mirror) drawn by a hash of (seed, epoch, index): no generator, no state.

    y = (x_shifted - 127.5) * c + 127.5 + b, with dy, dx uniform in {-max_shift..max_shift} pixels (the edge is
    repeated), c in [1-jitter, 1+jitter), b in 127.5*[-jitter, jitter). With `flip` half of the images are mirrored.

    batch: uint8 (or float in [0, 255]) [B, C, H, W]. index: int64 [B], positions in the data set.
    Returns float32 [B, C, H, W] about [0, 255], not clipped, channels-last, on batch's device: hand it to
    `Preprocess.normalize`. The same image of the same epoch gives the same result in any batch, process or resumed run.
    """
    if batch.dim() != 4 or index.shape != batch.shape[:1]:
        shapes = f"{list(batch.shape)}, {list(index.shape)}"
        raise ValueError(f"augment: expected batch [B, C, H, W] and index [B]; got {shapes}")
    height, width = batch.shape[2:]
    draws = uniform(seed, epoch, index.cpu().numpy()[:, None], np.arange(5))
    u = torch.from_numpy(draws).to(batch.device)
    dy, dx = ((2 * max_shift + 1) * u[:, :2]).long().sub(max_shift).unbind(1)
    rows = (torch.arange(height, device=u.device) + dy[:, None]).clamp_(0, height - 1)
    cols = (torch.arange(width, device=u.device) + dx[:, None]).clamp_(0, width - 1)
    if flip:
        cols = torch.where(u[:, 4:] < 0.5, width - 1 - cols, cols)
    images = torch.arange(len(batch), device=u.device)
    moved = batch.permute(0, 2, 3, 1)[images[:, None, None], rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
    contrast = (1 - jitter + 2 * jitter * u[:, 2]).view(-1, 1, 1, 1)
    brightness = 127.5 * (1 - contrast + jitter * (2 * u[:, 3].view(-1, 1, 1, 1) - 1))
    return torch.addcmul(brightness, moved.to(torch.float32), contrast)
