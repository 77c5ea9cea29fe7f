"""`folder:PATH`: one directory of pictures per class, or the directories train, val and test of such directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bnn.data import Data
from bnn.data.hashing import hash64
from bnn.data.images import FolderImages, decode, require
from bnn.data.splits import TEST_SHARE, VAL_SHARE, Tail, finish

SPLITS = ("train", "val", "test")
GREY = ("1", "L", "LA", "La")  # and every mode that begins with "I", 16 and 32 bits
CLUTTER = ("thumbs.db", "desktop.ini")  # hidden by another system than this one

Classes = dict[str, list[Path]]


def _visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in CLUTTER


def _names(items: Sequence[object]) -> str:
    rest = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return (", ".join(map(str, items[:3])) or "none") + rest


def _directories(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir() and _visible(p.name))


def _scan(root: Path) -> Classes:
    """Class name -> its files at any depth, sorted; hidden files and directories left out."""
    names = _directories(root)
    if len(names) < 2:
        raise ValueError(f"folder: {root} needs one directory of images per class, at least 2; it has {_names(names)}")
    return {name: _files(root / name) for name in names}


def _files(root: Path) -> list[Path]:
    below = (p for p in root.rglob("*") if p.is_file())
    return sorted(p for p in below if all(map(_visible, p.relative_to(root).parts)))


def _check(path: Path) -> bool:
    """Whether the image is grey. Raises if the file is no image or is cut short.

    PNG's checksums and JPEG's end marker vouch for the pixels; any other file is decoded once.
    """
    with require("PIL.Image").open(path) as image:
        grey = image.mode in GREY or image.mode.startswith("I")
        complete = image.format == "PNG"
        if image.format in ("JPEG", "MPO"):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 2048))
                complete = b"\xff\xd9" in file.read()
        image.verify()
    if not complete:
        decode(path, "L")
    return grey


def _mode(paths: list[Path]) -> str:
    """Color mode for all: "L" if every image is grey. Raises ValueError naming the files that are not whole."""
    bad, grey = [], True
    for path in require("tqdm").tqdm(paths, desc="checking images", unit=" files", leave=False, disable=None):
        try:
            grey &= _check(path)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            bad.append((path, error))
    if bad:
        raise ValueError(
            f"folder: {len(bad)} of {len(paths)} files are not whole images: {_names([p for p, _ in bad])} "
            f"({bad[0][1]}); remove them or save them again"
        )
    return "L" if grey else "RGB"


def _enough(root: Path, classes: Classes, least: int) -> Classes:
    few = [f"{name} ({len(files)})" for name, files in classes.items() if len(files) < least]
    if few:
        raise ValueError(
            f"folder: {root} needs at least {least} images per class; add some to, or remove, {_names(few)}"
        )
    return classes


def _cut(root: Path, draw: int) -> dict[str, Classes]:
    """Split -> class -> files: 10 % val and 20 % test of each class, one image of each at least; the rest is train."""
    splits: dict[str, Classes] = {split: {} for split in SPLITS}
    for key, (name, files) in enumerate(_enough(root, _scan(root), 3).items()):
        order = np.argsort(hash64(draw, key, np.arange(len(files))), kind="stable")
        val = max(1, round(VAL_SHARE * len(files)))
        test = val + max(1, round(TEST_SHARE * len(files)))
        for split, part in zip(SPLITS, (order[test:], order[:val], order[val:test]), strict=True):
            splits[split][name] = [files[i] for i in sorted(part)]
    return splits


def _ready_made(root: Path) -> dict[str, Classes]:
    """Split -> class -> files of the directories train, val and test, which must have the same classes."""
    missing = [split for split in SPLITS if split not in _directories(root)]
    if missing:
        raise ValueError(f"folder: {root} looks split but has no {_names(missing)}; add it, or rename what is there")
    splits = {split: _enough(root / split, _scan(root / split), 1) for split in SPLITS}
    for split in SPLITS[1:]:
        odd = sorted(splits[split].keys() ^ splits["train"].keys())
        if odd:
            raise ValueError(
                f"folder: {root}/train and {root}/{split} differ in {_names(odd)}; each class must be in both"
            )
    return splits


def load(path: str, image_size: int, tail: Tail) -> Data:
    """See `bnn.data.load`. Classes in alphabetical order; every file is checked here, decoded when it is used.

    Raises FileNotFoundError or ValueError for a missing directory, fewer than 2 classes, a class with too few images
    (3, or 1 in each of train, val, test), files that are not whole images, an n_max that the classes cannot supply.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"folder: no such directory: {root}")
    present = set(_directories(root))
    found = _ready_made(root) if present and present <= set(SPLITS) else _cut(root, tail.draw)
    names = sorted(found["train"])
    mode = _mode([file for classes in found.values() for files in classes.values() for file in files])
    size = (image_size, image_size)
    splits = {}
    for split, classes in found.items():
        labels = torch.repeat_interleave(torch.tensor([len(classes[name]) for name in names]))
        splits[split] = FolderImages([file for name in names for file in classes[name]], labels, size, mode)
    return finish(f"folder:{path}", names, splits, size, mode, tail)


def only(path: str, names: Sequence[str], size: tuple[int, int], mode: str) -> FolderImages:
    """The images of the classes `names` of a folder, in this order; other directories of it are left alone.

    Raises FileNotFoundError or ValueError for a missing directory, a class without images, files that are not images.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"auxiliary: no such directory: {root}")
    found = {name: _files(root / name) for name in _directories(root)}
    empty = [name for name in names if not found.get(name)]
    if empty:
        raise ValueError(f"auxiliary: {root} has no images of {_names(empty)}; add a directory of them or edit the map")
    files = [file for name in names for file in found[name]]
    _mode(files)
    labels = torch.repeat_interleave(torch.tensor([len(found[name]) for name in names]))
    return FolderImages(files, labels, size, mode)
