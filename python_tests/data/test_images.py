import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from bnn.data import FolderImages, Preprocess, TensorImages, augment, collate
from bnn.data.hashing import hash64, normal, uniform
from bnn.data.images import as_mode, decode, read_image


def test_splitmix64_known_answers():
    # First outputs of the published generator with state 0 and with state 1.
    assert hash64(0).tolist() == [0xE220A8397B1DCDAF]
    assert hash64(1).tolist() == [0x910A2DEC89025CC1]
    assert hash64(-1).tolist() == hash64(2**64 - 1).tolist()


def test_uniform_and_normal_moments():
    keys = np.arange(200_000)
    u, z = uniform(3, keys), normal(3, keys)
    assert u.dtype == z.dtype == np.float32
    assert 0 <= u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.004 and abs(u.var() - 1 / 12) < 0.002
    assert abs(z.mean()) < 0.01 and abs(z.var() - 1) < 0.02 and abs(z).max() < 3.47
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01


@pytest.fixture
def batch():
    return torch.randint(0, 256, (12, 3, 9, 11), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_augment_depends_on_seed_epoch_and_index_only(batch):
    index = torch.arange(12) + 40
    whole = augment(batch, index, seed=1, epoch=2, flip=True)
    assert whole.shape == batch.shape and whole.dtype == torch.float32
    parts = [augment(batch[i : i + 5], index[i : i + 5], seed=1, epoch=2, flip=True) for i in (0, 5, 10)]
    assert torch.equal(whole, torch.cat(parts))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(whole[order], augment(batch[order], index[order], seed=1, epoch=2, flip=True))
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert not torch.equal(whole, augment(batch, index, **other, flip=True))


def test_augment_leaves_torch_and_numpy_generators_alone(batch):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    augment(batch, torch.arange(12), seed=0, epoch=0)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


def test_augment_shifts_with_the_edge_repeated(batch):
    seen = set()
    for epoch in range(40):
        moved = augment(batch[:1], torch.tensor([7]), seed=0, epoch=epoch, jitter=0.0)[0]
        padded = torch.nn.functional.pad(batch[:1].float(), (2, 2, 2, 2), mode="replicate")[0]
        found = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if torch.allclose(moved, padded[:, dy : dy + 9, dx : dx + 11], atol=1e-3)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 12


def test_augment_jitter_and_flip(batch):
    index = torch.arange(12)
    plain = augment(batch, index, seed=5, epoch=0, max_shift=0, jitter=0.0)
    torch.testing.assert_close(plain, batch.float(), rtol=0, atol=1e-3)
    flipped = augment(batch, index, seed=5, epoch=0, max_shift=0, jitter=0.0, flip=True)
    mirrored = [torch.allclose(flipped[i], batch[i].float().flip(-1), atol=1e-3) for i in range(12)]
    assert 1 < sum(mirrored) < 11
    assert all(m or torch.allclose(flipped[i], batch[i].float(), atol=1e-3) for i, m in enumerate(mirrored))
    jittered = augment(batch, index, seed=5, epoch=0, max_shift=0, jitter=0.2)
    slope = jittered.flatten(1).std(1) / plain.flatten(1).std(1)
    assert (0.8 <= slope).all() and (slope <= 1.2001).all() and slope.std() > 0.05


def test_augment_refuses_other_shapes(batch):
    with pytest.raises(ValueError, match=r"augment: expected batch \[B, C, H, W\] and index \[B\]; got"):
        augment(batch, torch.arange(3), seed=0, epoch=0)


def test_augment_of_an_empty_batch(batch):
    assert augment(batch[:0], torch.arange(0), seed=0, epoch=0).shape == (0, 3, 9, 11)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_yields_batches(batch, workers):
    data = TensorImages(batch, torch.arange(12) % 4)
    loader = DataLoader(data, batch_size=5, collate_fn=collate, num_workers=workers)
    got = list(loader)
    assert [len(b["label"]) for b in got] == [5, 5, 2]
    assert torch.equal(torch.cat([b["image"] for b in got]), batch)
    assert torch.equal(torch.cat([b["index"] for b in got]), torch.arange(12))
    assert data[3]["label"] == 3 and torch.equal(data[3]["image"], batch[3])


def test_subset_renumbers(batch):
    part = TensorImages(batch, torch.arange(12)).subset([4, 2])
    got = part.__getitems__([1, 0])
    assert got["label"].tolist() == [2, 4] and got["index"].tolist() == [1, 0]
    assert torch.equal(got["image"], batch[[2, 4]])


def test_tensor_images_refuses_float(batch):
    with pytest.raises(ValueError, match=r"expected uint8 images .* got torch.float32"):
        TensorImages(batch.float(), torch.arange(12))


def test_preprocess_normalizes_and_survives_a_dict(batch):
    preprocess = Preprocess((9, 11), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "RGB")
    mean, std = torch.tensor(preprocess.mean).view(3, 1, 1), torch.tensor(preprocess.std).view(3, 1, 1)
    torch.testing.assert_close(preprocess.normalize(batch), (batch / 255 - mean) / std)
    torch.testing.assert_close(preprocess.normalize(batch.float()), preprocess.normalize(batch))
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    assert preprocess.to_dict()["size"] == [9, 11]


def test_preprocess_refuses_nonsense():
    with pytest.raises(ValueError, match="mode must be 'L' or 'RGB'; got 'CMYK'"):
        Preprocess((8, 8), (0.5,), (0.2,), "CMYK")
    with pytest.raises(ValueError, match="mode RGB needs 3 means"):
        Preprocess((8, 8), (0.5,), (0.2,), "RGB")
    with pytest.raises(ValueError, match="std above 0"):
        Preprocess((8, 8), (0.5,), (0.0,), "L")
    with pytest.raises(ValueError, match="expected keys mean, mode, size, std; got size"):
        Preprocess.from_dict({"size": [8, 8]})


def _write(path: Path, array: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.fixture
def ramp():
    return np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))


