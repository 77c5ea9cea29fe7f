"""bnn.save and bnn.load: what goes out comes back, and how large it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import SHAPES, make
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import bnn

CLASSES = [f"class {i}" for i in range(10)]
PREPROCESS = {"size": [32, 32], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "mode": "RGB"}
POSTHOC = {"temperature": 1.7, "logit_offsets": [0.1 * i for i in range(10)]}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", list(SHAPES))
def test_round_trip(tmp_path, name, exact):
    packed = bnn.pack(make(name), exact=exact)
    path = bnn.save(packed, tmp_path / "m.safetensors", CLASSES, PREPROCESS, POSTHOC)
    loaded = bnn.load(path)
    state, again = packed.state_dict(), loaded.state_dict()
    assert list(state) == list(again) and all(torch.equal(v, again[k]) for k, v in state.items())
    assert json.dumps(packed.steps) == json.dumps(loaded.steps)
    assert (loaded.classes, loaded.preprocess, loaded.posthoc) == (CLASSES, PREPROCESS, POSTHOC)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    packed.posthoc = POSTHOC
    x = torch.randn(2, *SHAPES[name])
    assert torch.equal(packed(x), loaded(x))
    second = bnn.save(loaded, tmp_path / "again.safetensors")
    with safe_open(path, "pt") as a, safe_open(second, "pt") as b:
        assert a.metadata() == b.metadata()
        assert all(torch.equal(a.get_tensor(k), b.get_tensor(k)) for k in a.keys())  # noqa: SIM118


def test_loaded_tensors_lie_at_cache_lines(tmp_path):
    """As packed ones do: in a file they lie anywhere, and products of torch may be summed in another order there."""
    path = bnn.save(bnn.pack(make("reactnet_tiny")), tmp_path / "m.safetensors")
    with safe_open(path, "pt") as file:
        assert any(file.get_tensor(k).data_ptr() % 64 for k in file.keys())  # noqa: SIM118
    assert all(t.data_ptr() % 64 == 0 for t in bnn.load(path).state_dict().values())


def test_networks_made_in_inference_mode_are_prepared(tmp_path):
    """Their buffers are no inference tensors, whose changes nobody counts."""
    x = torch.randn(2, *SHAPES["reactnet_tiny"])
    model = make("reactnet_tiny")
    expected = bnn.pack(model)(x)
    with torch.inference_mode():
        packed = bnn.pack(model)
        loaded = bnn.load(bnn.save(packed, tmp_path / "m.safetensors"))
        of_one_made_there = bnn.pack(make("reactnet_tiny"))
        for network in (packed, loaded, of_one_made_there):
            assert not any(t.is_inference() for t in network.buffers())
        assert torch.equal(packed(x), expected) and torch.equal(loaded(x), expected)


def test_optional_entries_stay_away(tmp_path):
    path = bnn.save(bnn.pack(make("Tail")), str(tmp_path / "m.safetensors"))
    with safe_open(path, "pt") as file:
        assert set(file.metadata()) == {"bnn.format", "bnn.layout", "bnn.graph"}
        assert file.metadata()["bnn.format"] == file.metadata()["bnn.layout"] == "1"
        kinds = {file.get_slice(k).get_dtype() for k in file.keys()}  # noqa: SIM118
    assert kinds == {"F32", "I64"}
    loaded = bnn.load(str(path))
    assert loaded.classes is loaded.preprocess is loaded.posthoc is None


def test_save_replaces_and_leaves_no_rest(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_text("old")
    bnn.save(bnn.pack(make("Tail")), path)
    bnn.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = bnn.save(bnn.pack(make("Tail")), tmp_path / "m.safetensors")
    before = path.read_bytes()
    preprocess = ({"crop": 1}, PREPROCESS | {"std": [1, 1, 0]}, PREPROCESS | {"size": "32"})
    posthoc = ({"temperature": -1}, {"other": 1})
    for bad in [{"preprocess": p} for p in preprocess] + [{"posthoc": p} for p in posthoc]:
        with pytest.raises(ValueError):
            bnn.save(bnn.pack(make("Tail")), path, **bad)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(TypeError, match="bnn.pack"):
        bnn.save(make("Tail"), path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_real_layers_may_be_half(tmp_path, dtype):
    """Real tensors in float16 or bfloat16 become float32 again."""
    packed = bnn.pack(make("Plain"))
    path = bnn.save(packed, tmp_path / "m.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file(tensors, path, metadata)
    loaded, x = bnn.load(path), torch.randn(3, *SHAPES["Plain"])
    assert {t.dtype for t in loaded.state_dict().values()} <= {torch.float32, torch.int64}
    assert loaded(x).shape == packed(x).shape and loaded(x).isfinite().all()


def _ratio(path: Path, model: torch.nn.Module) -> float:
    state = model.state_dict().values()
    return sum(t.numel() * t.element_size() for t in state) / path.stat().st_size


def test_size(tmp_path):
    """reactnet18: at most 4.5 MB and a tenth of its fp32 state_dict at 1000 classes, an eighteenth at 100."""
    for classes, least in ((1000, 10), (100, 18)):
        model = bnn.models.build("reactnet18", classes, 3, 224)
        path = bnn.save(bnn.pack(model), tmp_path / f"{classes}.safetensors", [str(i) for i in range(classes)])
        assert path.stat().st_size <= 4.5e6 and _ratio(path, model) >= least, f"{_ratio(path, model):.1f}x"


def test_loading_needs_no_training_code(tmp_path):
    path = bnn.save(bnn.pack(make("reactnet_tiny")), tmp_path / "m.safetensors", CLASSES, PREPROCESS, POSTHOC)
    code = (
        "import sys, torch, bnn\n"
        f"model = bnn.load({str(path)!r})\n"
        "assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)\n"
        "print([m for m in sys.modules if m.startswith(('bnn.training', 'bnn.recipes', 'bnn.losses', 'bnn.data'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.safetensors"):
        bnn.load(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError):
        bnn.load(tmp_path)
