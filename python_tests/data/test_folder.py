from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bnn.data


def picture(path: Path, value: int = 0, *, grey: bool = False, size: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    Image.fromarray(rng.integers(0, 256, (size, size) if grey else (size, size, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    for name, count, suffix in (("cat", 20, "png"), ("ant", 10, "jpg"), ("bee", 3, "bmp")):
        for i in range(count):
            picture(tmp_path / name / f"{i:02d}.{suffix}", i)
    return tmp_path


def load(path: Path, **options) -> bnn.data.Data:
    return bnn.data.load(f"folder:{path}", **options)


def test_natural_counts_and_stratified_splits(photos):
    data = load(photos, image_size=16)
    assert data.classes == ("ant", "bee", "cat") and data.flip
    sizes = {name: torch.bincount(split.labels).tolist() for name, split in data.splits.items()}
    assert sizes == {"train": [7, 1, 14], "val": [1, 1, 2], "test": [2, 1, 4]}
    assert data.class_counts.tolist() == [7, 1, 14]
    paths = [p for split in data.splits.values() for p in split.paths]
    assert len(set(paths)) == len(paths) == 33
    batch = data.splits["train"].__getitems__([0, 8])
    assert batch["image"].shape == (2, 3, 16, 16) and batch["label"].tolist() == [0, 2]
    assert data.preprocess.mode == "RGB" and data.preprocess.size == (16, 16)
    x = data.preprocess.normalize(data.splits["train"].images(torch.arange(22)))
    assert abs(float(x.mean())) < 0.01


def test_draw_changes_the_split_and_repeats(photos):
    paths = [load(photos, draw=d).splits["test"].paths for d in (0, 0, 1)]
    assert paths[0] == paths[1] != paths[2]


def test_long_tail_on_request(photos):
    data = load(photos, imbalance=7)  # of 7, 1 and 14: the class with the most becomes the largest
    assert data.class_counts.tolist() == torch.bincount(data.splits["train"].labels).tolist() == [4, 1, 13]
    assert load(photos, imbalance=7, n_max=8).class_counts.tolist() == [3, 1, 8]
    with pytest.raises(ValueError, match="n_max: there are enough images for 13 at imbalance 7; got 99"):
        load(photos, imbalance=7, n_max=99)
    with pytest.raises(ValueError, match="n_max: folder:.* keeps all its images; give imbalance too"):
        load(photos, n_max=5)


def test_grey_only_if_all_are(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            picture(tmp_path / name / f"{i}.png", i, grey=True)
    assert load(tmp_path).preprocess.mode == "L"
    assert load(tmp_path).splits["train"].images([0]).shape == (1, 1, 32, 32)
    picture(tmp_path / "b" / "color.png")
    assert load(tmp_path).preprocess.mode == "RGB"


def test_mixed_formats_load(tmp_path, photos):
    Image.new("P", (20, 30)).save(photos / "cat" / "palette.gif")
    Image.new("RGBA", (20, 30), (1, 2, 3, 100)).save(photos / "cat" / "alpha.png")
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(photos / "cat" / "deep.png")
    Image.new("CMYK", (20, 30)).save(photos / "cat" / "print.jpg")
    data = load(photos)
    for split in data.splits.values():
        assert split.images(torch.arange(len(split))).dtype == torch.uint8


def test_ready_made_splits(tmp_path):
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        for name in ("a", "b"):
            for i in range(count):
                picture(tmp_path / split / name / f"{split}{i}.png", i)
    data = load(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 8, "val": 2, "test": 4}
    assert all(p.name.startswith(name) for name, split in data.splits.items() for p in split.paths)

    picture(tmp_path / "test" / "c" / "0.png")
    with pytest.raises(ValueError, match="/train and .*/test differ in c; each class must be in both"):
        load(tmp_path)
    (tmp_path / "val").rename(tmp_path / ".val")
    with pytest.raises(ValueError, match="looks split but has no val; add it, or rename what is there"):
        load(tmp_path)


def test_hidden_files_are_ignored(photos):
    (photos / ".git").mkdir()
    (photos / "cat" / ".DS_Store").write_bytes(b"x")
    (photos / "cat" / "Thumbs.db").write_bytes(b"x")
    (photos / "cat" / ".cache").mkdir()
    (photos / "cat" / ".cache" / "note.txt").write_text("x")
    (photos / "labels.csv").write_text("x")
    assert load(photos).classes == ("ant", "bee", "cat")


def test_a_hidden_parent_is_no_obstacle(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            picture(tmp_path / ".data" / name / f"{i}.png", i)
    assert load(tmp_path / ".data").classes == ("a", "b")


def test_missing_folder():
    with pytest.raises(FileNotFoundError, match="folder: no such directory: /nonexistent/pictures"):
        bnn.data.load("folder:/nonexistent/pictures")


def test_no_and_single_class(tmp_path):
    with pytest.raises(ValueError, match="needs one directory of images per class, at least 2; it has none"):
        load(tmp_path)
    picture(tmp_path / "only" / "0.png")
    with pytest.raises(ValueError, match="at least 2; it has only"):
        load(tmp_path)


def test_class_with_too_few_images(photos):
    (photos / "bee" / "00.bmp").unlink()
    (photos / "empty").mkdir()
    with pytest.raises(ValueError, match=r"at least 3 images per class; .* remove, bee \(2\), empty \(0\)"):
        load(photos)


def test_files_that_are_no_images_are_named(photos):
    (photos / "cat" / "readme.txt").write_text("hello")
    (photos / "ant" / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 35 files are not whole images: .*ant/empty\.png, .*cat/readme\.txt \("):
        load(photos)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_truncated_files_are_found_before_training(photos, suffix):
    path = picture(photos / "cat" / f"cut.{suffix}", size=64)
    load(photos)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(ValueError, match=rf"1 of 34 files are not whole images: .*cut\.{suffix}"):
        load(photos)


def test_jpeg_with_a_trailer_is_whole(photos):
    path = picture(photos / "cat" / "phone.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 5000)
    assert len(load(photos).splits["train"]) == 23


def test_files_that_vanish_later_are_named(photos):
    data = load(photos)
    data.splits["test"].paths[0].unlink()
    with pytest.raises(FileNotFoundError, match="image: no such file"):
        data.splits["test"].images([0])
