"""Outputs of a model over a data set."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnn.data import Images


@torch.no_grad()
def predict(
    model: Callable[[Tensor], Tensor],
    images: Images,
    normalize: Callable[[Tensor], Tensor],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """Outputs of `model` for every image in order, in float32, without augmentation.

    Args:
        model: [B, C, H, W] float32 -> [B, K]; a module is put in eval mode and left so.
        images: what to run it on.
        normalize: uint8 batch -> float32 batch.

    Returns:
        outputs float32 [N, K] and labels int64 [N], on the CPU.
    """
    if isinstance(model, nn.Module):
        model.eval()
    outputs, labels = [], []
    for first in range(0, len(images), batch_size):
        batch = images.__getitems__(list(range(first, min(first + batch_size, len(images)))))
        x = normalize(batch["image"].to(device)).to(memory_format=torch.channels_last)
        outputs.append(model(x).float().cpu())
        labels.append(batch["label"].cpu())
    return torch.cat(outputs), torch.cat(labels)
