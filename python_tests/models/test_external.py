"""Networks of torchvision and timm by name, made binary: they train, pack, and say what stayed real."""

import pytest
import torch
from networks import randomize
from torch import nn
from training_step import check_packed, step

import bnn
from bnn.cli import main

EXTERNAL = ["torchvision:resnet18", "timm:test_resnet", "timm:regnetx_002"]


@pytest.mark.parametrize("name", EXTERNAL)
def test_networks_of_other_libraries(name, tmp_path):
    pytest.importorskip(name.split(":")[0])
    torch.manual_seed(0)
    model = bnn.models.build(name, 7, 1, 32)
    assert type(model.classifier) is nn.Linear and model.classifier.in_features == model.feature_dim
    with torch.no_grad():
        for module in model.modules():  # timm starts the last norm of a block at 0
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1.0)
    x = torch.randn(2, 1, 32, 32)
    step(model, x)
    randomize(model).eval()
    with torch.no_grad():
        logits = model(x)
        assert torch.equal(model.classifier(model.features(x)), logits)
        assert torch.equal(bnn.pack(model, exact=True)(x), logits)
    if name == "timm:test_resnet":  # the smallest
        check_packed(model, x, tmp_path)


def test_info_says_what_stayed_real(capsys):
    pytest.importorskip("torchvision")
    assert main(["info", "--model", "torchvision:resnet18", "--image-size", "32"]) == 0
    shown = capsys.readouterr().out
    assert "stays real\n  body.conv1 (Conv2d): reads the network's input" in shown
    assert "body.layer2.0.downsample.0 (Conv2d): 1x1 of stride 2" in shown
    assert "body.layer1.0.relu (ReLU to RPReLU)" in shown
    assert main(["info", "--model", "torchvision:resnet81"]) == 2
    assert "did you mean resnet18" in capsys.readouterr().err


def test_pretrained_is_for_other_libraries(tmp_path, capsys):
    assert main(["train", "plain", "--pretrained", "--out", str(tmp_path / "run")]) == 2
    assert "--pretrained: expected a --model of torchvision or timm" in capsys.readouterr().err
    with pytest.raises(ValueError, match="pretrained: .*not reactnet_tiny"):
        bnn.models.build("reactnet_tiny", 10, pretrained=True)
