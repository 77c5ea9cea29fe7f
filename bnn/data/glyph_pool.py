"""Chooses the characters of the glyph data set and writes glyph_pool.json: `python -m bnn.data.glyph_pool`.

Two characters are near-duplicates if, cut to their ink and scaled to 24x24, they differ by less than NEAR on average
(grey values in [0, 1]) in any font that has both: "x" and "X" are, since rendering varies size and aspect.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bnn.data import fonts, glyphs
from bnn.data.hashing import hash64
from bnn.data.images import require

NEAR = 0.055
GRID = 24  # pixels, side of the compared pictures
POINTS = 48  # font size of the compared pictures
SMALLEST = 16  # pixels at 48 points: dots and accents below that vanish in a 32x32 image
TARGET = {"LATIN": 132, "GREEK": 50, "CYRILLIC": 38, "OTHER": 40}
REDRAWN = "дѣ"  # italic faces give them the shape of other letters, which no train font shows
SOURCE = 600
SHAPELESS = ("ARABIC", "BRAILLE", "BOX DRAWINGS", "COMBINING", "REPLACEMENT")  # joined, alike, no shape of their own

Pictures = dict[str, dict[int, Tensor]]


def _eligible(code: int) -> bool:
    name = unicodedata.name(chr(code), "")
    category = unicodedata.category(chr(code))
    return category[0] not in "CZM" and category not in ("Lm", "Sk") and not any(w in name for w in SHAPELESS)


def _script(code: int) -> str:
    first = unicodedata.name(chr(code)).split()[0]
    return first if first in TARGET else "OTHER"


def candidates() -> list[int]:
    """Characters with a shape of their own that DejaVu Sans draws in both weights."""
    drawn = [fonts.coverage(fonts.shipped(f)) for f in ("DejaVuSans", "DejaVuSans-Bold")]
    return sorted(filter(_eligible, drawn[0] & drawn[1]))


def pictures(codes: list[int]) -> Pictures:
    """Font name -> code point -> float32 [576]: every character in every font that draws it at a legible size."""
    pil = require("PIL.Image")
    out: Pictures = {}
    for font in (*fonts.TRAIN, *fonts.VAL, *fonts.TEST):
        out[font] = {}
        path = fonts.shipped(font)
        face, has = fonts.open_font(path, POINTS), fonts.coverage(path)
        for code in codes:
            ink = fonts.ink(face, chr(code)) if code in has else None
            if ink is not None and max(ink.size) >= SMALLEST:
                small = np.asarray(ink.resize((GRID, GRID), pil.Resampling.BILINEAR), np.float32)
                out[font][code] = torch.from_numpy(small.ravel() / 255)
    return out


def near(pics: Pictures, a: list[int], b: list[int], names: Sequence[str]) -> Tensor:
    """bool [len(a), len(b)]: whether a and b are near-duplicates in a font of `names`, or across to a held-out font."""
    pairs = [(f, f) for f in names]
    pairs += [(f, g) for f in names for g in names if (f in fonts.TRAIN) != (g in fonts.TRAIN)]
    out = torch.zeros(len(a), len(b), dtype=torch.bool)
    for f, g in pairs:
        rows = torch.tensor([i for i, code in enumerate(a) if code in pics[f]], dtype=torch.int64)
        cols = torch.tensor([i for i, code in enumerate(b) if code in pics[g]], dtype=torch.int64)
        if len(rows) and len(cols):
            x = torch.stack([pics[f][a[i]] for i in rows.tolist()])
            y = torch.stack([pics[g][b[i]] for i in cols.tolist()])
            out[rows[:, None], cols] |= torch.cdist(x, y, p=1) < NEAR * GRID * GRID
    return out


def unlike(pics: Pictures, codes: list[int], names: Sequence[str]) -> list[int]:
    """`codes` without those that are near-duplicates of an earlier one that stays."""
    alike = near(pics, codes, codes, names)
    keep: list[int] = []
    for i in range(len(codes)):
        if not alike[i, keep].any():
            keep.append(i)
    return [codes[i] for i in keep]


def choose(codes: list[int], count: int) -> list[int]:
    """`count` of `codes` by hash, in code point order."""
    if len(codes) < count:
        raise ValueError(f"glyph_pool: {count} characters wanted, {len(codes)} are left")
    order = np.argsort(hash64(np.array(codes)), kind="stable")[:count]
    return sorted(codes[i] for i in order)


def main() -> None:
    pics = pictures(candidates())
    everywhere = sorted(set.intersection(*(set(p) for p in pics.values())))
    distinct = [c for c in unlike(pics, everywhere, list(pics)) if chr(c) not in REDRAWN]
    target = sorted(c for script, n in TARGET.items() for c in choose([d for d in distinct if _script(d) == script], n))
    trainable = set.intersection(*(set(pics[f]) for f in fonts.TRAIN))
    rest = sorted(trainable - set(target))
    clashes = near(pics, rest, target, list(pics)).any(1).tolist()
    apart = unlike(pics, [c for c, clash in zip(rest, clashes, strict=True) if not clash], fonts.TRAIN)
    source = choose(apart, SOURCE)
    print(f"target: {len(target)} of {len(distinct)} distinct of {len(everywhere)} characters in all fonts")
    print(
        f"source: {len(source)} of {len(apart)} distinct and unlike any target of {len(trainable)} in the train fonts"
    )
    pool = {"target": "".join(map(chr, target)), "source": "".join(map(chr, source))}
    glyphs.POOL.write_text(json.dumps(pool, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
