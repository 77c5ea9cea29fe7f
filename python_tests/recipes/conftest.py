"""A small long-tailed glyph set and a small trained teacher for it."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bnn import plotting
from bnn.data import glyphs
from bnn.recipes import plain

TINY = {
    "data": "glyphs", "num_classes": 8, "n_max": 40, "imbalance": 10.0, "image_size": 16, "batch_size": 32,
    "epochs": 1, "device": "cpu", "precision": "no",
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> dict:
    """Fields of a training of a second: 8 classes, 40 down to 4 images of 16 x 16."""
    return TINY


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a full-precision network trained for a moment on the classes of another draw."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    plain.run(plain.Config(**TINY, draw=1, model="resnet_tiny", out=folder))
    return folder


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a binary network, plain cross-entropy."""
    folder = tmp_path_factory.mktemp("student") / "run"
    plain.run(plain.Config(**TINY, out=folder))
    return folder


@pytest.fixture(scope="module")
def no_plots() -> Iterator[None]:
    """They take longer than the trainings here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("reliability", "per_class"):
            patch.setattr(plotting, name, lambda *_: None)
        yield


@pytest.fixture(scope="module")
def few_source_images() -> Iterator[None]:
    """60 instead of 36000, which take longer to render than a run here to train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "source", partial(glyphs.source, num_classes=12, per_class=5))
        yield
