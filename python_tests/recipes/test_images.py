"""From a training batch to the network's input."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from bnn.recipes._images import TrainingImages, WithSource
from bnn.recipes._session import Session, load_data
from bnn.training import device as devices
from bnn.training.run import Run, read_config


@pytest.fixture(scope="module")
def session(student) -> Session:
    """A finished run, open again."""
    fields = read_config(student)
    data = load_data(fields)
    return Session(Run(student, fields, resume=True), data, devices.start("cpu", "no"), data.class_counts)


@pytest.mark.parametrize("mirror, flip", [("auto", False), ("no", False), ("yes", True)])
def test_images_are_mirrored_on_demand(session, mirror, flip):
    """Of 64 images some come out otherwise than without, and only with `yes`: characters are not mirrored."""
    config = {**session.run.config, "mirror": mirror}
    asked = dataclasses.replace(session, run=SimpleNamespace(config=config))
    batch = {**session.data.splits["train"].__getitems__(range(64)), "epoch": 0}
    plain, images = (TrainingImages(s, seed=0, size=16)(batch) for s in (session, asked))
    assert bool((plain != images).any()) == flip


def test_mixing_depends_on_the_image_not_on_the_batch(session):
    data = session.data
    images = TrainingImages(session, seed=0, size=16, mix="mixup")
    batch = data.splits["train"].__getitems__([3, 1, 4, 15])
    mixed = images({**batch, "epoch": 2})
    alone = images({**data.splits["train"].__getitems__([4]), "epoch": 2})
    assert torch.equal(mixed[2:3], alone)
    assert not torch.equal(mixed[2:3], images({**data.splits["train"].__getitems__([4]), "epoch": 3}))

    # A balanced partner is of every class as often.
    images.balanced = True
    several = data.splits["train"].__getitems__([0] * 2000)
    several["index"] = torch.arange(2000)
    _, other = images._mixture(several["index"], 2)
    assert images.dataset.labels[other].bincount().min() > 190  # of 250 expected, 4 standard deviations

    # The labels have the shares that the images have: on flat images of their labels' brightness both say the same.
    shares = images.labels({**batch, "epoch": 2}, 8)
    assert torch.allclose(shares.sum(1), torch.ones(4)) and bool((shares.gather(1, batch["label"][:, None]) > 0).all())
    images.augmented = lambda stored, index, epoch: images.dataset.labels[index].float().view(-1, 1, 1, 1)
    brightness = images({**batch, "epoch": 2}).flatten()
    torch.testing.assert_close(shares @ torch.arange(8.0), brightness)


def test_cutmix_pastes_a_square_and_labels_it_by_its_pixels(session):
    images, data = TrainingImages(session, seed=0, size=16, mix="cutmix"), session.data
    index = list(range(60))
    batch = {**data.splits["train"].__getitems__(index), "epoch": 2}
    mixed, shares = images(batch), images.labels(batch, 8)
    alone = {**data.splits["train"].__getitems__([4]), "epoch": 2}
    assert torch.equal(mixed[4:5], images(alone)) and torch.equal(shares[4:5], images.labels(alone, 8))
    assert not torch.equal(mixed[4:5], images({**alone, "epoch": 3}))

    kept, other = images._mixture(batch["index"], 2)
    own = images.augmented(batch["image"], batch["index"], 2)
    partner = images.augmented(data.splits["train"].images(other), other, 2)
    for number in index:
        inside = kept[number, 0] == 0
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        assert int(inside.sum()) == len(rows) * len(columns), "a rectangle"
        assert torch.equal(mixed[number], torch.where(inside, partner[number], own[number]))
        expected = torch.zeros(8)
        expected[batch["label"][number]] += 1 - inside.float().mean()
        expected[data.splits["train"].labels[other[number]]] += inside.float().mean()
        torch.testing.assert_close(shares[number], expected)
    assert 0.2 < 1 - kept.mean() < 0.5  # 1/2 if nothing were cut off at the edges


def test_source_images_follow_from_seed_epoch_and_index(session, few_source_images):
    images = TrainingImages(session, seed=0, size=16, mix="mixup")
    assert len(WithSource(session, images, 1).source.dataset) == 57  # but the 3 held out
    batch = {**session.data.splits["train"].__getitems__(list(range(20, 4, -1))), "epoch": 2}
    two = dataclasses.replace(session, device=SimpleNamespace(processes=2))
    for count in (2, 6, 16, 40):
        inputs = WithSource(session, images, count)
        x, drawn = inputs(batch), inputs.drawn(batch["index"], 2)
        assert x.shape == (16 + count, 1, 16, 16) and torch.equal(x[:16], images(batch))
        assert torch.equal(x, WithSource(session, images, count)(batch))
        assert not torch.equal(drawn, inputs.drawn(batch["index"], 3)) and len(drawn) == count
        # the halves of the batch in two processes
        half = WithSource(two, images, count)
        parts = [{name: batch[name][part] for name in ("image", "index")} for part in (slice(8), slice(8, 16))]
        both = [half({**part, "epoch": 2})[8:] for part in parts]
        assert torch.equal(torch.cat(both), x[16:])
    with pytest.raises(ValueError, match="--source-images: expected a multiple of 2, the number of processes; got 7"):
        WithSource(two, images, 7)
    many = WithSource(session, images, 5000).drawn(batch["index"], 0).bincount(minlength=57)
    assert many.min() > 50  # of 88 expected, 4 standard deviations
