"""Data sets: built-in ones that need no download, folders of pictures, and long tails over any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bnn.data import longtail
from bnn.data.images import FolderImages, Images, Preprocess, TensorImages, augment, collate

__all__ = ["Data", "FolderImages", "Images", "Preprocess", "TensorImages", "augment", "collate", "load", "longtail"]

NAMES = ("glyphs", "digits", "folder:PATH")


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
) -> Data:
    """The data set `spec`: "glyphs", "digits" or "folder:PATH".

    draw: seed of the classes and their order (glyphs), of the order (digits), of the splits (digits, folder).
    image_size: pixels, square. num_classes: glyphs only (100). profile: "exponential" or "step".
    imbalance: largest class over smallest; glyphs, digits 100; a folder keeps its own counts unless it is given.
    n_max: images of the largest class; glyphs 200, otherwise as many as there are.
    fonts: glyphs only, folder of more .ttf and .otf files to train on. source: glyphs only, adds the split "source".
    Raises ValueError (FileNotFoundError for a missing folder) that says what to do.
    """
    if image_size < 8:
        raise ValueError(f"image_size: expected at least 8 pixels; got {image_size}")
    kind, _, path = spec.partition(":")
    only_glyphs = {"num_classes": num_classes, "fonts": fonts, "source": source or None}
    given = [name for name, value in only_glyphs.items() if value is not None]
    if kind != "glyphs" and given:
        raise ValueError(f"{given[0]}: only the data set glyphs has it; leave it out for {spec!r}")
    if kind == "folder" and path:
        from bnn.data import folder

        return folder.load(path, draw, image_size, profile, imbalance, n_max)
    imbalance = 100.0 if imbalance is None else imbalance
    if spec == "digits":
        from bnn.data import digits

        return digits.load(draw, image_size, profile, imbalance, n_max)
    if spec == "glyphs":
        from bnn.data import glyphs

        num_classes, n_max = 100 if num_classes is None else num_classes, 200 if n_max is None else n_max
        counts = longtail.class_counts(profile, num_classes, n_max, imbalance)
        return glyphs.load(draw, image_size, counts, fonts, source)
    raise ValueError(f"data: expected one of {', '.join(NAMES)}; got {spec!r}")
