"""Teachers by name: their own colours, size and normalization, weights from files that are really written."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import bnn
from bnn.cli import main
from bnn.models import external
from bnn.models.teachers import Encoder, teacher

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Means(nn.Module):
    """[N, 3, H, W] -> the mean of every channel, and the number of pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), torch.full((len(x), 1), float(x[0, 0].numel()))], 1)


@pytest.mark.parametrize(("mean", "std"), [((0.3,), (0.2,)), ((0.1, 0.2, 0.3), (0.5, 0.4, 0.3))])
def test_normalization_colours_and_size(mean, std):
    body = external.Body(Means(), 4, "fc.", 224, MEAN, STD)
    pixels = torch.rand(2, len(mean), 8, 8)
    shape = (1, -1, 1, 1)
    given = (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    wanted = (pixels.expand(-1, 3, -1, -1) - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    torch.testing.assert_close(Encoder(body, mean, std).prepare(given), wanted)
    larger = Encoder(body, mean, std, 224 / 32)
    assert larger.features(given)[0, 3] == 56 * 56
    enlarged = F.interpolate(wanted, (56, 56), mode="bilinear", align_corners=False)
    torch.testing.assert_close(larger.prepare(given), enlarged, rtol=1e-4, atol=1e-4)


def test_frozen():
    encoder = Encoder(external.Body(nn.Sequential(nn.BatchNorm2d(3)), 3, "fc.", 8, MEAN, STD), MEAN, STD)
    assert not encoder.train().network.training and not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_weights_from_a_file(suffix, tmp_path):
    """The features are those in front of the classifier of the network that was saved, with 7 classes."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(1)
    network, path = torchvision.models.resnet18(num_classes=7).eval(), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, path)
    else:
        save_file(network.state_dict(), path)
    encoder = teacher("torchvision:resnet18", path, MEAN, STD, 32, 48)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = network(F.interpolate(x, (48, 48), mode="bilinear", align_corners=False))
        torch.testing.assert_close(network.fc(encoder.features(x)), expected)
    assert encoder.feature_dim == 512
    assert teacher("torchvision:resnet18", path, MEAN, STD, 32).scale == 7.0
    assert teacher("torchvision:resnet18", path, MEAN, STD, 32, 0).scale == 1.0


@pytest.fixture(scope="module")
def timm_weights(tmp_path_factory: pytest.TempPathFactory):
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=9).state_dict(), path)
    return path


CHANGES = {
    "missing": (lambda state: state.pop("bn1.weight"), "'bn1.weight' is missing"),
    "unknown": (lambda state: state.update(more=torch.ones(1)), "'more' is not of this network"),
    "size": (lambda state: state.update({"bn1.weight": torch.ones(5)}), r"'bn1.weight' is \[5\], expected"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_do_not_fit(timm_weights, change, tmp_path):
    from safetensors.torch import load_file

    state = load_file(timm_weights)
    CHANGES[change][0](state)
    save_file(state, tmp_path / "changed.safetensors")
    with pytest.raises(ValueError, match=f"changed.safetensors does not fit: {CHANGES[change][1]}"):
        teacher("timm:test_resnet", tmp_path / "changed.safetensors", MEAN, STD, 32)


def test_refuses(timm_weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        teacher("timm:test_resnet", tmp_path / "absent.pth", MEAN, STD, 32)
    with pytest.raises(ValueError, match="expected torchvision:NETWORK or timm:NETWORK, got 'resnet18'"):
        teacher("resnet18", None, MEAN, STD, 32)
    with pytest.raises(ValueError, match="the images have 2"):
        teacher("timm:test_resnet", timm_weights, (0.1, 0.2), (1.0, 1.0), 32)
    with pytest.raises(ValueError, match="torchvision:squeezenet1_1 does not end in one linear classifier"):
        external.body("torchvision:squeezenet1_1")


def test_no_download(monkeypatch, tmp_path):
    """Without a network the error says what to do instead; the proxy makes sure that there is none."""
    pytest.importorskip("torchvision")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="weights of torchvision:resnet18 can't be downloaded .*--teacher-weights"):
        teacher("torchvision:resnet18", None, MEAN, STD, 32)


def test_grey_weights_are_the_sum_of_the_colours(monkeypatch):
    """What torchvision's first convolution makes of a grey image in three channels, the new one makes of its one."""
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.resnet18()
    first, x = network.conv1, torch.randn(1, 1, 16, 16)
    external._recolour(network, 1, pretrained=True)
    torch.testing.assert_close(network.conv1(x), first(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="3 channels or 1, got 4"):
        external._recolour(network, 4, pretrained=True)


def test_candle_with_teacher_and_student_by_name(timm_weights, tmp_path, capsys):
    tiny = ["--num-classes", "4", "--n-max", "12", "--imbalance", "4", "--image-size", "16", "--epochs", "1"]
    tiny += ["--device", "cpu", "--precision", "no", "--batch-size", "8", "--calibration-steps", "4"]
    tiny += ["--calibration-views", "0", "--teacher", "timm:test_resnet"]
    given = [*tiny, "--model", "timm:test_resnet", "--teacher-weights", str(timm_weights), "--teacher-size", "32"]
    assert main(["train", "candle", "--out", str(tmp_path / "run"), "--json", *given]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [
        "timm:test_resnet, candle",
        "teacher, calibrated",
    ]
    assert main(["pack", str(tmp_path / "run"), "-o", str(tmp_path / "m.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) and bnn.load(tmp_path / "m.safetensors").classes
    for flags, message in (
        (["--teacher", "timm:reset"], "timm has no network 'reset'"),
        (["--teacher-weights", "absent.pth"], "--teacher-weights: absent.pth is no file"),
        (
            ["--teacher", "glyphs", "--teacher-size", "64"],
            "--teacher-size: expected a --teacher of torchvision or timm",
        ),
        (["--teacher-size", "4"], "--teacher-size: expected 8 pixels or more, or 0"),
    ):
        assert main(["train", "candle", "--out", str(tmp_path / "no"), *tiny, *flags]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
