"""Files that are there whole or not at all, and the checkpoint of a phase."""

import io
import os
from pathlib import Path

import torch


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the new name itself must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def save(path: Path, state: dict) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) for `load`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load(path: Path) -> dict:
    """Read what `save` wrote, tensors on the CPU; executes nothing from the file.

    Raises:
        ValueError: the file is not a checkpoint.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as problem:  # zip, pickle and struct errors, by torch version
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(f"{path} is no readable checkpoint, delete it to begin its phase again: {reason}") from None
