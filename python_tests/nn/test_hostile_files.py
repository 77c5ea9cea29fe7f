"""bnn.load on files that are broken, foreign or made to do harm: refused with a ValueError that says why."""

import json
import pickle
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from networks import SHAPES, make
from safetensors.torch import save_file

import bnn


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small packed network with grouped, depthwise and linear layers, 10 classes."""
    packed = bnn.pack(make("Plain"))
    preprocess = {"size": [12, 12], "mean": [0.5] * 3, "std": [0.25] * 3, "mode": "RGB"}
    path = tmp_path_factory.mktemp("files") / "good.safetensors"
    return bnn.save(packed, path, list("abcdefghij"), preprocess, {"temperature": 1.5, "logit_offsets": [0.0] * 10})


def read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Metadata with JSON values, tensors."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        versions = ("bnn.format", "bnn.layout")
        metadata = {k: v if k in versions else json.loads(v) for k, v in file.metadata().items()}
        return metadata, {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def write(path: Path, metadata: dict, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path, {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()})
    return path


def refused(path: Path, match: str | None = None) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        bnn.load(path)
    assert path.name in str(caught.value), "the message does not name the file"


def step(metadata: dict, kind: str, /) -> dict:
    return next(s for s in metadata["bnn.graph"]["steps"] if s["kind"] == kind)


def altered(good: Path, tmp_path: Path, change: Callable[[dict, dict], None]) -> Path:
    metadata, tensors = read(good)
    change(metadata, tensors)
    return write(tmp_path / "bad.safetensors", metadata, tensors)


def test_the_good_file_loads(good):
    assert bnn.load(good)(torch.randn(2, *SHAPES["Plain"])).shape == (2, 10)


@pytest.mark.parametrize(
    "pool", [[3], [3, 2, 2], [65, 1, 0], [0, 1, 0], [3, 2, -1], [3, 2, 0.5], [True, True, False], 3, "max", ""]
)
def test_an_8_bit_layer_that_pools_nonsense(tmp_path, pool):
    good = bnn.save(bnn.pack(make("Plain"), dtype=torch.int8), tmp_path / "good.safetensors")

    def change(metadata: dict, tensors: dict) -> None:
        step(metadata, "Int8Conv2d")["args"]["pool"] = pool

    refused(altered(good, tmp_path, change))


@pytest.mark.parametrize("kind", ["Int8Conv2d", "PackedBinaryConv2d"])
@pytest.mark.parametrize("argument, value", [("stride", [1.5, 1]), ("padding", [0.5, 0]), ("kernel_size", [0, 3])])
def test_sizes_that_are_none(tmp_path, kind, argument, value):
    good = bnn.save(bnn.pack(make("Plain"), dtype=torch.int8), tmp_path / "good.safetensors")

    def change(metadata: dict, tensors: dict) -> None:
        step(metadata, kind)["args"][argument] = value

    refused(altered(good, tmp_path, change))


def test_8_bit_weights_of_another_type(tmp_path):
    good = bnn.save(bnn.pack(make("Plain"), dtype=torch.int8), tmp_path / "good.safetensors")
    for dtype in (torch.float32, torch.uint8, torch.int64):

        def change(metadata: dict, tensors: dict, dtype=dtype) -> None:
            name = step(metadata, "Int8Linear")["name"] + ".weight"
            tensors[name] = tensors[name].to(dtype)

        refused(altered(good, tmp_path, change), "the graph says torch.int8")


def test_truncated(good, tmp_path):
    data, path = good.read_bytes(), tmp_path / "short.safetensors"
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for length in {0, 1, 7, 8, 9, 100, header - 1, header, header + 1, len(data) - 1, *range(0, len(data), 997)}:
        path.write_bytes(data[:length])
        refused(path, "safetensors")
    path.write_bytes(data + b"\0")
    refused(path)


def test_other_files(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    refused(path, "not a packed bnn model")
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    refused(path, "not a packed bnn model")
    path.write_bytes(pickle.dumps({"weight": [1, 2, 3]}))
    refused(path, "safetensors")
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    refused(path, "safetensors")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(path)
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    refused(path)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_pickles_are_never_executed(tmp_path):
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path)
    torch.save(Bomb(), path)
    refused(path)


@pytest.mark.parametrize("key", ["bnn.format", "bnn.layout"])
@pytest.mark.parametrize("version", ["2", "0", "", "1.0", "one"])
def test_other_versions(good, tmp_path, key, version):
    refused(altered(good, tmp_path, lambda m, t: m.update({key: version})), f"{key}.*update")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("bnn.future", "{}", "bnn.future"),
        ("other", "x", "other"),
        ("bnn.graph", "{", "JSON"),
        ("bnn.graph", "[" * 100_000, "JSON|graph"),
        ("bnn.graph", [], "graph"),
        ("bnn.graph", {}, "steps"),
        ("bnn.graph", {"steps": []}, "steps"),
        ("bnn.graph", {"steps": [1]}, "steps"),
        ("bnn.graph", {"steps": {}}, "steps"),
        ("bnn.classes", "null,", "JSON"),
        ("bnn.classes", {"a": 1}, "classes"),
        ("bnn.classes", [1, 2], "classes"),
        ("bnn.classes", ["a", "b"], "classes disagree"),
        ("bnn.preprocess", [], "preprocess"),
        ("bnn.preprocess", {"crop": 3}, "preprocess"),
        ("bnn.preprocess", {}, "size"),
        ("bnn.preprocess", {"size": [12], "mean": [0], "std": [1], "mode": "L"}, "size"),
        ("bnn.preprocess", {"size": [12, -1], "mean": [0], "std": [1], "mode": "L"}, "size"),
        ("bnn.preprocess", {"size": [12, 2**40], "mean": [0], "std": [1], "mode": "L"}, "size"),
        ("bnn.preprocess", {"size": "12", "mean": [0], "std": [1], "mode": "L"}, "size"),
        ("bnn.preprocess", {"size": [12, 12], "mean": [0], "std": [1], "mode": "CMYK"}, "mode"),
        ("bnn.preprocess", {"size": [12, 12], "mean": [0], "std": [1], "mode": "RGB"}, "mean"),
        ("bnn.preprocess", {"size": [12, 12], "mean": [0], "std": [0], "mode": "L"}, "std"),
        ("bnn.preprocess", {"size": [12, 12], "mean": ["a"], "std": [1], "mode": "L"}, "mean"),
        ("bnn.classes", "9" * 10_000, "JSON"),
        ("bnn.posthoc", '{"temperature": 1%s}' % ("0" * 400), "temperature"),
        ("bnn.posthoc", {"scale": 2}, "posthoc"),
        ("bnn.posthoc", 3, "posthoc"),
        ("bnn.posthoc", {"temperature": 0}, "temperature"),
        ("bnn.posthoc", {"temperature": "1"}, "temperature"),
        ("bnn.posthoc", '{"temperature": NaN}', "temperature"),
        ("bnn.posthoc", '{"temperature": Infinity}', "temperature"),
        ("bnn.posthoc", {"logit_offsets": [0.0] * 9}, "classes disagree"),
        ("bnn.posthoc", {"logit_offsets": ["a"] * 10}, "logit_offsets"),
        ("bnn.posthoc", {"logit_offsets": 3}, "logit_offsets"),
    ],
)
def test_metadata(good, tmp_path, key, value, match):
    refused(altered(good, tmp_path, lambda m, t: m.update({key: value})), match)


def test_missing_metadata(good, tmp_path):
    for key in ("bnn.format", "bnn.layout", "bnn.graph"):
        refused(altered(good, tmp_path, lambda m, t, key=key: m.pop(key)), key)


def _set(kind: str, /, **args) -> Callable[[dict, dict], None]:
    return lambda m, t: step(m, kind)["args"].update(args)


def _step(kind: str, /, **entries) -> Callable[[dict, dict], None]:
    return lambda m, t: step(m, kind).update(entries)


def _last_conv(metadata: dict) -> dict:
    return [s for s in metadata["bnn.graph"]["steps"] if s["kind"] == "PackedBinaryConv2d"][-1]


GRAPHS = {
    "unknown kind": (_step("MaxPool2d", kind="Softmax"), "Softmax"),
    "kind of python": (_step("MaxPool2d", kind="os.system"), "os.system"),
    "kind is a list": (_step("MaxPool2d", kind=[]), "kind"),
    "kind is null": (_step("MaxPool2d", kind=None), "kind"),
    "step with more keys": (_step("MaxPool2d", future=1), "future"),
    "step with fewer keys": (lambda m, t: step(m, "MaxPool2d").pop("args"), "keys"),
    "name is a number": (_step("MaxPool2d", name=3), "name"),
    "name is empty": (_step("MaxPool2d", name=""), "name"),
    "name has a dot": (_step("MaxPool2d", name="a.b"), "name"),
    "name is the input": (_step("MaxPool2d", name="input"), "name"),
    "name of a method": (_step("Linear", name="pop"), "pop|tensor"),
    "name twice": (lambda m, t: m["bnn.graph"]["steps"][2].update(name=m["bnn.graph"]["steps"][1]["name"]), "name"),
    "undefined value": (_step("MaxPool2d", inputs=["nowhere"]), "nowhere"),
    "value of a later step": (_step("MaxPool2d", inputs=["_19"]), "_19"),
    "words of a layer without": (_step("MaxPool2d", inputs=["_1#words"]), "#words"),
    "no inputs": (_step("MaxPool2d", inputs=[]), "inputs"),
    "inputs is a string": (_step("MaxPool2d", inputs="input"), "inputs"),
    "inputs of numbers": (_step("MaxPool2d", inputs=[1]), "inputs"),
    "too many inputs": (_step("Flatten", inputs=["input", "input"]), "inputs"),
    "args is a list": (_step("MaxPool2d", args=[]), "args"),
    "missing arg": (lambda m, t: step(m, "Linear")["args"].pop("bias"), "bias"),
    "unknown arg": (_set("Linear", device="cuda"), "device"),
    "nested arg": (_set("Linear", bias=[[1]]), "args"),
    "arg is an object": (_set("Linear", bias={"a": 1}), "args"),
    "long list": (_set("MaxPool2d", kernel_size=[1] * 5), "args"),
    "string for a size": (_set("PackedBinaryConv2d", kernel_size="33"), "network|tensor"),
    "null for a size": (_set("PackedBinaryConv2d", in_channels=None), "network|tensor"),
    "float for a size": (_set("PackedBinaryConv2d", out_channels=32.5), "network|tensor"),
    "no channels": (_set("PackedBinaryConv2d", in_channels=0), "in_channels"),
    "negative channels": (_set("PackedBinaryConv2d", in_channels=-1), "network"),
    "no groups": (_set("PackedBinaryConv2d", groups=0), "groups"),
    "negative groups": (_set("PackedBinaryConv2d", groups=-1), "groups"),
    "groups that don't divide": (_set("PackedBinaryConv2d", groups=5), "groups"),
    "pad value": (_set("PackedBinaryConv2d", pad_value=2), "pad_value"),
    "stride of 0": (_set("PackedBinaryConv2d", stride=[0, 1]), "stride"),
    "three strides": (_set("PackedBinaryConv2d", stride=[1, 1, 1]), "stride"),
    "negative padding": (_set("PackedBinaryConv2d", padding=[-1, 0]), "padding"),
    "no output": (_set("PackedBinaryConv2d", stream=False, words=False), "stream and words|reads"),
    "conv without groups": (_set("Conv2d", groups=0), "network"),
    "other channels": (_set("PackedBinaryConv2d", out_channels=33), "tensor"),
    "other width": (_set("Linear", in_features=71), "tensor"),
    "tensor without its flag": (_set("PackedBinaryConv2d", has_rprelu=False), "rprelu"),
    "flag without its tensor": (lambda m, t: _last_conv(m)["args"].update(has_rprelu=True), "rprelu"),
}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_graph(good, tmp_path, name):
    change, match = GRAPHS[name]
    refused(altered(good, tmp_path, change), match)


def test_functions_with_wrong_arguments(tmp_path):
    path = bnn.save(bnn.pack(make("Branches")), tmp_path / "good.safetensors")
    for kind, entries, match in (("cat", {"args": {}}, "args"), ("cat", {"args": {"dim": 1, "out": 1}}, "out"),
                                 ("add", {"args": {"alpha": 2}}, "alpha"), ("relu", {"inputs": ["stem"] * 2}, "inputs"),
                                 ("flatten", {"args": {"end_dim": 1}}, "end_dim")):  # fmt: skip
        refused(altered(path, tmp_path, _step(kind, **entries)), match)
    one = altered(path, tmp_path, lambda m, t: step(m, "add").update(inputs=step(m, "add")["inputs"][:1]))
    refused(one, "inputs")


def _layers(metadata: dict, count: int) -> list[dict]:
    return [step(metadata, "Linear") | {"name": f"n{i}", "inputs": ["input"]} for i in range(count)]


HUGE = {
    "conv": _set("PackedBinaryConv2d", in_channels=2**30, out_channels=2**30),
    "filter": _set("PackedBinaryConv2d", kernel_size=[2**20, 2**20]),
    "linear": _set("Linear", in_features=2**31 - 1, out_features=2**31 - 1),
    "shifts": _set("RSign", channels=2**31 - 1),
    "real conv": _set("Conv2d", in_channels=2**30, out_channels=2**30),
    "beyond 64 bits": _set("Linear", in_features=2**70),
    "many steps": lambda m, t: m["bnn.graph"]["steps"].extend(_layers(m, 10_001)),
    "many layers": lambda m, t: m["bnn.graph"]["steps"].extend(_layers(m, 9_000)),
}


@pytest.mark.parametrize("name", list(HUGE))
def test_huge_sizes_allocate_nothing(good, tmp_path, name):
    path = altered(good, tmp_path, HUGE[name])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    refused(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 300_000 if name.startswith("many") else grown < 50_000, f"{grown / 1024:.0f} MiB for a refusal"
    assert time.perf_counter() - start < 20


def test_tensors(good, tmp_path):
    names = sorted(read(good)[1])
    words = next(n for n in names if read(good)[1][n].dtype == torch.int64)
    real = next(n for n in names if read(good)[1][n].dtype == torch.float32)
    for change, match in (
        (lambda m, t: t.pop(words), f"{words}.*missing"),
        (lambda m, t: t.update({"extra": torch.zeros(1)}), "extra"),
        (lambda m, t: t.update({words: t[words][:-1].clone()}), words),
        (lambda m, t: t.update({words: t[words].unsqueeze(0)}), words),
        (lambda m, t: t.update({words: t[words].float()}), words),
        (lambda m, t: t.update({words: t[words].int()}), words),
        (lambda m, t: t.update({real: t[real].double()}), real),
        (lambda m, t: t.update({real: t[real].long()}), real),
        (lambda m, t: t.update({real: torch.zeros(0)}), real),
    ):
        refused(altered(good, tmp_path, change), match)


def test_stray_bits(good, tmp_path):
    """Bits beyond the channels would be counted by the kernels."""
    _, tensors = read(good)
    words = [n for n, t in tensors.items() if t.dtype == torch.int64 and t.dim() == 4]
    assert len(words) == 4
    for name in words:
        for bit in (62, 63):
            change = lambda m, t, n=name, b=bit: t[n].view(-1)[-1:].bitwise_or_(-(2**63) if b == 63 else 1 << b)  # noqa: E731
            refused(altered(good, tmp_path, change), "bits set")


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(good, tmp_path, seed):
    """Flipped bytes: the file loads or is refused; what loads runs or raises; nothing crashes."""
    random, data = Random(seed), good.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    path, outcomes = tmp_path / "fuzz.safetensors", {"loaded": 0, "refused": 0}
    for i in range(150):
        broken = bytearray(data)
        for _ in range(random.choice((1, 1, 2, 8))):
            broken[random.randrange(header if i % 4 else len(data))] = random.randrange(256)
        path.write_bytes(broken)
        try:
            model = bnn.load(path)
        except ValueError:
            outcomes["refused"] += 1
            continue
        outcomes["loaded"] += 1
        try:
            model(torch.randn(1, *SHAPES["Plain"]))
        except (RuntimeError, ValueError, TypeError, IndexError):
            pass
    assert outcomes["refused"] > 50 and outcomes["loaded"] > 5, outcomes
