"""Networks with the parameter names, shapes and forward passes of published checkpoints, to test the loaders against.

Written from the descriptions of ReActNet (arXiv 2003.03488), Bi-Real net (1808.00278), BNext (2211.12933) and from the
key names of their public checkpoints: plain torch, no layer of bnn.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)


class Bias(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(0.3 * torch.randn(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class SignConv(nn.Module):
    """conv2d(x, scale * sign(w)); the parameter is called `name` and is flat, [numel, 1], or a filter bank."""

    def __init__(self, channels: int, out: int, size: int, stride: int, name: str, flat: bool, scaled: bool) -> None:
        super().__init__()
        self.shape, self.stride, self.size, self.name, self.scaled = (
            (out, channels, size, size),
            stride,
            size,
            name,
            scaled,
        )
        weight = 0.01 * torch.randn(self.shape)
        self.register_parameter(name, nn.Parameter(weight.reshape(-1, 1) if flat else weight))

    def forward(self, x: Tensor) -> Tensor:
        weight = getattr(self, self.name).view(self.shape)
        scale = weight.abs().mean((1, 2, 3), keepdim=True) if self.scaled else 1.0
        return F.conv2d(x, scale * weight.sign(), stride=self.stride, padding=self.size // 2)


class MobileBlock(nn.Module):
    """ReActNet-A's."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()

        def conv(size: int, stride: int) -> SignConv:
            return SignConv(channels, channels, size, stride, "weights", flat=True, scaled=True)

        self.move11, self.binary_3x3, self.bn1 = Bias(channels), conv(3, stride), nn.BatchNorm2d(channels)
        self.move12, self.prelu1, self.move13 = Bias(channels), nn.PReLU(channels), Bias(channels)
        self.move21 = Bias(channels)
        if channels == out:
            self.binary_pw, self.bn2 = conv(1, 1), nn.BatchNorm2d(out)
        else:
            self.binary_pw_down1, self.binary_pw_down2 = conv(1, 1), conv(1, 1)
            self.bn2_1, self.bn2_2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.move22, self.prelu2, self.move23 = Bias(out), nn.PReLU(out), Bias(out)
        self.stride, self.same = stride, channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.binary_3x3(self.move11(x).sign()))
        y = y + (F.avg_pool2d(x, 2) if self.stride == 2 else x)
        y = self.move13(self.prelu1(self.move12(y)))
        bits = self.move21(y).sign()
        if self.same:
            z = self.bn2(self.binary_pw(bits)) + y
        else:
            z = torch.cat([self.bn2_1(self.binary_pw_down1(bits)) + y, self.bn2_2(self.binary_pw_down2(bits)) + y], 1)
        return self.move23(self.prelu2(self.move22(z)))


class First(nn.Module):
    def __init__(self, stride: int, with_prelu: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, stride, 1, bias=False), nn.BatchNorm2d(32)
        if with_prelu:  # in the checkpoints, never called
            self.prelu = nn.PReLU(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x))


class ReActNetA(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        blocks = [MobileBlock(a, b, 2 if b > a and b > 64 else 1) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)]
        self.feature, self.fc = nn.ModuleList([First(2, False), *blocks]), nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.feature:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class ResBlock(nn.Module):
    """Bi-Real net's; with `react` also ReActNet's, whose filters are no longer stored flat."""

    def __init__(self, channels: int, out: int, stride: int, react: bool) -> None:
        super().__init__()
        name = "weight" if react else "weights"
        self.binary_conv = SignConv(channels, out, 3, stride, name, flat=not react, scaled=True)
        self.bn1 = nn.BatchNorm2d(out)
        self.react = react
        if react:
            self.move0, self.move1, self.prelu, self.move2 = Bias(channels), Bias(out), nn.PReLU(out), Bias(out)
        if stride == 2:
            down = (nn.AvgPool2d(2, 2), nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))
            self.downsample = nn.Sequential(*down)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.binary_conv((self.move0(x) if self.react else x).sign()))
        y = y + (self.downsample(x) if self.stride == 2 else x)
        return self.move2(self.prelu(self.move1(y))) if self.react else y


