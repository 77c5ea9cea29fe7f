"""Data sets of torchvision, in the files that it reads: written here, small, with their checksums patched."""

import csv
import hashlib
import inspect
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bnn.data
from bnn.data import vision

sets = pytest.importorskip("torchvision.datasets")
RNG = np.random.default_rng(0)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def load(name: str, root: Path, **options) -> bnn.data.Data:
    return bnn.data.load(f"torchvision:{name}", data_root=root, **options)


def sizes(data: bnn.data.Data) -> dict[str, list[int]]:
    return {name: torch.bincount(split.labels).tolist() for name, split in data.splits.items()}


def picture(path: Path, value: int = 0, side: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side + 4), (value % 256, 40, 90)).save(path)
    return path


def cifar_batch(path: Path, key: str, labels: list[int]) -> np.ndarray:
    """A batch as the publisher pickles it: rows of 3072 bytes, red, green, blue."""
    rows = RNG.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"data": rows, key: labels}))
    return rows


def patch_cifar(monkeypatch, factory, root: Path) -> None:
    folder = root / factory.base_folder
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(factory, name, [[file, md5(folder / file)] for file, _ in getattr(factory, name)])
    meta = factory.meta["filename"]
    monkeypatch.setattr(factory, "meta", {**factory.meta, "md5": md5(folder / meta)})


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    names = [f"data_batch_{i}" for i in range(1, 6)]
    rows = [cifar_batch(folder / name, "labels", [k for k in range(10) for _ in range(8)]) for name in names]
    cifar_batch(folder / "test_batch", "labels", list(range(10)) * 3)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"name{k}" for k in range(10)]}))
    patch_cifar(monkeypatch, sets.CIFAR10, tmp_path)
    return tmp_path, np.concatenate(rows)


def test_cifar10(cifar10):
    root, rows = cifar10
    data = load("cifar10", root)
    assert data.name == "torchvision:CIFAR10" and data.classes == tuple(f"name{k}" for k in range(10)) and data.flip
    assert sizes(data) == {"train": [36] * 10, "val": [4] * 10, "test": [3] * 10}
    pixels = {row.tobytes() for row in rows}
    kept = torch.cat([data.splits[name].images(torch.arange(len(data.splits[name]))) for name in ("train", "val")])
    assert {image.numpy().tobytes() for image in kept} == pixels  # every picture once, channels first
    tail = load("CIFAR10", root, imbalance=12, image_size=48)
    assert tail.class_counts.tolist() == [36, 27, 20, 15, 11, 9, 6, 5, 3, 3] == sizes(tail)["train"]
    assert tail.splits["train"].subset([3, 4]).images([1]).shape == (1, 3, 48, 48)
    assert torch.equal(tail.splits["val"].labels, data.splits["val"].labels)
    step = load("CIFAR10", root, imbalance=6, profile="step", n_max=30)
    assert step.class_counts.tolist() == [30] * 5 + [5] * 5


def test_cifar100_uses_the_fine_labels(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    cifar_batch(folder / "train", "fine_labels", list(range(100)) * 4)
    cifar_batch(folder / "test", "fine_labels", list(range(100)))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"fine{k}" for k in range(100)]}))
    patch_cifar(monkeypatch, sets.CIFAR100, tmp_path)
    data = load("CIFAR100", tmp_path)
    assert data.classes[99] == "fine99" and sizes(data)["test"] == [1] * 100 and sizes(data)["train"] == [3] * 100


def test_damaged_cifar_is_named(cifar10):
    root, _ = cifar10
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"short")
    with pytest.raises(FileNotFoundError, match="torchvision:CIFAR10 is not whole in .*corrupted.*add --download"):
        load("CIFAR10", root)


def test_svhn_reads_mat_files_and_is_not_mirrored(tmp_path, monkeypatch):
    io = pytest.importorskip("scipy.io")
    listed = {}
    for split, count in (("train", 40), ("test", 20)):
        pixels = RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        path = tmp_path / f"{split}_32x32.mat"
        io.savemat(path, {"X": pixels, "y": (np.arange(count) % 10 + 1)[:, None]})  # 10 stands for the digit 0
        listed[split] = ["", path.name, md5(path)]
    monkeypatch.setattr(sets.SVHN, "split_list", listed)
    data = load("svhn", tmp_path, image_size=16)
    assert data.classes == tuple("0123456789") and not data.flip
    assert sizes(data) == {"train": [3] * 10, "val": [1] * 10, "test": [2] * 10}
    first = torch.from_numpy(pixels[:, :, :, 9]).permute(2, 0, 1)[None]
    zero = load("svhn", tmp_path).splits["test"].subset(torch.nonzero(data.splits["test"].labels == 0).flatten())
    assert torch.equal(zero.images([0]), first)


