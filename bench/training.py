"""A training step of reactnet_tiny on the fused ops, against the same network with eager straight-through signs."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench._harness import Call, Case, Cpu, Work, save_rows
from bnn import models
from bnn.nn import BinaryConv2d

BATCH, CLASSES, EDGE = 128, 100, 32


class EagerSign(torch.autograd.Function):
    """The usual hand-written form: sign forward, surrogate backward, the input kept."""

    @staticmethod
    def forward(ctx, x: Tensor, surrogate: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return torch.where(x < 0, -1.0, 1.0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.surrogate == "clip":
            return grad * (x.abs() <= 1), None
        return grad * (2 - 2 * x.abs()).clamp_min(0), None


class EagerBinaryConv2d(BinaryConv2d):
    """`BinaryConv2d` as separate torch operations."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        x = x if self.shift is None else x + self.shift.to(x.dtype).view(1, -1, 1, 1)
        weight = EagerSign.apply(self.weight, "clip")
        if self.scale == "mean":
            weight = weight * self.weight.detach().abs().mean((1, 2, 3), keepdim=True)
        weight = weight.to(x.dtype)
        return F.conv2d(
            EagerSign.apply(x, self.surrogate), weight, None, self.stride, self.padding, self.dilation, self.groups
        )


def network(surrogate: str, eager: bool) -> nn.Module:
    """reactnet_tiny for gray 32 x 32 images, channels-last."""
    torch.manual_seed(0)
    model = models.build("reactnet_tiny", CLASSES, 1, EDGE)
    for module in model.modules():
        if isinstance(module, BinaryConv2d):
            module.surrogate = surrogate
            module.__class__ = EagerBinaryConv2d if eager else BinaryConv2d
    return model.to(memory_format=torch.channels_last)


def _step(model: nn.Module, dtype: torch.dtype, device: str) -> Call:
    model = model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x = torch.randn(BATCH, 1, EDGE, EDGE, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(CLASSES, (BATCH,), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            loss = F.cross_entropy(model(x).float(), y)
        loss.backward()
        optimizer.step()

    return step


def cases(device: str) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        for surrogate in ("clip", "polynomial"):
            ours, eager = (_step(network(surrogate, e), dtype, device) for e in (False, True))
            text = f"reactnet_tiny N{BATCH} {surrogate} {str(dtype)[6:]}"
            yield Case("training step", text, Work(ours, macs=3 * BATCH * 21_233_664), {"eager": eager})


def saved_bytes(surrogate: str, eager: bool) -> int:
    """Bytes that the binary layers keep between forward and backward, float32, without the parameters themselves."""
    model = network(surrogate, eager)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    total, inside = 0, False
    seen: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage().data_ptr()
        if inside and storage not in parameters and storage not in seen:
            seen.add(storage)
            total += tensor.nbytes
        return tensor

    def enter(*_) -> None:
        nonlocal inside
        inside = True

    def leave(*_) -> None:
        nonlocal inside
        inside = False

    for module in model.modules():
        if isinstance(module, BinaryConv2d):
            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        alive = model(torch.randn(BATCH, 1, EDGE, EDGE).contiguous(memory_format=torch.channels_last))
    del alive
    return total


def show_saved_bytes(save: str | None = None) -> None:
    for surrogate in ("clip", "polynomial"):
        ours, eager = (saved_bytes(surrogate, e) for e in (False, True))
        text = f"reactnet_tiny N{BATCH} {surrogate} float32"
        print(f"{'saved for backward':<26} {text:<44} {ours / 2**20:>7.2f} MiB {eager / 2**20:>7.2f} MiB "
              f"{ours / eager:>9.3f}  of the eager form")  # fmt: skip
        row = {"op": "saved for backward", "shape": text, "bytes": ours, "torch_bytes": eager}
        save_rows(save, [row], Cpu().facts())
