import pytest
import torch

from bnn.data import TensorImages
from bnn.data.corruptions import CORRUPTIONS, SEVERITIES, CorruptedImages, corrupt, find


@pytest.fixture(scope="module", params=[(1, 32, 32), (3, 24, 24)], ids=["grey", "color"])
def batch(request) -> torch.Tensor:
    """Pictures with detail at every scale, as photographs have."""
    channels, height, width = request.param
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(4, channels, height, width)
    for cells in (3, 6, 12, 24):
        noise = torch.rand(4, channels, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(noise, (height, width), mode="bilinear") / cells**0.5
    return (total / total.amax() * 230).to(torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_harm_grows_with_severity(batch, name):
    index = torch.arange(4)
    harm = []
    for severity in SEVERITIES:
        out = corrupt(batch, index, name, severity)
        assert out.dtype == torch.uint8 and out.shape == batch.shape
        harm.append((out.float() - batch.float()).square().mean().item())
    assert 0 < harm[0] and harm == sorted(harm) and harm[4] > 1.5 * harm[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_function_of_seed_and_index(batch, name):
    index = torch.tensor([7, 3, 9, 8])
    whole = corrupt(batch, index, name, 3)
    assert torch.equal(whole, corrupt(batch, index, name, 3))
    alone = torch.cat([corrupt(batch[i : i + 1], index[i : i + 1], name, 3) for i in range(4)])
    assert (whole.int() - alone.int()).abs().max() <= 1  # convolutions add up in another order
    random = name in ("gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "occlusion")
    assert torch.equal(whole, corrupt(batch, index, name, 3, seed=1)) != random
    assert torch.equal(whole, corrupt(batch, index + 1, name, 3)) != random


def test_known_values(batch):
    index = torch.arange(4)
    assert torch.equal(corrupt(batch, index, "brightness", 2), (batch.float() + 51).clamp(max=255).byte())
    flat = torch.full((2, 3, 16, 16), 128, dtype=torch.uint8)
    for name in ("gaussian_blur", "motion_blur", "contrast", "pixelate", "jpeg"):
        assert (corrupt(flat, index[:2], name, 5).int() - 128).abs().max() <= 1, name
    noise = corrupt(flat.repeat(1, 1, 8, 8), index[:2], "gaussian_noise", 2).float() - 128
    assert abs(noise.std() / 255 - 0.08) < 0.002 and abs(noise.mean()) < 0.5
    shots = corrupt(flat.repeat(1, 1, 8, 8), index[:2], "shot_noise", 3).float() - 128
    assert abs(shots.std() / 255 - (128 / 255 / 50) ** 0.5) < 0.003
    covered = corrupt(flat.fill_(0), index[:2], "occlusion", 3).bool()
    assert covered.sum((2, 3)).unique().tolist() == [36] and not torch.equal(covered[0], covered[1])
    line = torch.zeros(1, 1, 33, 33, dtype=torch.uint8)
    line[..., 16, 16] = 255
    reach = torch.nonzero(corrupt(line, index[:1], "motion_blur", 5)[0, 0]).double()
    assert 6 < (reach.max(0).values - reach.min(0).values).norm() < 14  # 0.26 of 33 pixels, less what rounds to black


def test_corrupted_images(batch):
    images = CorruptedImages(TensorImages(batch, torch.arange(4)), "impulse_noise", 4, seed=5)
    expected = corrupt(batch[[2, 0]], torch.tensor([2, 0]), "impulse_noise", 4, seed=5)
    assert torch.equal(images.images([2, 0]), expected) and images.labels.tolist() == [0, 1, 2, 3]
    assert images.images([]).shape == (0, *batch.shape[1:])


def test_names():
    assert find(["all"]) == list(CORRUPTIONS) and find(["jpeg", "contrast", "jpeg"]) == ["jpeg", "contrast"]
    with pytest.raises(ValueError, match=r"got 'jpg' \(did you mean jpeg\?\)"):
        find(["jpg"])
    with pytest.raises(ValueError, match="severity: expected 1 to 5; got 6"):
        corrupt(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1).long(), "jpeg", 6)