def test_stl10_reads_its_binary_files(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for split, count in (("train", 30), ("test", 10)):
        RNG.integers(0, 256, count * 3 * 96 * 96, dtype=np.uint8).tofile(folder / f"{split}_X.bin")
        (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{split}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(f"c{k}" for k in range(10)))
    monkeypatch.setattr(sets.STL10, "train_list", [[f"train_{x}.bin", md5(folder / f"train_{x}.bin")] for x in "Xy"])
    monkeypatch.setattr(sets.STL10, "test_list", [[f"test_{x}.bin", md5(folder / f"test_{x}.bin")] for x in "Xy"])
    data = load("stl10", tmp_path, image_size=24)
    assert data.classes[3] == "c3" and data.splits["test"].images([0, 9]).shape == (2, 3, 24, 24)


def eurosat(root: Path) -> None:
    for name, count in (("Forest", 20), ("River", 10)):
        for i in range(count):
            picture(root / "eurosat" / "2750" / name / f"{name}_{i}.jpg", i)


def food101(root: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        listed = {name: [f"{name}/{split}{i}" for i in range(count)] for name in ("apple_pie", "waffles")}
        for path in sum(listed.values(), []):
            picture(root / "food-101" / "images" / f"{path}.jpg")
        (root / "food-101" / "meta").mkdir(exist_ok=True)
        (root / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(listed))


def stanford_cars(root: Path) -> None:
    io, base = pytest.importorskip("scipy.io"), root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    io.savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["Car A", "Car B"], dtype=object)})
    for folder, file, count in (("cars_train", "devkit/cars_train_annos.mat", 8),
                                ("cars_test", "cars_test_annos_withlabels.mat", 4)):  # fmt: skip
        rows = np.array([(f"{i:05d}.jpg", i % 2 + 1) for i in range(count)], [("fname", object), ("class", np.uint8)])
        io.savemat(base / file, {"annotations": rows})
        for name, _ in rows:
            picture(base / folder / name)


def flowers102(root: Path) -> None:
    io, base = pytest.importorskip("scipy.io"), root / "flowers-102"
    labels = np.arange(306) % 102 + 1
    for number in range(1, 307):
        picture(base / "jpg" / f"image_{number:05d}.jpg", side=8)
    io.savemat(base / "imagelabels.mat", {"labels": labels})
    ids = {"trnid": np.arange(1, 103), "valid": np.arange(103, 205), "tstid": np.arange(205, 307)}
    io.savemat(base / "setid.mat", ids)


def gtsrb(root: Path) -> None:
    base = root / "gtsrb" / "GTSRB"
    for k in range(3):
        for i in range(4):
            picture(base / "Training" / f"{k:05d}" / f"00000_{i:05d}.ppm")
    for i in range(6):
        picture(base / "Final_Test" / "Images" / f"{i:05d}.ppm")
    with open(root / "gtsrb" / "GT-final_test.csv", "w", newline="") as file:
        rows = [["Filename", "ClassId"], *([f"{i:05d}.ppm", i % 3] for i in range(6))]
        csv.writer(file, delimiter=";").writerows(rows)


