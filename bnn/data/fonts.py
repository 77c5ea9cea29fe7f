"""Font files: those that matplotlib ships, by the part they play, and further ones from a folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from bnn.data.images import require

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

TRAIN = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono")
VAL = ("DejaVuSerif-BoldItalic",)
TEST = ("DejaVuSansMono-BoldOblique", "DejaVuSerif-Italic", "STIXGeneral")


def shipped(name: str) -> Path:
    """Path of a font that matplotlib ships."""
    path = Path(require("matplotlib").get_data_path(), "fonts", "ttf", f"{name}.ttf")
    if not path.is_file():
        raise FileNotFoundError(f"fonts: matplotlib has no {path.name} in {path.parent}; pip install -U matplotlib")
    return path


def coverage(path: Path) -> set[int]:
    """Code points that a font file maps to a glyph."""
    return set(require("matplotlib.ft2font").FT2Font(str(path)).get_charmap())


def open_font(path: Path, points: int) -> FreeTypeFont:
    """A face in basic layout: without a shaping library, so every installation of Pillow lays a character out alike."""
    image_font = require("PIL.ImageFont")
    try:
        return image_font.truetype(str(path), points, layout_engine=image_font.Layout.BASIC)
    except OSError as error:
        raise ValueError(f"fonts: cannot read {path} ({error}); remove it") from error


def ink(face: FreeTypeFont, char: str) -> Image | None:
    """The character's ink, mode "L", cut to its bounding box; None if it draws nothing."""
    mask = face.getmask(char, mode="L")
    box = mask.getbbox()
    return require("PIL.Image").frombytes("L", mask.size, bytes(mask)).crop(box) if box else None


def extra(folder: str) -> list[Path]:
    """The .ttf and .otf files below `folder`, less those shipped to train on and, with a warning, the held-out ones.

    Raises FileNotFoundError for a missing folder, ValueError for an unreadable font or if no font is left.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"fonts: no such folder: {folder}")
    trained = {open_font(shipped(f), 10).getname() for f in TRAIN}
    held_out = {open_font(shipped(f), 10).getname() for f in VAL + TEST}
    found = []
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".ttf", ".otf")):
        name = open_font(path, 10).getname()
        if name in held_out:
            warnings.warn(f"fonts: {path.name} is left out, because results are measured in it", stacklevel=2)
        elif name not in trained:
            found.append(path)
    if not found:
        raise ValueError(
            f"fonts: no .ttf or .otf file in {folder} beyond the shipped ones; add some or leave fonts out"
        )
    return found
