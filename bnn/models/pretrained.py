"""The weights that ship with the package."""

from pathlib import Path

import torch
from torch import nn

WEIGHTS = Path(__file__).parent / "weights"


def pretrained(name: str) -> nn.Module:
    """A network with shipped weights, in eval mode and float32.

    Args:
        name: "glyph_teacher": `resnet_tiny` trained on the 600 source classes of `glyphs` (1 x 32 x 32 images).

    Raises:
        ValueError: an unknown name; the known ones are listed.
    """
    from safetensors import safe_open

    from bnn.models.resnet import resnet_tiny

    known = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))
    if name not in known:
        raise ValueError(f"no shipped weights {name!r}, expected one of {known}")
    with safe_open(WEIGHTS / f"{name}.safetensors", framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  safe_open is no mapping
    model = resnet_tiny(state["classifier.weight"].shape[0], state["body.0.weight"].shape[1])
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval().requires_grad_(False)


def export(model: nn.Module, name: str) -> Path:
    """Write a network's weights as float16 where `pretrained` finds them."""
    from safetensors.torch import save_file

    path = WEIGHTS / f"{name}.safetensors"
    half = {k: v.half() if v.dtype == torch.float32 else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in half.items()}, path)
    return path
