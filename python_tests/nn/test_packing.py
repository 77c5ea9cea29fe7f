"""bnn.pack: the packed network against the one it was made from."""

import copy

import pytest
import torch
from networks import SHAPES, make, narrow_birealnet, sign_bits
from torch import Tensor, nn
from torch.nn import functional as F

import bnn
from bnn.nn import BinaryConv2d, BinaryLinear, PackedBinaryConv2d

MODELS = ["reactnet_tiny", "reactnet18", "reactnet_a", "birealnet18"]
USERS = [name for name in SHAPES if name not in MODELS]


def images(name: str, count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *SHAPES[name], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", list(SHAPES))
def test_exact_keeps_every_bit(endpoint_isa, name):
    model = make(name)
    x = images(name, 2 if name in MODELS else 16)
    packed = bnn.pack(model, exact=True)
    (logits, bits), (got, got_bits) = sign_bits(model, x), sign_bits(packed, x)
    assert len(bits) == len(got_bits) > 0
    assert [torch.equal(a, b) for a, b in zip(bits, got_bits, strict=True)] == [True] * len(bits)
    assert torch.equal(logits, got)
    assert logits.std() > 1e-3, "the test says nothing: all logits are alike"


@pytest.mark.parametrize("name", list(SHAPES))
def test_default_is_close(endpoint_isa, name):
    model = make(name)
    x = images(name, 2 if name in MODELS else 64, seed=2)
    (logits, bits), (got, got_bits) = sign_bits(model, x), sign_bits(bnn.pack(model), x)
    flipped = sum(int((a != b).sum()) for a, b in zip(bits, got_bits, strict=True))
    assert flipped <= 2, f"{flipped} of {sum(b.numel() for b in bits)} words differ"
    if not flipped:
        torch.testing.assert_close(got, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


@pytest.mark.parametrize("name", ["reactnet_tiny", *USERS])
def test_every_isa_gives_the_same_logits(name):
    packed, x = bnn.pack(make(name)), images(name, 3, seed=3)
    before = bnn.isa.current()
    try:
        results = {}
        for isa in bnn.isa.available():
            bnn.isa.use(isa)
            results[isa] = packed(x)
    finally:
        bnn.isa.use(before)
    reference = results.pop("reference")
    one = results.get("scalar", reference)  # without the extension there is the reference alone
    assert all(torch.equal(r, one) for r in results.values())
    # torch sums a map in another order: the mean of its 99 to 396 pixels, and so a gate, differs in its last digit
    tolerance = 1e-5 * float(one.abs().max()) if name == "Gated" else 0.0
    torch.testing.assert_close(reference, one, rtol=0, atol=tolerance)


def _train(model: nn.Module, steps: int = 40) -> nn.Module:
    """A few steps on noisy prototypes of ten classes."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    model.train()
    for _ in range(steps):
        x, labels = _batch(64)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model.eval()


_PROTOTYPES = torch.randn(10, 1, 32, 32, generator=torch.Generator().manual_seed(9))


def _batch(count: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(10, (count,))
    return _PROTOTYPES[labels] + 2.5 * torch.randn(count, 1, 32, 32), labels


@pytest.mark.parametrize("name", ["reactnet_tiny", "birealnet"])
def test_trained_networks_keep_their_classes(name):
    """Default packing: class unchanged on at least 99.9 % of images, accuracy within 0.2 points, logits close."""
    model = _train(bnn.models.build(name, 10, 1, 32) if name == "reactnet_tiny" else narrow_birealnet())
    packed = bnn.pack(model)
    same = right = right_packed = total = 0
    far = []
    with torch.no_grad():
        for _ in range(12):
            x, labels = _batch(256)
            a, b = model(x), packed(x)
            same += int((a.argmax(1) == b.argmax(1)).sum())
            right += int((a.argmax(1) == labels).sum())
            right_packed += int((b.argmax(1) == labels).sum())
            far += ((a - b).abs().amax(1) / a.abs().amax()).tolist()
            total += len(labels)
    assert right / total > 0.3, f"the network learned nothing ({right / total:.0%}): the test says nothing"
    assert same >= 0.999 * total, f"{total - same} of {total} classes changed"
    assert abs(right - right_packed) <= 0.002 * total
    close = sum(d < 1e-4 for d in far) / total
    assert close >= 0.99, f"only {close:.1%} of the images have logits within 1e-4 of the largest"


def test_bits_stay_bits():
    """In default mode a binary layer hands words to the next, and floats only where something real reads them."""
    packed = bnn.pack(make("reactnet_tiny"))
    layers = [m for m in packed.modules() if isinstance(m, PackedBinaryConv2d)]
    assert len(layers) == 10 and all(layer.rprelu is not None for layer in layers)
    assert sum(layer.words for layer in layers) >= 9
    assert layers[0].shift is not None and all(layer.shift is None for layer in layers[1:])
    assert not [m for m in packed.modules() if isinstance(m, nn.BatchNorm2d)]


def test_a_stream_that_nothing_reads_is_dropped():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), BinaryConv2d(8, 16, 3), nn.BatchNorm2d(16), BinaryConv2d(16, 5, 1))
    packed = bnn.pack(model.eval())
    first = next(m for m in packed.modules() if isinstance(m, PackedBinaryConv2d))
    assert first.words and not first.stream


def test_the_model_is_left_alone():
    model = make("Plain")
    model.train()
    model[1].eval()  # as when its statistics are frozen
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    packed = bnn.pack(model)
    for parameter in packed.buffers():
        parameter.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert not any(t.requires_grad for t in (*packed.parameters(), *packed.buffers())) and not packed.training


def test_posthoc_is_applied():
    packed, x = bnn.pack(make("Tail")), images("Tail", 3)
    logits = packed(x)
    packed.posthoc = {"temperature": 2.0, "logit_offsets": list(range(10))}
    torch.testing.assert_close(packed(x), logits / 2 + torch.arange(10.0))
    packed.posthoc = {"temperature": 0.5}
    torch.testing.assert_close(packed(x), logits * 2)


def test_copies_and_state_dicts():
    packed, x = bnn.pack(make("Plain")), images("Plain", 2)
    twin = copy.deepcopy(packed)
    other = bnn.pack(make("Plain", seed=1))
    assert torch.equal(twin(x), packed(x)) and not torch.equal(other(x), packed(x))
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other(x), packed(x))


def test_matrices_as_input():
    model = nn.Sequential(nn.Linear(20, 64), BinaryLinear(64, 8)).eval()
    x = torch.randn(5, 20)
    assert torch.equal(bnn.pack(model, exact=True)(x), model(x))


def test_backend_report():
    packed = bnn.pack(make("reactnet_tiny"))
    by_size = {bnn.isa.current()} | ({"avx512"} if bnn.isa.current() == "amx" else set())
    for x, kernels in ((None, {bnn.isa.current()}), (torch.randn(2, 3, 32, 32), by_size)):
        rows = packed.backend_report(x)
        assert len(rows) == len(packed.steps)
        assert {r["kernel"] for r in rows if r["kind"] == "PackedBinaryConv2d"} <= kernels
        assert {r["kernel"] for r in rows if not r["kind"].startswith("PackedBinary")} == {"torch"}
    packed.to("meta")
    assert {r["kernel"] for r in packed.backend_report() if r["kind"] == "PackedBinaryConv2d"} == {"reference"}


class Names(nn.Module):
    """Submodules called like methods of containers."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = BinaryLinear(8, 8), BinaryLinear(8, 8)
        self.pop = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.pop(self.keys(x) + self.values(x))


def test_any_submodule_name():
    model, x = Names().eval(), torch.randn(3, 8)
    assert torch.equal(bnn.pack(model, exact=True)(x), model(x))


class Function(nn.Module):
    """conv, then any function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Mish(), "Mish"),
        (nn.Softplus(), "Softplus"),
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d"),
        (nn.InstanceNorm2d(4), "InstanceNorm2d"),
        (nn.LSTM(4, 4), "LSTM"),
        (bnn.nn.MultiResPool2d([1]), "MultiResPool2d"),
    ],
)
def test_unknown_layer_is_named(layer, name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(layer))
    with pytest.raises(ValueError, match=rf"'1\.0'.*{name}"):
        bnn.pack(model)


@pytest.mark.parametrize(
    "function",
    [
        torch.sigmoid,
        lambda x: x * 2,
        lambda x: x + 1,
        lambda x: torch.add(x, x, alpha=2),
        lambda x: torch.flatten(x, 1, 2),
        lambda x: x.flatten(start_dim=1, end_dim=2),
        lambda x: F.gelu(x),
        lambda x: x.mean(1),
        lambda x: x.mean(),
        lambda x: x[:, 0],
        lambda x: (x, x),
        lambda x: {"y": x},
        lambda x: x if x.sum() > 0 else -x,
    ],
)
def test_unknown_function_is_refused(function):
    with pytest.raises(ValueError):
        bnn.pack(Function(function))


@pytest.mark.parametrize(
    ("layer", "option"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "padding_mode"),
        (nn.AvgPool2d(2, divisor_override=3), "divisor_override"),
        (nn.MaxPool2d(2, return_indices=True), "return_indices"),
        (nn.BatchNorm2d(4, track_running_stats=False), "track_running_stats"),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_options_that_files_cannot_hold_are_refused(layer, option, exact):
    model = nn.Sequential(BinaryConv2d(3, 4, 1), layer, nn.ReLU())
    with pytest.raises(ValueError, match=option):
        bnn.pack(model, exact=exact)


class Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.gain


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a(x) + self.b(y)


def test_other_refusals():
    with pytest.raises(ValueError, match="gain"):
        bnn.pack(Weight())
    with pytest.raises(ValueError, match="input"):
        bnn.pack(Two())
    with pytest.raises(ValueError, match="pack"):
        bnn.pack(nn.Identity())


class InPlace(nn.Module):
    """The convolution reads x before relu changes it; where `alias`, the addition reads the changed one."""

    def __init__(self, alias: bool) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 4, 1), BinaryConv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.relu, self.alias = nn.ReLU(inplace=True), alias

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.conv(x))
        z = self.relu(x)
        return y + x if self.alias else y + z


def test_operations_in_place():
    model, x = InPlace(alias=False).eval(), torch.randn(2, 3, 5, 5)
    for exact in (False, True):
        torch.testing.assert_close(bnn.pack(model, exact=exact)(x), model(x))
    with pytest.raises(ValueError, match="in place"):
        bnn.pack(InPlace(alias=True))