class ResNet(nn.Module):
    def __init__(self, classes: int, react: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for i, width in enumerate((64, 128, 256, 512), start=1):
            blocks = [
                ResBlock(channels if j == 0 else width, width, 2 if i > 1 and j == 0 else 1, react) for j in range(4)
            ]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
            channels = width
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.bn1(self.conv1(x)), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))


class Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        convs = (nn.Conv2d(channels, channels // 8, 1), nn.ReLU(), nn.Conv2d(channels // 8, channels, 1))
        self.se = nn.Sequential(nn.AdaptiveAvgPool2d(1), *convs)

    def forward(self, x: Tensor) -> Tensor:
        return self.se(x).sigmoid()


class Unit(nn.Module):
    """BNext's three units: with element attention, 3x3 without, 1x1."""

    def __init__(self, channels: int, size: int, stride: int, attention: bool) -> None:
        super().__init__()
        self.move = Bias(channels)
        self.binary_activation = nn.Module()
        self.binary_activation.register_buffer("temperature", torch.ones(1))
        self.binary_conv = SignConv(channels, channels, size, stride, "weight", flat=False, scaled=False)
        self.binary_conv.register_buffer("temperature", torch.full((1,), 1e-9))
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.activation1, self.activation2 = (
            nn.PReLU(channels),
            nn.PReLU(channels),
        )  # the first is used by attention alone
        self.se, self.scale = Gate(channels), nn.Parameter(torch.rand(1, channels, 1, 1))
        self.size, self.stride, self.attention = size, stride, attention

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.activation1(x) if self.attention else x
        y = self.activation2(self.norm1(self.binary_conv(self.move(x).sign())))
        if self.stride == 2:
            x, shortcut = F.avg_pool2d(x, 2), F.avg_pool2d(shortcut, 2)
        scale = self.scale.clamp(0, 1) if self.size == 1 else self.scale
        y = self.se(scale * x + (1 - scale) * y) * y
        return self.norm2(y * shortcut if self.attention else y) + shortcut


class BNextBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, attention: bool) -> None:
        super().__init__()
        self.Attention = Unit(channels, 3, stride, attention)
        if channels == out:
            self.FFN = Unit(channels, 1, 1, False)
        else:
            self.FFN_1, self.FFN_2 = Unit(channels, 1, 1, False), Unit(channels, 1, 1, False)
        self.same = channels == out

    def forward(self, x: Tensor) -> Tensor:
        x = self.Attention(x)
        return self.FFN(x) if self.same else torch.cat([self.FFN_1(x), self.FFN_2(x)], 1)


class BNextT(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        body: list[nn.Module] = [First(2 if classes == 1000 else 1, True)]
        for i, (a, b) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False), start=1):
            body.append(BNextBlock(a, b, 2 if b > a and b > 64 else 1, i % 2 == 0))
        self.feature, self.prelu, self.fc = nn.ModuleList(body), nn.PReLU(1024), nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.feature:
            x = block(x)
        return self.fc(self.prelu(x).mean((2, 3)))


BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "reactnet_a": ReActNetA,
    "reactnet18": lambda classes: ResNet(classes, True),
    "birealnet18": lambda classes: ResNet(classes, False),
    "bnext_t": BNextT,
}


def make(name: str, classes: int, seed: int = 0) -> nn.Module:
    """The reference network with statistics of one batch and parameters that are nowhere trivial."""
    torch.manual_seed(seed)
    model = BUILDERS[name](classes)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5), module.bias.normal_(0, 0.3)
                module.momentum = None
            elif isinstance(module, nn.PReLU):
                module.weight.uniform_(-0.1, 0.4)
        model(torch.randn(4, 3, 64, 64))
    return model.eval()
