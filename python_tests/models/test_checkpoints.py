"""Published checkpoint formats: files with their keys and shapes, against networks that compute what these mean."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from models import published
from torch import Tensor, nn

from bnn.models import birealnet, bnext, reactnet
from bnn.models.checkpoints import load_published, read_state

NAMES = {"reactnet_a": 13, "reactnet18": 16, "birealnet18": 16, "bnext_t": 31}  # blocks; of BNext units, 13 + 8 + 2 x 5
CLASSES = 5
# Theirs and ours, in the same order
BLOCKS = (
    published.MobileBlock, published.ResBlock, published.Unit, reactnet.MobileBlock, reactnet.Block, birealnet.Block,
    bnext.Unit,
)  # fmt: skip


@pytest.fixture(scope="module")
def references() -> dict[str, nn.Module]:
    return {name: published.make(name, CLASSES) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_function(references, name, tmp_path):
    """Block by block. The wrapper and the prefix are those of the authors' training scripts."""
    reference, path = references[name], tmp_path / "model_best.pth.tar"
    state = {f"module.{key}": value for key, value in reference.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "best_top1_acc": torch.tensor(69.4)}, path)
    model = load_published(name, path)
    assert not model.training
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    theirs, ours = ([m for m in net.modules() if type(m) in BLOCKS] for net in (reference, model))
    inputs = [record(block) for block in theirs]
    with torch.no_grad():
        expected = reference(x)
        for block, seen in zip(ours, inputs, strict=True):
            block.register_forward_pre_hook(partial(go_on_with, seen))
        found = model(x)
    assert expected.std() > 0.05 and len(ours) == NAMES[name]
    check(found, expected)


def record(block: nn.Module) -> list[Tensor]:
    """Filled with what the block reads when it runs."""
    seen: list[Tensor] = []
    block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def go_on_with(seen: list[Tensor], _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """What the block before made is what theirs made; from there on the same, or rounding would move signs."""
    check(inputs[0], seen[0])
    return (seen[0],)


def check(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.fixture
def keys() -> Callable[[str], dict[str, Tensor]]:
    """Keys and shapes of a reference; the values are all the same, and take no space in a file."""

    def state(name: str) -> dict[str, Tensor]:
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in published.BUILDERS[name](CLASSES).state_dict().items()}
        small = torch.tensor(1e-9)  # also the temperature of weights that are binary
        return {key: small.expand(shape) for key, shape in shapes.items()}

    return state


def save(state: dict, path: Path) -> Path:
    torch.save(state, path)
    return path


CHANGES = {
    "missing": (lambda s: s.pop("feature.3.move12.bias"), "'feature.3.move12.bias' is missing"),
    "unknown": (lambda s: s.update({"feature.3.extra": torch.zeros(1)}), "unknown key 'feature.3.extra'"),
    "size": (lambda s: s.update({"feature.1.bn1.weight": torch.ones(33)}), r"'feature.1.bn1.weight' .*\[33\].*\[32\]"),
    "bias": (lambda s: s.update({"feature.1.binary_3x3.bias": torch.ones(32)}), "'feature.1.binary_3x3.bias'"),
    "zero": (
        lambda s: s.update({"feature.2.binary_3x3.weights": torch.zeros(1).expand(64 * 64 * 9, 1)}),
        "'feature.2.binary_3x3.weights' .*exactly 0",
    ),
    "head": (lambda s: s.pop("fc.weight"), "'fc.weight'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_is_named(keys, change, tmp_path):
    state = keys("reactnet_a")
    CHANGES[change][0](state)
    with pytest.raises(ValueError, match=CHANGES[change][1]):
        load_published("reactnet_a", save(state, tmp_path / "x.pth"))


def test_step_one_of_reactnet_a_is_refused(keys, tmp_path):
    """Its weights are real, under `weight`."""
    state = {k.replace(".weights", ".weight"): v for k, v in keys("reactnet_a").items()}
    with pytest.raises(ValueError, match=r"'feature.1.binary_3x3.weights' is missing"):
        load_published("reactnet_a", save(state, tmp_path / "x.pth"))


def test_bnext_that_is_not_binary_yet(keys, tmp_path):
    state = keys("bnext_t")
    load_published("bnext_t", save(state, tmp_path / "x.pth"))
    state["feature.4.FFN.binary_conv.temperature"] = torch.full((1,), 0.5)
    with pytest.raises(ValueError, match="'feature.4.FFN.binary_conv.temperature' is 0.5"):
        load_published("bnext_t", save(state, tmp_path / "x.pth"))


def test_another_networks_file(keys, tmp_path):
    path = save(keys("birealnet18"), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no published checkpoint of reactnet18.*missing"):
        load_published("reactnet18", path)
    with pytest.raises(ValueError, match="reactnet_a, reactnet18, birealnet18, bnext_t; got 'reactnet_tiny'"):
        load_published("reactnet_tiny", path)


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


def test_files_are_data(tmp_path, capsys):
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth can't be read as a state dict"):
        read_state(tmp_path / "evil.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    with pytest.raises(ValueError, match="cut.safetensors can't be read"):
        read_state(tmp_path / "cut.safetensors")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ValueError, match="text.pth can't be read"):
        read_state(tmp_path / "text.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth holds no state dict"):
        read_state(tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        read_state(tmp_path / "absent.pth")
    assert "executed" not in capsys.readouterr().out
