"""Lists of pictures with classes, as ImageNet-LT is published."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import bnn.data


def write(folder: Path, root: Path, lines: dict[str, list[tuple[str, int]]], prefix: str = "ImageNet_LT_") -> None:
    folder.mkdir(exist_ok=True)
    for split, entries in lines.items():
        (folder / f"{prefix}{split}.txt").write_text("\n".join(f"{name} {label}" for name, label in entries) + "\n")
        for name, _ in entries:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12)).save(root / name)


@pytest.fixture
def place(tmp_path):
    """Lists in one directory, pictures in another: 12, 5 and 1 to train on."""
    train = [(f"train/n0{k}/n0{k}_{i} a.JPEG", k) for k, count in enumerate((12, 5, 1)) for i in range(count)]
    val = [(f"train/n0{k}/n0{k}_{i}.JPEG", k) for k in range(3) for i in (90, 91)]
    test = [(f"val/ILSVRC_{k}{i}.JPEG", k) for k in range(3) for i in range(3)]
    write(tmp_path / "lt", tmp_path / "images", {"train": train, "val": val, "test": test})
    return tmp_path


def load(place: Path, **options) -> bnn.data.Data:
    return bnn.data.load(f"lists:{place / 'lt'}", **{"data_root": place / "images", **options})


def test_three_lists(place):
    data = load(place, image_size=16)
    assert data.classes == ("n00", "n01", "n02") and data.class_counts.tolist() == [12, 5, 1] and data.flip
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 18, "val": 6, "test": 9}
    assert data.splits["test"].images([8]).shape == (1, 3, 16, 16)
    assert torch.bincount(load(place, imbalance=6).splits["train"].labels).tolist() == [11, 4, 1]


def test_two_lists_as_of_inaturalist(tmp_path):
    train = [(f"pictures/{k}/{i}.jpg", k) for k, count in enumerate((10, 2)) for i in range(count)]
    write(tmp_path, tmp_path, {"train": train, "val": [("pictures/0/v.jpg", 0), ("pictures/1/v.jpg", 1)]}, "iNat18_")
    data = bnn.data.load(f"lists:{tmp_path}")
    counts = {name: torch.bincount(split.labels, minlength=2).tolist() for name, split in data.splits.items()}
    assert counts == {"train": [9, 2], "val": [1, 0], "test": [1, 1]}  # nothing is taken from a class of two
    (tmp_path / "classes.txt").write_text("oak\nash\n")
    assert bnn.data.load(f"lists:{tmp_path}").classes == ("oak", "ash")


def test_classes_are_numbers_where_directories_do_not_tell(tmp_path):
    train = [(f"all/{k}{i}.jpg", k) for k in range(2) for i in range(4)]
    write(tmp_path, tmp_path, {"train": train, "test": train[::4]}, "")
    assert bnn.data.load(f"lists:{tmp_path}").classes == ("0", "1")


@pytest.mark.parametrize(
    "file, line, expected",
    [
        ("train", "no-class.jpg", "line 19: expected \"relative/path class\"; got 'no-class.jpg'"),
        ("train", "a.jpg -1", "line 19: expected"),
        ("train", "a.jpg 1.5", "line 19: expected"),
        ("val", "/etc/passwd 1", "line 7: '/etc/passwd' leaves the image root; give a path below it"),
        ("test", "train/../../secret.jpg 1", "line 10: 'train/../../secret.jpg' leaves the image root"),
        ("val", "train/n00/n00_90.JPEG 3", "line 7: class 3, but the classes are 0 to 2"),
        ("train", "train/n00/n00_90.JPEG 999999999999", "line 19: class 999999999999 of 19 pictures; count from 0"),
        ("test", "val/none.jpg 1", "line 10: no picture .*images/val/none.jpg; give --data-root"),
    ],
)
def test_bad_lines_are_named(place, file, line, expected):
    path = place / "lt" / f"ImageNet_LT_{file}.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match=rf"lists: .*ImageNet_LT_{file}\.txt {expected}"):
        load(place)


def test_what_is_missing_is_named(place):
    with pytest.raises(FileNotFoundError, match="data_root: no such directory: .*none; the pictures of lists:"):
        load(place, data_root=place / "none")
    with pytest.raises(FileNotFoundError, match=r"train\.txt line 1: no picture .*; give --data-root"):
        load(place, data_root=None)
    with pytest.raises(FileNotFoundError, match="lists: no such directory"):
        bnn.data.load("lists:/nonexistent/lists")
    with pytest.raises(ValueError, match="download: only the data set torchvision or hf has it"):
        load(place, download=True)
    (place / "lt" / "old_train.txt").write_text("x 0\n")
    with pytest.raises(ValueError, match=r"has ImageNet_LT_train\.txt, old_train\.txt for train; leave one of them"):
        load(place)
    (place / "lt" / "old_train.txt").unlink()
    path = place / "lt" / "ImageNet_LT_train.txt"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.endswith(" 1\n")))
    with pytest.raises(ValueError, match=r"class 1 \(1\) has no training image"):
        load(place)
    path.write_bytes(b"\xff\xfe\x00 0\n")
    with pytest.raises(ValueError, match="is no text"):
        load(place)
    path.write_text("\n\n")
    with pytest.raises(ValueError, match="names no picture"):
        load(place)
    path.unlink()
    with pytest.raises(ValueError, match=r"needs files whose names end in train\.txt"):
        load(place)
