"""Data sets: built-in ones, folders and lists of pictures, those of torchvision and the hub; long tails over any."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from bnn.data import longtail
from bnn.data.images import FolderImages, Images, Preprocess, TensorImages, augment, collate

__all__ = ["Data", "FolderImages", "Images", "Preprocess", "TensorImages", "augment", "collate", "load", "longtail"]

NAMES = ("glyphs", "digits", "folder:PATH", "torchvision:NAME", "lists:DIR", "hf:NAME")
ROOT = "~/.cache/bnn"  # where torchvision's data sets lie
OPTIONS = {"torchvision": ("data_root", "download"), "lists": ("data_root",), "hf": ("data_root", "download")}

if TYPE_CHECKING:
    from bnn.data.splits import Tail


@dataclass(frozen=True)
class Data:
    """A data set ready to train on.

    classes: K names, in label order. splits: "train", "val", "test" and, for glyphs if asked for, "source".
    class_counts: training images of each class, int64 [K]. source_classes: names of the source split's own labels.
    flip: whether a mirrored image still shows its class (photographs yes, characters no): for `augment`.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Images]
    preprocess: Preprocess
    class_counts: Tensor
    source_classes: tuple[str, ...] = ()
    flip: bool = False


def load(
    spec: str,
    *,
    draw: int = 0,
    image_size: int = 32,
    num_classes: int | None = None,
    profile: str = "exponential",
    imbalance: float | None = None,
    n_max: int | None = None,
    fonts: str | None = None,
    source: bool = False,
    data_root: str | Path | None = None,
    download: bool = False,
) -> Data:
    """The data set `spec`: "glyphs", "digits", "folder:PATH", "torchvision:NAME", "lists:DIR" or "hf:NAME".

    draw: seed of the classes and their order (glyphs), of the order (digits), of the splits (all but glyphs).
    image_size: pixels, square. num_classes: glyphs only (100). profile: "exponential" or "step".
    imbalance: largest class over smallest; glyphs, digits 100; the others keep their own counts unless it is given.
    n_max: images of the largest class; glyphs 200, otherwise as many as there are.
    fonts: glyphs only, folder of more .ttf and .otf files to train on. source: glyphs only, adds the split "source".
    data_root: where the files lie: of torchvision (~/.cache/bnn), of the paths in lists (DIR), of the hub (its cache).
    download: fetch what is not there; torchvision and hf only.
    Raises ValueError (FileNotFoundError for missing files) that says what to do.
    """
    if image_size < 8:
        raise ValueError(f"image_size: expected at least 8 pixels; got {image_size}")
    kind, _, path = spec.partition(":")
    for_glyphs = {"num_classes": num_classes, "fonts": fonts, "source": source or None}
    for name, value in {**for_glyphs, "data_root": data_root, "download": download or None}.items():
        if value is not None and name not in (for_glyphs if kind == "glyphs" else options(spec)):
            owners = [k for k, names in OPTIONS.items() if name in names] or ["glyphs"]
            raise ValueError(f"{name}: only the data set {' or '.join(owners)} has it; leave it out for {spec!r}")
    if spec == "glyphs":
        from bnn.data import glyphs

        num_classes, n_max = 100 if num_classes is None else num_classes, 200 if n_max is None else n_max
        counts = longtail.class_counts(profile, num_classes, n_max, 100.0 if imbalance is None else imbalance)
        return glyphs.load(draw, image_size, counts, fonts, source)
    if spec == "digits":
        from bnn.data import digits

        return digits.load(draw, image_size, profile, 100.0 if imbalance is None else imbalance, n_max)
    if kind not in ("folder", *OPTIONS) or not path:
        raise ValueError(f"data: expected one of {', '.join(NAMES)}; got {spec!r}{_hint(spec)}")
    if n_max is not None and imbalance is None:
        raise ValueError(f"n_max: {spec} keeps all its images; give imbalance too to make it long-tailed")
    from bnn.data.splits import Tail

    return _by_place(kind, path, image_size, Tail(draw, profile, imbalance, n_max), data_root, download)


def options(spec: str) -> tuple[str, ...]:
    """Those of data_root and download that the data set takes."""
    return OPTIONS.get(spec.partition(":")[0], ())


def _by_place(kind: str, path: str, image_size: int, tail: Tail, data_root: str | Path | None, download: bool) -> Data:
    root = None if data_root is None else Path(data_root).expanduser()
    if kind == "torchvision":
        from bnn.data import vision

        return vision.load(path, image_size, tail, root or Path(ROOT).expanduser(), download)
    if kind == "lists":
        from bnn.data import lists

        return lists.load(path, image_size, tail, root)
    if kind == "hf":
        from bnn.data import hub

        return hub.load(path, image_size, tail, root, download)
    from bnn.data import folder

    return folder.load(path, image_size, tail)


def _hint(spec: str) -> str:
    """The name meant, if it is one of torchvision's without its kind, or a misspelt one of ours."""
    from bnn.data import vision

    close = difflib.get_close_matches(spec.lower(), [*(name.lower() for name in vision.SETS), "glyphs", "digits"], n=1)
    known = {name.lower(): f"torchvision:{name}" for name in vision.SETS}
    return f" (did you mean {known.get(close[0], close[0])}?)" if close else ""
