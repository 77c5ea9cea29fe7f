"""`lists:DIR`: pictures named by text files, as ImageNet-LT, Places-LT and iNaturalist are published.

DIR holds one file for each split whose name ends in train.txt, val.txt or test.txt (ImageNet_LT_train.txt). A line is

    relative/path/of/a picture.jpg 17

the path below the image root (`data_root`, DIR itself by default) and the class, 0 to K-1. Without a test file val is
test, as for iNaturalist; where val is missing (then), a part of train is val (`splits.complete`). classes.txt in DIR
may name the classes, one a line; otherwise they are called after the directories of their training pictures if these
are one to one, or by their numbers.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import torch

from bnn.data import Data
from bnn.data.images import FolderImages
from bnn.data.splits import Tail, complete, finish

Entry = tuple[int, str, int]  # line of the file, path below the image root, class


def load(path: str, image_size: int, tail: Tail, root: Path | None) -> Data:
    """See `bnn.data.load`. Raises FileNotFoundError or ValueError that names the file and the line."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"lists: no such directory: {folder}")
    root, size = root or folder, (image_size, image_size)
    if not root.is_dir():
        raise FileNotFoundError(f"data_root: no such directory: {root}; the pictures of lists:{path} lie below it")
    files = {split: file for split in ("train", "val", "test") if (file := _file(folder, split))}
    if "train" not in files or len(files) < 2:
        raise ValueError(f"lists: {folder} needs files whose names end in train.txt and in val.txt or test.txt")
    entries = {split: _read(file) for split, file in files.items()}
    classes = _classes(folder, files["train"], entries["train"])
    splits = {}
    for split, file in files.items():
        _check(file, entries[split], len(classes), root)
        paths, labels = [root / name for _, name, _ in entries[split]], [label for _, _, label in entries[split]]
        splits[split] = FolderImages(paths, torch.tensor(labels), size, "RGB")
    if "test" not in splits:
        splits["test"] = splits.pop("val")
    return finish(f"lists:{path}", classes, complete(splits, tail.draw), size, "RGB", tail)


def _file(folder: Path, split: str) -> Path | None:
    found = sorted(p for p in folder.iterdir() if p.name.lower().endswith(f"{split}.txt"))
    if len(found) > 1:
        raise ValueError(f"lists: {folder} has {', '.join(p.name for p in found)} for {split}; leave one of them")
    return found[0] if found else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as problem:
        raise ValueError(f"lists: {file} is no text ({problem})") from None


def _read(file: Path) -> list[Entry]:
    entries = []
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not (label.isascii() and label.isdigit()):
            raise ValueError(f'lists: {file} line {number}: expected "relative/path class"; got {line[:80]!r}')
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"lists: {file} line {number}: {name[:80]!r} leaves the image root; give a path below it")
        entries.append((number, name.strip(), int(label)))
    if not entries:
        raise ValueError(f"lists: {file} names no picture")
    return entries


def _classes(folder: Path, file: Path, train: list[Entry]) -> list[str]:
    """Names of the classes: of classes.txt, of the directories, or numbers."""
    if (folder / "classes.txt").is_file():
        return [line.strip() for line in _lines(folder / "classes.txt") if line.strip()]
    number, _, highest = max(train, key=lambda entry: entry[2])
    if highest >= len(train):
        raise ValueError(f"lists: {file} line {number}: class {highest} of {len(train)} pictures; count from 0 to K-1")
    pairs = {(PurePosixPath(name).parent.name, label) for _, name, label in train}
    names = {label: name for name, label in pairs}
    one_to_one = len(pairs) == len(names) == len(set(names.values()))
    return [names.get(k, str(k)) if one_to_one else str(k) for k in range(highest + 1)]


def _check(file: Path, entries: list[Entry], count: int, root: Path) -> None:
    for number, name, label in entries:
        if label >= count:
            raise ValueError(f"lists: {file} line {number}: class {label}, but the classes are 0 to {count - 1}")
        if not (root / name).is_file():
            hint = "give --data-root, the directory that the paths begin in"
            raise FileNotFoundError(f"lists: {file} line {number}: no picture {root / name}; {hint}")
