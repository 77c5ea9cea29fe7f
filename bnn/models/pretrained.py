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


def export(run: Path, name: str) -> Path:
    """Ship the network of a run folder as `name`, in float16."""
    from safetensors.torch import load_file, save_file

    state = load_file(run / "model.safetensors")
    path = WEIGHTS / f"{name}.safetensors"
    save_file({k: v.half().contiguous() if v.dtype == torch.float32 else v for k, v in state.items()}, path)
    return path
