"""A folder of 64 x 64 colour pictures with a long tail, as a user might have: `python pictures.py DIR [CLASSES]`.

A class is a shape, its colour and the texture behind it; place, size, angle and light vary. PNG and JPEG.
"""

import colorsys
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
SHAPES = (3, 4, 5, 6, 32)  # corners
HUES = 6
TEXTURES = 4  # period of the stripes behind, so 120 classes at most


def draw(k: int, rng: np.random.Generator) -> Image.Image:
    """A picture of class k."""
    corners, hue, texture = SHAPES[k % 5], k // 5 % HUES, k // (5 * HUES) % TEXTURES
    rows, columns = np.mgrid[:SIDE, :SIDE]
    stripes = np.sin((rows + columns * (texture % 2)) * 2 * math.pi / (6 + 5 * texture) + rng.uniform(0, 6))
    ground = (110 + 40 * stripes + rng.normal(0, 12, (SIDE, SIDE))).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(ground).convert("RGB")
    red, green, blue = colorsys.hsv_to_rgb((hue + rng.uniform(-0.2, 0.2)) / HUES, 0.8, rng.uniform(0.6, 1))
    x, y = rng.uniform(24, 40, 2)
    turns = rng.uniform(0, 2 * math.pi) + np.arange(corners) * 2 * math.pi / corners
    radius = rng.uniform(12, 20)
    points = [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns]
    ImageDraw.Draw(image).polygon(points, fill=tuple(int(255 * v) for v in (red, green, blue)))
    return image


def write(folder: Path, classes: int, largest: int = 60, smallest: int = 6) -> Path:
    """folder/class-00/0.png, ...: `largest` pictures of the first class down to `smallest` of the last."""
    for k in range(classes):
        rng = np.random.default_rng(k)
        place = Path(folder) / f"class-{k:02d}"
        place.mkdir(parents=True)
        for i in range(round(largest * (smallest / largest) ** (k / (classes - 1)))):
            draw(k, rng).save(place / f"{i}.{'png' if i % 2 else 'jpg'}")
    return Path(folder)


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 60))
