"""Writes glyph_lookalikes.json (see `bnn.data.lookalikes`): `python -m bnn.commands._lookalikes`."""

import json

import torch
from torch import Tensor
from torch.nn import functional as F

from bnn.commands._prototypes import HIGH, LOW, features_of, prototypes, unit_features
from bnn.data import Preprocess, TensorImages, fonts, glyph_pool, glyphs, lookalikes
from bnn.data.glyph_render import Bank
from bnn.models.pretrained import pretrained

MOST = 24  # look-alikes kept of a character; some are target classes themselves in a draw
GROUND, CONTRAST = 0.15, 0.6  # about the middle of what render() draws


def candidates() -> list[int]:
    """Code points that may become auxiliary classes, the target pool first."""
    pics = glyph_pool.pictures(glyph_pool.candidates())
    target = [ord(char) for char in glyphs.pool("target")]
    trainable = set.intersection(*(set(pics[font]) for font in fonts.TRAIN))
    rest = sorted(trainable - set(target))
    clashes = glyph_pool.near(pics, rest, target, list(pics)).any(1).tolist()
    distinct = [code for code, clash in zip(rest, clashes, strict=True) if not clash]
    return target + glyph_pool.unlike(pics, distinct, fonts.TRAIN)


def glyph_prototypes(codes: list[int]) -> Tensor:
    """[M, D]: every character clean, in every training font, light on dark and dark on light."""
    bank = Bank([chr(code) for code in codes], [fonts.shipped(f) for f in fonts.TRAIN], 32)
    ink = F.avg_pool2d(bank.canvas[:, 1:2].float(), 2)
    light = GROUND * 255 + CONTRAST * ink
    both = torch.cat([light, 255 - light]).round().to(torch.uint8)
    labels = torch.empty(len(ink), dtype=torch.int64)
    for label, slots in enumerate(bank.slots):
        labels[slots] = label
    images = TensorImages(both, labels.repeat(2))
    preprocess = Preprocess((32, 32), (glyphs.MEAN,), (glyphs.STD,), "L")
    features = unit_features(features_of(pretrained("glyph_teacher")), images, preprocess.normalize)
    return prototypes(features, images.labels, len(codes))


def main() -> None:
    codes = candidates()
    found = glyph_prototypes(codes)
    chars = "".join(map(chr, codes))
    table = {}
    for char, row in zip(glyphs.pool("target"), found @ found.T, strict=False):
        order = row.argsort(descending=True, stable=True).tolist()
        table[char] = "".join([chars[i] for i in order if LOW < row[i] < HIGH][:MOST])
    text = json.dumps({"candidates": chars, "lookalikes": table}, ensure_ascii=False, indent=1)
    lookalikes.TABLE.write_text(text + "\n", encoding="utf-8")
    print(f"{len(codes)} candidates; fewest look-alikes of a character: {min(map(len, table.values()))}")


if __name__ == "__main__":
    main()
