import json

import pytest
import torch
from PIL import Image

from bnn.data import TensorImages, folder, neighbors

MAP = {"cat": ["lynx", "ocelot"], "dog": ["wolf", "lynx"], "bee": []}


def test_relation_and_classes_follow_the_map():
    assert neighbors.auxiliary_classes(MAP) == ["lynx", "ocelot", "wolf"]
    near = neighbors.relation(MAP, ["dog", "ant", "cat"])
    assert near.tolist() == [[True, False, True], [False, False, False], [True, True, False]]


def test_joined_images_keep_the_order_that_was_asked_for():
    first = TensorImages(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.tensor([0, 0, 1, 2]))
    second = TensorImages(torch.arange(10, 13, dtype=torch.uint8).view(3, 1, 1, 1), torch.tensor([0, 1, 1]))
    joined = neighbors.Joined(first, second, 3)
    assert joined.labels.tolist() == [0, 0, 1, 2, 3, 4, 4]
    batch = joined.__getitems__([5, 0, 6, 3, 4, 0])
    assert batch["image"].flatten().tolist() == [11, 0, 12, 3, 10, 0]
    assert batch["label"].tolist() == [4, 0, 4, 2, 3, 0]
    assert joined.images([2]).flatten().tolist() == [2] and joined.images([6]).flatten().tolist() == [12]


def test_maps_are_read_and_checked(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(MAP))
    assert neighbors.read(path) == MAP
    neighbors.check(MAP, ["cat", "dog", "bee"])
    for text, message in (("{", "is no JSON"), ('["cat"]', "expected {"), ('{"cat": "lynx"}', 'expected {"target"')):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            neighbors.read(path)
    with pytest.raises(FileNotFoundError, match="neighbors: no such file: .*none.json"):
        neighbors.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"cta": ["lynx"]}, "the map names 'cta', the data has no such class"),
        ({"cat": ["dog"]}, "'dog' can't be a neighbor: the data has it as a target class"),
        ({"cat": []}, "the map has no auxiliary class"),
    ],
)
def test_wrong_maps_are_refused_by_name(found, message):
    with pytest.raises(ValueError, match=message):
        neighbors.check(found, ["cat", "dog"])


def test_images_of_named_classes_in_the_order_of_the_names(tmp_path):
    for name, value in (("wolf", 30), ("lynx", 60), ("other", 90)):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (20, 10), (value, i, 0)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "empty").mkdir()
    images = folder.only(str(tmp_path), ["wolf", "lynx"], (8, 8), "RGB")
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.images([0, 3])[:, :2, 0, 0].tolist() == [[30, 0], [60, 1]]
    with pytest.raises(ValueError, match="has no images of empty, bear; add a directory of them or edit the map"):
        folder.only(str(tmp_path), ["wolf", "empty", "bear"], (8, 8), "RGB")
    with pytest.raises(FileNotFoundError, match="auxiliary: no such directory: nowhere"):
        folder.only("nowhere", ["wolf"], (8, 8), "RGB")
