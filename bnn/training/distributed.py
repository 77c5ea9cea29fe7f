"""Several processes that compute what one would: batch statistics and means over all of them."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_across(value: Tensor) -> Tensor:
    """Mean of `value` over the processes, without gradient; `value` itself with one process."""
    value = value.detach()
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world_size()


class _SumAcross(torch.autograd.Function):
    """y = sum over processes of x. Its gradient is the sum over processes of the gradients of y."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class SyncBatchNorm(_BatchNorm):
    """Batch normalization over the batches of all processes; also on the CPU, where torch's SyncBatchNorm refuses.

    y = (x - mean) / sqrt(var + eps) * weight + bias, per channel (dim 1), mean and biased variance over all other dims
    and all processes, in float32 or float64; running statistics as in torch.nn.BatchNorm2d. Two passes (mean, then
    squared deviations) rather than E[x^2] - E[x]^2: the result agrees with the one-process layer to rounding.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"SyncBatchNorm: expected [N, C, ...], got shape {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        others = [d for d in range(x.dim()) if d != 1]
        per_channel = [1, -1] + [1] * (x.dim() - 2)
        count = x.new_tensor([x.numel() // x.shape[1]], dtype=wide.dtype)
        totals = _SumAcross.apply(torch.cat([wide.sum(others), count]))
        mean, count = totals[:-1] / totals[-1], totals[-1].detach()
        centered = wide - mean.view(per_channel)
        var = _SumAcross.apply(centered.square().sum(others)) / count
        self._track(mean.detach(), var.detach(), count)
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        y = centered * scale.view(per_channel)
        if self.bias is not None:
            y = y + self.bias.view(per_channel)
        return y.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), momentum)


def synchronize_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch norm inside `module` compute over all processes; parameters, buffers and names stay.

    Nothing changes with one process. On CUDA torch's own layer is used.
    """
    if world_size() == 1:
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm):
            setattr(module, name, _converted(child))
        else:
            synchronize_batch_norm(child, device)
    return module


def _converted(layer: _BatchNorm) -> SyncBatchNorm:
    twin = SyncBatchNorm(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    twin.weight, twin.bias = layer.weight, layer.bias  # the same objects: an optimizer keeps its hold on them
    twin.running_mean, twin.running_var = layer.running_mean, layer.running_var
    twin.num_batches_tracked = layer.num_batches_tracked
    twin.training = layer.training
    return twin
