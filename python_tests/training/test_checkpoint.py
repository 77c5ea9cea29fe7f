import os

import pytest
import torch

from bnn.training import checkpoint


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = {"epoch": 3, "finished": False, "modules": {"w": torch.randn(3, 4).to(torch.bfloat16)}, "names": ["a"]}
    checkpoint.save(tmp_path / "a.pt", state)
    back = checkpoint.load(tmp_path / "a.pt")
    assert back["epoch"] == 3 and back["names"] == ["a"]
    assert torch.equal(back["modules"]["w"], state["modules"]["w"])


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint.write_text(tmp_path / "a.json", "old")

    def crash(*_):
        raise OSError("power failure")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power failure"):
        checkpoint.write_text(tmp_path / "a.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = tmp_path / "distil.pt"
    checkpoint.save(path, {"w": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"distil\.pt is no readable checkpoint, delete it"):
        checkpoint.load(path)


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"modules": Trap()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="no readable checkpoint"):
        checkpoint.load(tmp_path / "a.pt")
    assert not (tmp_path / "executed").exists()