def test_read_grey_color_and_palette(tmp_path, ramp):
    color = np.stack([ramp, ramp.T, 255 - ramp], -1)
    exact = read_image(_write(tmp_path / "a.png", color), (32, 32), "RGB")
    assert torch.equal(exact.permute(1, 2, 0), torch.from_numpy(color))
    jpeg = read_image(_write(tmp_path / "a.jpg", color, quality=95), (32, 32), "RGB")
    assert (jpeg.float() - exact.float()).abs().mean() < 8
    palette = read_image(_write(tmp_path / "p.png", color, "P"), (32, 32), "RGB")
    assert palette.shape == (3, 32, 32) and (palette.float() - exact.float()).abs().mean() < 40
    assert torch.equal(read_image(_write(tmp_path / "g.png", ramp), (32, 32), "L")[0], torch.from_numpy(ramp))
    assert torch.equal(read_image(tmp_path / "g.png", (32, 32), "RGB")[2], torch.from_numpy(ramp))
    bits = read_image(_write(tmp_path / "b.png", ramp, "1"), (32, 32), "L")
    assert set(bits.unique().tolist()) == {0, 255}


def test_sixteen_bits_are_scaled_not_clipped(tmp_path, ramp):
    deep = read_image(_write(tmp_path / "d.png", ramp.astype(np.uint16) * 257), (32, 32), "L")
    assert torch.equal(deep[0], torch.from_numpy(ramp))


def test_transparency_is_white(tmp_path, ramp):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:16, :, 3] = 255
    image = read_image(_write(tmp_path / "t.png", rgba), (32, 32), "L")
    assert image[0, :16].max() == 0 and image[0, 16:].min() == 255


def test_exif_orientation_is_obeyed(tmp_path, ramp):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    path = _write(tmp_path / "r.png", ramp, exif=exif)
    assert torch.equal(read_image(path, (32, 32), "L")[0], torch.from_numpy(ramp).flip(0, 1))


def test_aspect_is_kept_by_cutting(tmp_path):
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 200
    image = read_image(_write(tmp_path / "w.png", wide), (20, 20), "L")
    assert image.min() == 200


def test_unreadable_files_are_named(tmp_path, ramp):
    (tmp_path / "x.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"image: cannot read .*x\.png .* remove it or save it again"):
        read_image(tmp_path / "x.png", (8, 8), "L")
    with pytest.raises(FileNotFoundError, match=r"image: no such file: .*none\.png"):
        read_image(tmp_path / "none.png", (8, 8), "L")
    _write(tmp_path / "f.tif", ramp.astype(np.float32))
    with pytest.raises(ValueError, match=r"cannot read .*f\.tif \(floating-point pixels"):
        read_image(tmp_path / "f.tif", (8, 8), "L")


def test_folder_images(tmp_path, ramp):
    paths = [_write(tmp_path / f"{i}.png", np.full((10, 10), i * 20, np.uint8)) for i in range(5)]
    data = FolderImages(paths, torch.arange(5), (8, 8), "L")
    assert data.images([3, 1])[:, 0, 0, 0].tolist() == [60, 20]
    assert data.images([]).shape == (0, 1, 8, 8)
    assert data.subset([2, 4]).__getitems__([1])["image"].unique().tolist() == [80]
    with pytest.raises(ValueError, match="FolderImages: 5 paths but 2 labels"):
        FolderImages(paths, torch.arange(2), (8, 8), "L")


def test_importing_bnn_data_is_lean():
    code = "import sys, bnn.data; print([m for m in ('PIL', 'sklearn', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"pip install 'bnn-torch\[run\]'"):
        read_image("any.png", (8, 8), "L")


def test_decoded_pictures_stay_in_memory_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("bnn.data.images.CACHE_BYTES", 3 * 8 * 8 * 2)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    images = FolderImages(paths, torch.arange(3), (8, 8), "RGB")
    order = [2, 0, 1, 2]
    first = images.images(order)
    assert first[:, 0, 0, 0].tolist() == order
    for path in paths[:2]:
        path.unlink()
    assert torch.equal(images.images(order), first)  # the third is read again
    assert images.subset([2, 0]).labels.tolist() == [2, 0]
    paths[2].unlink()
    with pytest.raises(FileNotFoundError, match="no such file: .*2.png"):
        images.images([2])


def test_large_jpegs_are_decoded_no_larger_than_needed(tmp_path):
    rows, columns = np.mgrid[:480, :640]
    smooth = np.stack([rows * 255 // 480, columns * 255 // 640, (rows + columns) * 255 // 1120], -1).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "photo.jpg", quality=95)
    assert decode(tmp_path / "photo.jpg", "RGB").size == (640, 480)
    assert decode(tmp_path / "photo.jpg", "RGB", least=48).size == (160, 120)
    Image.fromarray(smooth).save(tmp_path / "photo.png")
    small, exact = (read_image(tmp_path / f"photo.{kind}", (48, 48), "RGB").int() for kind in ("jpg", "png"))
    assert (small - exact).abs().max() <= 4


def test_as_mode():
    color = torch.randint(0, 256, (4, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grey = as_mode(color, "L")
    pillow = np.stack([np.asarray(Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")) for x in color])
    assert grey.dtype == torch.uint8 and (grey[:, 0].int() - torch.from_numpy(pillow).int()).abs().max() <= 1
    assert torch.equal(as_mode(grey, "RGB")[:, 2], grey[:, 0]) and as_mode(color, "RGB") is color