def oxford_pet(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for split, count in (("trainval", 5), ("test", 2)):
        names = [(f"{breed}_{split}{i}", k) for k, breed in enumerate(("Bengal", "great_pug")) for i in range(count)]
        for name, _ in names:
            picture(base / "images" / f"{name}.jpg")
        lines = [f"{name} {k + 1} {k + 1} {k + 1}" for name, k in names]
        (base / "annotations" / f"{split}.txt").write_text("\n".join(lines))


def caltech101(root: Path) -> None:
    for name in ("BACKGROUND_Google", "ant", "bee"):
        for i in range(1, 11):
            picture(root / "caltech101" / "101_ObjectCategories" / name / f"image_{i:04d}.jpg", i)


def dtd(root: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        names = [f"{k}/{k}_{split}{i}.jpg" for k in ("banded", "zigzag") for i in range(count)]
        for name in names:
            picture(root / "dtd" / "dtd" / "images" / name)
        (root / "dtd" / "dtd" / "labels").mkdir(exist_ok=True)
        (root / "dtd" / "dtd" / "labels" / f"{split}1.txt").write_text("\n".join(names))


def aircraft(root: Path) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        names = [(f"{split}{k}{i}", f"A {k}") for k in range(2) for i in range(count)]
        for name, _ in names:
            picture(base / "images" / f"{name}.jpg")
        (base / f"images_variant_{split}.txt").write_text("\n".join(f"{n} {k}" for n, k in names))
    (base / "variants.txt").write_text("A 0\nA 1\n")


def sun397(root: Path) -> None:
    for name in ("abbey", "zoo/indoor"):
        for i in range(10):
            picture(root / "SUN397" / name[0] / name / f"sun_{i}.jpg")
    (root / "SUN397" / "ClassName.txt").write_text("/a/abbey\n/z/zoo/indoor\n")


def places365(root: Path) -> None:
    classes = {"/a/abbey": 0, "/z/zoo": 1}
    (root / "categories_places365.txt").write_text("\n".join(f"{name} {k}" for name, k in classes.items()))
    lines = {"train_standard": [], "val": []}
    for i in range(10):
        lines["train_standard"].append(f"/a/abbey/{i}.jpg 0\n/z/zoo/{i}.jpg 1")
        lines["val"].append(f"Places365_val_{i}.jpg {i % 2}")
        for name in ("a/abbey", "z/zoo"):
            picture(root / "data_256_standard" / name / f"{i}.jpg")
        picture(root / "val_256" / f"Places365_val_{i}.jpg")
    for name, text in lines.items():
        (root / f"places365_{name}.txt").write_text("\n".join(text))


@pytest.mark.parametrize(
    "name, write, classes, expected",
    [
        ("EuroSAT", eurosat, ("Forest", "River"), ([14, 7], [2, 1], [4, 2])),
        ("Food101", food101, ("apple_pie", "waffles"), ([5, 5], [1, 1], [2, 2])),
        ("StanfordCars", stanford_cars, ("Car A", "Car B"), ([3, 3], [1, 1], [2, 2])),
        ("Flowers102", flowers102, ("pink primrose", "hard-leaved pocket orchid"), ([1] * 102,) * 3),
        ("GTSRB", gtsrb, ("0", "1", "2"), ([3] * 3, [1] * 3, [2] * 3)),
        ("OxfordIIITPet", oxford_pet, ("Bengal", "Great Pug"), ([4, 4], [1, 1], [2, 2])),
        ("Caltech101", caltech101, ("ant", "bee"), ([7, 7], [1, 1], [2, 2])),
        ("DTD", dtd, ("banded", "zigzag"), ([3, 3], [2, 2], [2, 2])),
        ("FGVCAircraft", aircraft, ("A 0", "A 1"), ([3, 3], [2, 2], [2, 2])),
        ("SUN397", sun397, ("abbey", "zoo/indoor"), ([7, 7], [1, 1], [2, 2])),
        ("Places365", places365, ("/a/abbey", "/z/zoo"), ([9, 9], [1, 1], [5, 5])),
    ],
)
def test_pictures_in_files(name, write, classes, expected, tmp_path, monkeypatch):
    write(tmp_path)
    factory = getattr(sets, name)
    if name == "Flowers102":
        files = {key: (file, md5(tmp_path / "flowers-102" / file)) for key, (file, _) in factory._file_dict.items()
                 if key != "image"}  # fmt: skip
        monkeypatch.setattr(factory, "_file_dict", files)
    if name == "Places365":
        monkeypatch.setattr(factory, "_check_integrity", lambda self, file, md5, download: Path(file).is_file())
    data = load(name.lower(), tmp_path, image_size=16)
    assert data.classes[: len(classes)] == classes and data.name == f"torchvision:{name}"
    assert tuple(sizes(data)[split] for split in ("train", "val", "test")) == expected
    paths = [path for split in data.splits.values() for path in split.paths]
    assert len(set(paths)) == len(paths)
    assert data.splits["test"].images([0, 1]).shape == (2, 3, 16, 16) and data.preprocess.mode == "RGB"
    assert data.flip == (name != "GTSRB")

    Path(data.splits["train"].paths[0]).unlink()
    if name not in ("EuroSAT", "GTSRB", "SUN397"):  # these list what is there
        with pytest.raises(FileNotFoundError, match=f"torchvision:{name} is not whole.*1 of .* pictures are missing"):
            load(name, tmp_path)


@pytest.mark.parametrize("name", vision.SETS)
def test_absent_files_say_what_to_do(name, tmp_path):
    pytest.importorskip("scipy")
    for arguments in vision.SETS[name].values():
        accepted = inspect.signature(getattr(sets, name)).parameters
        assert {"root", "download", *arguments} <= set(accepted)
    advice = "give --data-root" if name == "StanfordCars" else "add --download to fetch it, or give --data-root"
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=rf"^torchvision:{name} is not whole in .*{advice}"):
            load(name, root)
    assert not (tmp_path / "none").exists()


def test_download_is_asked_of_torchvision(tmp_path, monkeypatch):
    asked = []

    def write(self):
        asked.append(self._split)
        food101(tmp_path / "new")

    monkeypatch.setattr(sets.Food101, "_download", write)
    data = load("Food101", tmp_path / "new", download=True)
    assert asked == ["train", "test"] and len(data.splits["test"]) == 4

    def no_network(self):
        raise OSError("no route to host")

    monkeypatch.setattr(sets.DTD, "_download", no_network)
    with pytest.raises(FileNotFoundError, match="torchvision:DTD .*OSError: no route to host"):
        load("DTD", tmp_path, download=True)


def test_a_misspelt_name_lists_the_nearest():
    with pytest.raises(ValueError, match="torchvision:cifar110 is not known; did you mean CIFAR1"):
        bnn.data.load("torchvision:cifar110")
    with pytest.raises(ValueError, match="torchvision:xyz is not known; expected one of CIFAR10, CIFAR100, Caltech101"):
        bnn.data.load("torchvision:xyz")
    with pytest.raises(ValueError, match=r"expected one of glyphs, .* \(did you mean torchvision:Food101\?\)"):
        bnn.data.load("food101")
    with pytest.raises(ValueError, match="download: only the data set torchvision or hf has it"):
        bnn.data.load("glyphs", download=True)
    with pytest.raises(ValueError, match="data_root: only the data set torchvision or lists or hf has it"):
        bnn.data.load("digits", data_root="x")
