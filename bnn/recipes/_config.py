"""Fields that recipes share. A Config is a flat frozen dataclass; every field is a flag of `bnn train`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

# A flag --from, a field from_run: the keyword `from` can't name a field.
From = Annotated[str | None, tyro.conf.arg(name="from", metavar="RUN")]


@dataclass(frozen=True)
class RunConfig:
    """Where a run stands and on what it computes."""

    out: Path | None = None
    """Run folder; default runs/RECIPE-DATA-sSEED."""
    resume: bool = False
    """Continue the run in the folder."""
    overwrite: bool = False
    """Delete the run in the folder first."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: CUDA if there is one."""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    """Where all figures go beside metrics.jsonl; wandb: with WANDB_MODE=offline into the run folder."""


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Data, network and optimization of a recipe that trains."""

    data: str = "glyphs"
    """Data set: glyphs, digits, folder:PATH, torchvision:NAME, lists:DIR or hf:NAME."""
    data_root: Path | None = None
    """Where the files lie: of torchvision (default ~/.cache/bnn), of lists (DIR), of hf (its own cache)."""
    download: bool = False
    """Fetch a data set of torchvision or hf that is not there."""
    draw: int = 0
    """Seed of the classes and their order."""
    image_size: int = 32
    """Side of the images, pixels."""
    num_classes: int | None = None
    """Number of classes, glyphs only; default 100."""
    profile: Literal["exponential", "step"] = "exponential"
    """Shape of the long tail."""
    imbalance: float | None = None
    """Images of the largest class over those of the smallest; default 100 for glyphs and digits, else as it is."""
    n_max: int | None = None
    """Training images of the largest class; default 200 for glyphs, else as many as there are."""
    fonts: str | None = None
    """Folder of more fonts to train on, glyphs only."""
    mirror: Literal["auto", "yes", "no"] = "auto"
    """Mirror half of the training images; auto: folders and photographs yes, characters, digits, traffic signs no."""
    model: str = "reactnet_tiny"
    """Network: a name known to bnn.models, or torchvision:NETWORK or timm:NETWORK, made binary."""
    pretrained: bool = False
    """Start a network of torchvision or timm from the weights published with it."""
    seed: int = 0
    """Seed of weights, batches and augmentation."""
    epochs: int = 24
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step, over all processes together."""
    lr: float = 2.5e-3
    """Learning rate at the first step; falls to 0 along half a cosine."""
    weight_decay: float = 0.0
    """Weight decay, 1 / step / learning rate."""
    precision: Literal["auto", "bf16", "no"] = "auto"
    """Autocast: bf16 or no (float32); auto: bf16 where the processor has it."""


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The fields for config.json; `from_run` becomes "from", paths become strings, tuples lists."""
    fields = {("from" if name == "from_run" else name): value for name, value in asdict(config).items()}
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def require(condition: bool, flag: str, expected: str, got: Any) -> None:
    """Raise ValueError about a flag unless `condition` holds."""
    if not condition:
        raise ValueError(f"--{flag}: expected {expected}; got {got!r}")
