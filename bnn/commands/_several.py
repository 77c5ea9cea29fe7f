"""What commands that make several runs share."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Flags of a recipe that such a command sets itself
OWN = ("--out", "--resume", "--no-resume", "--overwrite", "--no-overwrite")


@dataclass(frozen=True)
class Step:
    """A recipe, its Config and its run folder."""

    recipe: str
    config: Any
    folder: Path


def check_place(command: str, out: Path, resume: bool, overwrite: bool) -> None:
    """Raise ValueError unless `command` may put its runs into `out`; changes nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{command} is one process: make its runs one by one under torchrun")
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: continue the runs, or start them again")
    if out.is_file():
        raise ValueError(f"{out} is a file: choose another --out")
    if out.exists() and any(out.iterdir()) and not (resume or overwrite):
        raise ValueError(f"{out} exists: add --resume to continue, --overwrite to start again, or another --out")
