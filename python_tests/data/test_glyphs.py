import hashlib
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch

import bnn.data
from bnn.data import fonts, glyph_pool, glyphs
from bnn.data.glyph_render import Bank

SMALL = {"num_classes": 6, "n_max": 20, "imbalance": 10.0}


@pytest.fixture(scope="module")
def small():
    return bnn.data.load("glyphs", **SMALL)


@pytest.fixture(scope="module")
def whole():
    return bnn.data.load("glyphs")


def digest(data: bnn.data.Data) -> str:
    sha = hashlib.sha256(repr((data.classes, data.class_counts.tolist())).encode())
    for name, split in sorted(data.splits.items()):
        sha.update(name.encode() + split.images(torch.arange(len(split))).numpy().tobytes())
        sha.update(split.labels.numpy().tobytes())
    return sha.hexdigest()


def test_full_size(whole):
    sizes = {name: len(split) for name, split in whole.splits.items()}
    assert sizes == {"train": 4311, "val": 1200, "test": 3000}
    assert len(set(whole.classes)) == 100 and whole.source_classes == ()
    assert torch.equal(torch.bincount(whole.splits["train"].labels), whole.class_counts)
    assert torch.bincount(whole.splits["val"].labels).unique().tolist() == [12]
    assert torch.bincount(whole.splits["test"].labels).unique().tolist() == [30]
    groups = bnn.data.longtail.groups(whole.class_counts)
    assert {name: int(mask.sum()) for name, mask in groups.items()} == {"many": 15, "medium": 35, "few": 50}
    batch = whole.splits["train"].__getitems__([0, 1])
    assert batch["image"].shape == (2, 1, 32, 32) and batch["image"].dtype == torch.uint8


def test_preprocess_fits_the_images(whole):
    x = whole.preprocess.normalize(whole.splits["train"].images(torch.arange(4311)))
    assert abs(float(x.mean())) < 0.1 and abs(float(x.std()) - 1) < 0.1


def test_no_image_twice_and_none_empty(whole):
    images = torch.cat([s.images(torch.arange(len(s))) for s in whole.splits.values()]).flatten(1)
    assert len(torch.unique(images, dim=0)) == len(images)
    assert images.float().std(1).min() > 4


def test_processes_agree(small):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import bnn.data, test_glyphs as t\n"
        "print(t.digest(bnn.data.load('glyphs', **t.SMALL)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"},
    )
    assert run.stdout.strip() == digest(small)


def test_draws_differ_in_classes_and_images(small):
    other = bnn.data.load("glyphs", draw=1, **SMALL)
    assert set(other.classes) != set(small.classes)
    first, second = (
        glyphs.split_images("val", draw, ["A"], [12], [fonts.shipped(fonts.VAL[0])], 32).tensor for draw in (0, 1)
    )
    assert not torch.equal(first, second)


def test_long_tail_is_a_subset_of_the_balanced_set(small):
    balanced = bnn.data.load("glyphs", **{**SMALL, "imbalance": 1.0})
    assert balanced.class_counts.tolist() == [20] * 6
    for k, count in enumerate(small.class_counts.tolist()):
        tail, full = (d.splits["train"].tensor[d.splits["train"].labels == k] for d in (small, balanced))
        assert torch.equal(tail, full[:count])
    assert torch.equal(small.splits["test"].tensor, balanced.splits["test"].tensor)


def test_pools():
    target, source = glyphs.pool("target"), glyphs.pool("source")
    assert len(set(target)) == len(target) == 260 and len(set(source)) == len(source) == 600
    assert not set(target) & set(source)
    scripts = [unicodedata.name(c).split()[0] for c in target]
    assert [scripts.count(s) for s in ("LATIN", "GREEK", "CYRILLIC")] == [132, 50, 38]


def test_pools_hold_no_near_duplicates():
    target, source = ([ord(c) for c in glyphs.pool(name)] for name in ("target", "source"))
    pics = glyph_pool.pictures(target + source)
    assert all(set(target) <= pics[font].keys() for font in pics)
    assert all(set(source) <= pics[font].keys() for font in fonts.TRAIN)
    some = target[::8]
    assert not glyph_pool.near(pics, source, some, list(pics)).any()
    assert glyph_pool.near(pics, some, target, list(pics)).sum() == len(some)  # each is near itself only
    assert glyph_pool.near(glyph_pool.pictures([ord("x"), ord("X")]), [ord("x")], [ord("X")], fonts.TRAIN).all()


def test_fonts_of_the_splits_are_disjoint():
    everything = fonts.TRAIN + fonts.VAL + fonts.TEST
    assert (len(fonts.TRAIN), len(fonts.VAL), len(fonts.TEST)) == (6, 1, 3)
    assert len({fonts.open_font(fonts.shipped(f), 10).getname() for f in everything}) == 10


def test_splits_draw_from_their_own_fonts(monkeypatch):
    used = {}
    original = glyphs.split_images

    def spy(split, draw, chars, counts, faces, size):
        used[split] = [path.stem for path in faces]
        return original(split, draw, chars, counts, faces, size)

    monkeypatch.setattr(glyphs, "split_images", spy)
    bnn.data.load("glyphs", num_classes=2, n_max=2, imbalance=1)
    glyphs.source(num_classes=2, per_class=2)
    train = [*fonts.TRAIN]
    assert used == {"train": train, "source": train, "val": [*fonts.VAL], "test": [*fonts.TEST]}


