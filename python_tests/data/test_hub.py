"""Sets of the hub, from parquet files on the disk; nothing is fetched."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bnn.data

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path_factory, monkeypatch):
    """Arrow copies go where the test ends with them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def encoded(value: int) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(np.full((10, 14, 3), value, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(folder: Path, features: dict, **splits: dict) -> Path:
    folder.mkdir(exist_ok=True)
    for name, columns in splits.items():
        rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        rows.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return folder


def rows(counts: list[int], **more) -> dict:
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    return {"img": [encoded(k) for k in labels], "label": labels, **more}


FEATURES = {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "ant"])}


def counts(data: bnn.data.Data) -> dict[str, list[int]]:
    return {name: torch.bincount(split.labels).tolist() for name, split in data.splits.items()}


def test_a_local_parquet_folder(tmp_path):
    write(tmp_path, FEATURES, train=rows([20, 10]), test=rows([3, 2]))
    data = bnn.data.load(f"hf:{tmp_path}", image_size=16)
    assert data.classes == ("cat", "ant") and data.flip and data.preprocess.mode == "RGB"
    assert counts(data) == {"train": [18, 9], "val": [2, 1], "test": [3, 2]}
    images = data.splits["test"].images([0, 4, 0])
    assert images.shape == (3, 3, 16, 16) and images[:, 0, 0, 0].tolist() == [0, 1, 0]
    assert data.splits["val"].images([2])[0, 0, 0, 0] == 1  # a part of train keeps its pictures
    tail = bnn.data.load(f"hf:{tmp_path}", imbalance=6)
    assert counts(tail)["train"] == [18, 3] == tail.class_counts.tolist()


def test_splits_of_the_hub(tmp_path):
    hidden = {**rows([2, 2]), "label": [-1] * 4}
    write(tmp_path, FEATURES, train=rows([10, 10]), validation=rows([3, 3]), test=hidden)
    assert counts(bnn.data.load(f"hf:{tmp_path}")) == {"train": [9, 9], "val": [1, 1], "test": [3, 3]}
    write(tmp_path, FEATURES, test=rows([2, 2]))
    assert counts(bnn.data.load(f"hf:{tmp_path}")) == {"train": [10, 10], "val": [3, 3], "test": [2, 2]}


def test_columns_are_found_or_named(tmp_path):
    both = {"img": datasets.Image(), **{name: datasets.ClassLabel(names=["a", "b"]) for name in ("coarse", "fine")}}
    labels = [0] * 6 + [1] * 6
    columns = {"img": rows([6, 6])["img"], "coarse": labels, "fine": labels[::-1]}
    folder = write(tmp_path / "both", both, train=columns)
    with pytest.raises(ValueError, match=r"no or several columns of classes; name one of img, coarse, fine: .*#COLUMN"):
        bnn.data.load(f"hf:{folder}")
    data = bnn.data.load(f"hf:{folder}#fine")
    assert {int(x) for x in data.splits["train"].images([0, 1])[:, 0, 0, 0]} == {0} and data.name.endswith("#fine")
    assert data.splits["train"].labels[:2].tolist() == [1, 1]
    with pytest.raises(ValueError, match="no column none; name one of"):
        bnn.data.load(f"hf:{folder}#none")
    folder = write(tmp_path / "plain", {"label": datasets.Value("int64")}, train={"label": [0, 1]})
    with pytest.raises(ValueError, match="expected one column of pictures; its columns are label"):
        bnn.data.load(f"hf:{folder}")


def test_parquet_of_another_writer(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for split, count in (("train", 4), ("test", 1)):
        labels = ["oak", "ash"] * count
        table = pa.table({"image": [{**encoded(i), "path": "x.png"} for i in range(2 * count)], "label": labels})
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    data = bnn.data.load(f"hf:{tmp_path}")
    assert data.classes == ("ash", "oak") and data.splits["test"].labels.tolist() == [1, 0]
    assert data.splits["test"].images([1])[0, 0, 0, 0] == 1
    parquet.write_table(table.set_column(1, "label", pa.array(["oak", "elm"])), tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="test: class 'elm' is not among those of train"):
        bnn.data.load(f"hf:{tmp_path}")


def test_what_can_not_be_read_is_named(tmp_path):
    broken = rows([4, 4])
    broken["img"][5] = {"bytes": b"no picture", "path": None}
    folder = write(tmp_path / "broken", FEATURES, train=broken, test=rows([1, 1]), validation=rows([1, 1]))
    with pytest.raises(ValueError, match=r"image: cannot read hf:.*broken train row 5 .*remove it"):
        bnn.data.load(f"hf:{folder}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="hf: cannot read the directory .*empty"):
        bnn.data.load(f"hf:{tmp_path / 'empty'}")
    (tmp_path / "empty" / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="hf: cannot read the directory .*empty"):
        bnn.data.load(f"hf:{tmp_path / 'empty'}")


def test_a_name_is_read_from_the_cache_and_never_fetched_unasked(tmp_path):
    with pytest.raises(FileNotFoundError, match="hf:some/thing: no such directory, and not in the cache .*--download"):
        bnn.data.load("hf:some/thing", data_root=tmp_path)
    folder = write(tmp_path / "thing", FEATURES, train=rows([6, 6]), test=rows([2, 2]))
    bnn.data.load(f"hf:{folder}", data_root=tmp_path / "cache")
    shutil.copytree(tmp_path / "cache" / "thing", tmp_path / "cache" / "some___thing")
    data = bnn.data.load("hf:some/thing", data_root=tmp_path / "cache")
    assert counts(data)["test"] == [2, 2] and not datasets.config.HF_HUB_OFFLINE
