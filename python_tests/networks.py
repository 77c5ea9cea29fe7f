"""Networks that people write, for the packing tests: every layer and arrangement that `bnn.pack` has to follow."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnn import ops
from bnn.models import birealnet, build
from bnn.models._classifier import Classifier, stem
from bnn.models.bnext import Block
from bnn.nn import BinaryConv2d, BinaryLinear, Blend, PackedBinaryConv2d, PackedBinaryLinear, RPReLU, RSign


class Plain(nn.Sequential):
    """Real stem, binary convolutions with bias, groups, pad_value, RSign as a module, real head."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 24, 3, 1, 1),
            nn.BatchNorm2d(24),
            BinaryConv2d(24, 32, 3, 1, 1, bias=True, pad_value=1, shift=True),
            nn.BatchNorm2d(32),
            nn.PReLU(32),
            BinaryConv2d(32, 32, 3, 2, 1, groups=4, scale="none", surrogate="clip"),
            nn.BatchNorm2d(32),
            nn.Dropout2d(0.1),
            RSign(32),
            BinaryConv2d(32, 70, (3, 1), 1, (1, 0), pad_value=-1),
            nn.BatchNorm2d(70),
            RPReLU(70),
            BinaryConv2d(70, 70, 3, 1, 2, 2, groups=70, bias=True),  # depthwise, dilated
            nn.BatchNorm2d(70, affine=False),
            nn.Hardtanh(),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(70, 10),
        )


class Matrices(nn.Module):
    """BinaryLinear with BatchNorm1d, RPReLU and shortcuts between matrices; bits stay bits between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(48, 130)
        self.a = BinaryLinear(130, 130, shift=True)
        self.a_norm = nn.BatchNorm1d(130)
        self.a_activation = RPReLU(130)
        self.b = BinaryLinear(130, 65, bias=True, scale="none", surrogate="clip")
        self.b_norm = nn.BatchNorm1d(65)
        self.c = BinaryLinear(65, 33, shift=True)
        self.last = nn.Linear(33, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(torch.flatten(x, start_dim=1))
        x = self.a_activation(self.a_norm(self.a(x)) + x)
        return self.last(self.c(self.b_norm(self.b(x))))


class Branches(nn.Module):
    """One stream read by two binary layers with different shifts and by additions; concatenation; shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 1, 1)
        self.root = BinaryConv2d(32, 32, 1, shift=True)
        self.root_norm = nn.BatchNorm2d(32)
        self.left = BinaryConv2d(32, 32, 3, 1, 1, shift=True)
        self.left_norm = nn.BatchNorm2d(32)
        self.right = BinaryConv2d(32, 32, 1, shift=True)
        self.right_norm = nn.BatchNorm2d(32)
        self.shared = BinaryConv2d(64, 64, 3, 1, 1)
        self.norm = nn.BatchNorm2d(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.root_norm(self.root(x))
        right, left = self.right_norm(self.right(x)), self.left_norm(self.left(x))
        both = left + right
        both += x
        x = torch.cat([both, right], dim=1)
        x = self.norm(self.shared(self.shared(x))) + x + x
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Vectors(nn.Module):
    """Activations and blends of [M, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.binary = nn.Linear(48, 40), BinaryLinear(40, 40, shift=True)
        self.activation, self.blend, self.last = nn.PReLU(40), Blend(40), nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.real(x.flatten(1))
        return self.last(self.blend(self.activation(x), F.relu(self.binary(x))))


class Tail(nn.Module):
    """Ends in a binary layer, whose output is added to a real one: the last step absorbs what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.real = nn.Linear(48, 10)
        self.binary = BinaryLinear(48, 10, shift=True)
        self.norm = nn.BatchNorm1d(10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.real(x) + self.norm(self.binary(x))


class Gated(nn.Sequential):
    """BNext's blocks: gates, blends, element attention, concatenation; and a gate that packing has to leave alone."""

    def __init__(self) -> None:
        blocks = [Block(16, 32, 1, False), Block(32, 64, 2, True), Block(64, 64, 1, False)]
        head = [nn.PReLU(64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
        super().__init__(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), *blocks, Excitation(64), *head)


class Excitation(nn.Module):
    """Squeeze and excitation without a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return self.norm(gate * x)


def narrow_birealnet(in_channels: int = 1) -> nn.Module:
    """Bi-Real net blocks at a sixteenth of the paper's width."""
    blocks = [birealnet.Block(*size) for size in ((32, 32), (32, 64, 2), (64, 64))]
    body = [*stem(in_channels, 32, 32, small_stride=2), *blocks]
    return Classifier(nn.Sequential(*body), 64, 10)


SHAPES: dict[str, tuple[int, int, int]] = {
    "Plain": (3, 12, 12),
    "Matrices": (3, 4, 4),
    "Branches": (3, 9, 7),
    "Tail": (3, 4, 4),
    "Vectors": (3, 4, 4),
    "Gated": (3, 18, 22),
    "reactnet_tiny": (3, 32, 32),
    "reactnet18": (3, 32, 32),
    "reactnet_a": (3, 32, 32),
    "birealnet18": (3, 32, 32),
}


def make(name: str, seed: int = 0) -> nn.Module:
    """A network of SHAPES with statistics, shifts and slopes that are nowhere trivial, in eval mode."""
    torch.manual_seed(seed)
    own = {cls.__name__: cls for cls in (Plain, Matrices, Branches, Tail, Vectors, Gated)}
    return randomize(own[name]() if name in own else build(name, 10, 3, 32), seed).eval()


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norm statistics, affine parameters, biases, shifts and RPReLUs as after training, not as initialized."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor | None, mean: float, std: float) -> None:
        if tensor is not None:
            tensor.normal_(mean, std, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                normal(module.running_mean, 0, 0.5)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
                normal(module.weight, 1, 0.3)  # some are negative
                normal(module.bias, 0, 0.3)
            elif isinstance(module, RPReLU):
                for p in module.parameters():
                    normal(p, 0.2, 0.3)
            elif isinstance(module, BinaryConv2d | BinaryLinear | RSign):
                normal(module.shift, 0, 0.3)
                normal(getattr(module, "bias", None), 0, 0.3)
    return model


def sign_bits(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the words that enter every binary layer in the order of execution, trained or packed."""
    seen: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        value = inputs[0]
        seen.append(value if value.dtype == torch.int64 else ops.bitpack(value, module.shift))

    layers = (BinaryConv2d, BinaryLinear, PackedBinaryConv2d, PackedBinaryLinear)
    hooks = [m.register_forward_pre_hook(record) for m in model.modules() if isinstance(m, layers)]
    try:
        with torch.no_grad():
            return model(x), seen
    finally:
        for hook in hooks:
            hook.remove()


def flips(a: list[Tensor], b: list[Tensor]) -> float:
    """Share of words that differ."""
    assert [t.shape for t in a] == [t.shape for t in b]
    return sum(int((x != y).sum()) for x, y in zip(a, b, strict=True)) / sum(t.numel() for t in a)
