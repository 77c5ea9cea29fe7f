"""Look-alikes of the characters of `glyphs`, for their auxiliary classes: glyph_lookalikes.json, made once.

A look-alike of a character is another one with 0.7 < cos < 0.98 between their prototypes in the features of the shipped
glyph teacher, nearest first (`python -m bnn.commands._lookalikes`). Candidates are the other characters of the target
pool, and those of all training fonts that are no near-duplicate of a target or of each other (glyph_pool.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bnn.data import fonts, glyphs
from bnn.data.hashing import hash64
from bnn.data.images import TensorImages
from bnn.data.neighbors import NeighborMap, auxiliary_classes

TABLE = Path(__file__).with_name("glyph_lookalikes.json")
PER_CLASS = 60  # images to draw from
_RANDOM = 1  # key of the hash


def lookalikes(classes: Sequence[str], wanted: Sequence[int]) -> NeighborMap:
    """The wanted[k] characters most like class k that are no class themselves; fewer if the table has no more."""
    table = _table()["lookalikes"]
    taken = {_character(name) for name in classes}
    return {
        name: [glyphs.class_name(char) for char in table[_character(name)] if char not in taken][:count]
        for name, count in zip(classes, wanted, strict=True)
    }


def shuffled(neighbors: NeighborMap, classes: Sequence[str], draw: int) -> NeighborMap:
    """The control: in the place of every auxiliary class a candidate drawn by a hash, another one while others last."""
    replaced = auxiliary_classes(neighbors)
    taken, last = {_character(name) for name in classes}, {_character(name) for name in replaced}
    chars = [char for char in _table()["candidates"] if char not in taken]
    order = np.argsort(hash64(draw, _RANDOM, np.array([ord(char) for char in chars])), kind="stable")
    drawn = sorted((chars[i] for i in order), key=last.__contains__)
    stand_in = dict(zip(replaced, map(glyphs.class_name, drawn), strict=False))
    return {name: [stand_in[a] for a in names] for name, names in neighbors.items()}


def images(names: Sequence[str], draw: int, image_size: int, extra: str | None) -> TensorImages:
    """PER_CLASS images of each character, in the training fonts. ValueError for a name that is no character's."""
    chars = [_character(name) for name in names]
    faces = [fonts.shipped(f) for f in fonts.TRAIN] + (fonts.extra(extra) if extra else [])
    return glyphs.split_images("auxiliary", draw, chars, [PER_CLASS] * len(chars), faces, image_size)


def _table() -> dict:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def _character(name: str) -> str:
    """Inverse of `glyphs.class_name`."""
    try:
        known = glyphs.class_name(name[:1]) == name
    except (TypeError, ValueError):  # nothing, or a character without a name
        known = False
    if not known:
        raise ValueError(f"neighbors: {name!r} names no character; expected such as {glyphs.class_name('a')!r}")
    return name[0]