def test_test_images_are_ten_per_class_and_font():
    faces = [fonts.shipped(f) for f in fonts.TEST]
    bank = Bank(["A"], faces, 32)
    one_by_one = [glyphs.split_images("test", 0, ["A"], [30], [face], 32).tensor for face in faces]
    together = glyphs.split_images("test", 0, ["A"], [30], faces, 32).tensor
    assert bank.slots == [[0, 1, 2]]
    for i in range(30):
        assert torch.equal(together[i], one_by_one[i % 3][i])


def test_source_is_the_same_for_every_draw_and_unlike_the_target():
    images, names = glyphs.source(num_classes=5, per_class=4)
    again, _ = glyphs.source(num_classes=3, per_class=2)
    assert images.tensor.shape == (20, 1, 32, 32) and len(names) == 5
    assert torch.bincount(images.labels).tolist() == [4] * 5
    assert torch.equal(images.subset([0, 1, 4, 5, 8, 9]).tensor, again.tensor)


def test_source_split_of_load(monkeypatch):
    real = glyphs.source
    monkeypatch.setattr(glyphs, "source", lambda size, extra: real(size, 7, 3, extra))
    data = bnn.data.load("glyphs", source=True, **SMALL)
    assert len(data.splits["source"]) == 21 and len(data.source_classes) == 7
    assert not set(data.source_classes) & set(data.classes)


@pytest.mark.parametrize("size", [16, 48])
def test_other_resolutions(size):
    data = bnn.data.load("glyphs", image_size=size, **SMALL)
    assert data.splits["test"].images([0]).shape == (1, 1, size, size)
    assert data.preprocess.size == (size, size)


def test_class_names_are_readable(small):
    char, code, *name = small.classes[0].split()
    assert code == f"U+{ord(char):04X}" and " ".join(name) == unicodedata.name(char)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 300}, "num_classes: glyphs has 2 to 260; got 300"),
        ({"num_classes": 1}, "at least 2 classes; got 1"),
        ({"image_size": 12}, "image_size: glyphs are drawn at 16 to 256 pixels; got 12"),
        ({"image_size": 0}, "image_size: expected at least 8 pixels; got 0"),
        ({"n_max": 50}, "n_max: 50 images at imbalance 100"),
        ({"n_max": 0}, "n_max: 0 images"),
        ({"profile": "flat"}, "profile: expected one of exponential, step; got 'flat'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bnn.data.load("glyphs", **arguments)


def test_unknown_data_sets_are_listed():
    for spec in ("cifar10", "glyphs:x", "folder:", "folder", "digits:"):
        with pytest.raises(
            ValueError,
            match="data: expected one of glyphs, digits, folder:PATH, torchvision:NAME, lists:DIR, hf:NAME; got",
        ):
            bnn.data.load(spec)
    with pytest.raises(ValueError, match="source: only the data set glyphs has it; leave it out for 'digits'"):
        bnn.data.load("digits", source=True)


def test_source_bounds():
    with pytest.raises(ValueError, match="the glyph source has 2 to 600; got 601"):
        glyphs.source(num_classes=601)


def test_extra_fonts_join_training_only(tmp_path, small):
    shutil.copy(fonts.shipped("STIXGeneralBol"), tmp_path)
    more = bnn.data.load("glyphs", fonts=str(tmp_path), **SMALL)
    assert not torch.equal(more.splits["train"].tensor, small.splits["train"].tensor)
    assert torch.equal(more.splits["test"].tensor, small.splits["test"].tensor)
    assert torch.equal(more.splits["val"].tensor, small.splits["val"].tensor)


def test_held_out_fonts_never_join_training(tmp_path):
    for name in ("STIXGeneral", "DejaVuSans", "STIXGeneralBol"):
        shutil.copy(fonts.shipped(name), tmp_path / f"renamed-{name}.ttf")
    with pytest.warns(UserWarning, match="renamed-STIXGeneral.ttf is left out"):
        assert [p.stem for p in fonts.extra(str(tmp_path))] == ["renamed-STIXGeneralBol"]


def test_bad_font_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="fonts: no such folder: .*nowhere"):
        bnn.data.load("glyphs", fonts=str(tmp_path / "nowhere"), **SMALL)
    with pytest.raises(ValueError, match=r"fonts: no \.ttf or \.otf file in .* add some or leave fonts out"):
        bnn.data.load("glyphs", fonts=str(tmp_path), **SMALL)
    (tmp_path / "broken.ttf").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"fonts: cannot read .*broken\.ttf .* remove it"):
        bnn.data.load("glyphs", fonts=str(tmp_path), **SMALL)


def test_a_character_without_a_font_is_named():
    with pytest.raises(ValueError, match=r"no font here draws U\+4E00"):
        Bank(["A", "\u4e00"], [fonts.shipped("DejaVuSans")], 32)


def test_strangers_are_the_other_characters(monkeypatch):
    from bnn.data import glyphs

    monkeypatch.setattr(glyphs, "pool", lambda name: "ABCD")
    images = glyphs.strangers([glyphs.class_name("B")], 16)
    assert torch.bincount(images.labels).tolist() == [30, 30, 30]
    with pytest.raises(ValueError, match="ood: the model knows every character of glyphs"):
        glyphs.strangers([glyphs.class_name(char) for char in "ABCD"], 16)
