"""`glyphs`: characters drawn from fonts, trained in some fonts and tested in others. Nothing to download.

A class draw picks its classes from a fixed target pool; the source classes (to pretrain a teacher on) come from a
second pool without any near-duplicate of a target character, so one teacher serves every draw (glyph_pool.py).
Image i of a character is a function of (draw, split, character, i) alone: the training set of imbalance 100 is a subset
of the one of imbalance 1, which is the balanced upper bound.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnn.data import Data, fonts
from bnn.data.glyph_render import Bank, render
from bnn.data.hashing import hash64
from bnn.data.images import Preprocess, TensorImages, require

VAL_PER_CLASS, TEST_PER_CLASS = 12, 30
SOURCE_CLASSES, SOURCE_PER_CLASS = 600, 60
SOURCE_DRAW = 0
MEAN, STD = 0.5, 0.275  # measured, any draw: fixed, so that a teacher and its students agree
POOL = Path(__file__).with_name("glyph_pool.json")
_SPLIT_KEYS = {"train": 0, "val": 1, "test": 2, "source": 3, "auxiliary": 4}
_BATCH = 512


def pool(name: str) -> str:
    """The characters of the pool "target" or "source", as one string."""
    return json.loads(POOL.read_text(encoding="utf-8"))[name]


def class_name(char: str) -> str:
    """Such as "a U+0061 LATIN SMALL LETTER A"."""
    return f"{char} U+{ord(char):04X} {unicodedata.name(char)}"


def draw_classes(draw: int, count: int) -> list[str]:
    """`count` characters of the target pool in random order: position k is class k, the k-th largest."""
    chars = pool("target")
    if not 2 <= count <= len(chars):
        raise ValueError(f"num_classes: glyphs has 2 to {len(chars)}; got {count}")
    order = np.argsort(hash64(draw, np.array([ord(c) for c in chars])), kind="stable")
    return [chars[i] for i in order[:count]]


def split_images(
    split: str, draw: int, chars: Sequence[str], counts: Sequence[int], faces: Sequence[Path], image_size: int
) -> TensorImages:
    """counts[k] images of each character k, in random fonts (train, source) or equally many in each (val, test)."""
    bank = Bank(chars, faces, image_size)
    labels = torch.repeat_interleave(torch.tensor(counts))
    nth = torch.cat([torch.arange(n) for n in counts])
    codes = np.array([ord(c) for c in chars])[labels.numpy()]
    keys = hash64(draw, _SPLIT_KEYS[split], codes, nth.numpy())
    choice = nth.numpy() if split in ("val", "test") else hash64(keys) >> np.uint64(32)
    fonts_of = np.array([len(s) for s in bank.slots])[labels.numpy()]
    first = np.cumsum([0] + [len(s) for s in bank.slots])
    rows = np.concatenate(bank.slots)[first[labels.numpy()] + choice.astype(np.int64) % fonts_of]
    out = torch.empty(len(labels), 1, image_size, image_size, dtype=torch.uint8)
    tqdm = require("tqdm").tqdm
    with tqdm(total=len(labels), desc=f"glyphs {split}", unit=" images", leave=False, disable=None) as progress:
        for i in range(0, len(labels), _BATCH):
            part = slice(i, i + _BATCH)
            out[part] = render(bank, torch.from_numpy(rows[part]), keys[part], image_size)
            progress.update(len(out[part]))
    return TensorImages(out, labels)


def source(
    image_size: int = 32, num_classes: int = SOURCE_CLASSES, per_class: int = SOURCE_PER_CLASS, extra: str | None = None
) -> tuple[TensorImages, tuple[str, ...]]:
    """The pretraining images, the same for every draw, and their class names; train fonts only."""
    chars = pool("source")
    if not 2 <= num_classes <= len(chars):
        raise ValueError(f"num_classes: the glyph source has 2 to {len(chars)}; got {num_classes}")
    faces = [fonts.shipped(f) for f in fonts.TRAIN] + (fonts.extra(extra) if extra else [])
    images = split_images("source", SOURCE_DRAW, chars[:num_classes], [per_class] * num_classes, faces, image_size)
    return images, tuple(map(class_name, chars[:num_classes]))


def strangers(known: Sequence[str], image_size: int) -> TensorImages:
    """The characters of the target pool that are not among the class names `known`, as in the test split.

    Raises ValueError if none is left.
    """
    chars = [char for char in pool("target") if class_name(char) not in set(known)]
    if not chars:
        raise ValueError("ood: the model knows every character of glyphs; give another data set")
    faces = [fonts.shipped(f) for f in fonts.TEST]
    return split_images("test", 0, chars, [TEST_PER_CLASS] * len(chars), faces, image_size)


def load(draw: int, image_size: int, counts: Tensor, extra: str | None, with_source: bool) -> Data:
    """See `bnn.data.load`; counts: training images of each class."""
    if not 16 <= image_size <= 256:
        raise ValueError(f"image_size: glyphs are drawn at 16 to 256 pixels; got {image_size}")
    chars = draw_classes(draw, len(counts))
    faces = {"train": fonts.TRAIN, "val": fonts.VAL, "test": fonts.TEST}
    wanted = {"train": counts.tolist(), "val": [VAL_PER_CLASS] * len(chars), "test": [TEST_PER_CLASS] * len(chars)}
    splits: dict = {}
    for split, names in faces.items():
        paths = [fonts.shipped(f) for f in names] + (fonts.extra(extra) if extra and split == "train" else [])
        splits[split] = split_images(split, draw, chars, wanted[split], paths, image_size)
    source_classes: tuple[str, ...] = ()
    if with_source:
        splits["source"], source_classes = source(image_size, extra=extra)
    preprocess = Preprocess((image_size, image_size), (MEAN,), (STD,), "L")
    return Data("glyphs", tuple(map(class_name, chars)), splits, preprocess, counts, source_classes)
