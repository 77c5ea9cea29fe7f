"""`bnn pack RUN -o FILE`: write a run as one packed file and compare it with the training model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

import bnn
from bnn import metrics
from bnn.commands._load import Target, open_target
from bnn.commands._parse import as_json, parse
from bnn.commands.eval import data_for
from bnn.training.predict import predict


@dataclass(frozen=True)
class Config:
    """Write a run as one packed file; prints its size and how many test images change class."""

    run: tyro.conf.Positional[str]
    """Run folder."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write."""
    exact: bool = False
    """Keep the training model's order of float32 operations: every bit equal, a little slower."""
    dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    """Of real layers and of the stream between binary ones; bfloat16 is faster where the processor multiplies it, int8
    (real layers in 8 bits, the stream in float16) faster still on a CPU with AVX2."""
    overwrite: bool = False
    """Replace the file if it is there."""


def main(argv: list[str]) -> int:
    """Pack, compare, print."""
    rest, wants_json = as_json(argv)
    config = parse(Config, rest, "bnn pack")
    if not Path(config.run).is_dir():
        raise FileNotFoundError(f"{config.run}: no such run folder")
    facts = pack_run(
        open_target(config.run), config.output, exact=config.exact, dtype=config.dtype, overwrite=config.overwrite
    )
    if wants_json:
        print(json.dumps(facts, indent=2))
    else:
        print(describe(facts))
    return 0


def pack_run(
    target: Target, output: Path, *, exact: bool = False, dtype: str = "float32", overwrite: bool = False
) -> dict[str, Any]:
    """Write `target` to `output`; returns sizes in bytes, flips, and the figures on the test split before and after.

    Raises:
        ValueError: the file exists and `overwrite` is False, or it is a folder.
    """
    if output.is_dir() or (output.exists() and not overwrite):
        raise ValueError(f"{output} exists: choose another -o" + ("" if output.is_dir() else ", or add --overwrite"))
    output.parent.mkdir(parents=True, exist_ok=True)
    data = data_for(target, {})
    packed = bnn.pack(target.model, exact=exact, dtype=getattr(torch, dtype))
    bnn.save(packed, output, classes=target.classes, preprocess=target.preprocess.to_dict(), posthoc=target.posthoc)

    images, normalize = data.splits["test"], target.preprocess.normalize
    before, labels = predict(target.forward, images, normalize)
    after, _ = predict(bnn.load(output), images, normalize)
    flips = int((before.argmax(1) != after.argmax(1)).sum())
    return {
        "file": str(output),
        "bytes": output.stat().st_size,
        "training_bytes": (target.path / "model.safetensors").stat().st_size,
        "exact": exact,
        "dtype": dtype,
        "images": len(labels),
        "flips": flips,
        "same_class": 100 * (1 - flips / len(labels)),
        "largest_logit_difference": torch.max((before - after).abs()).item(),
        "before": metrics.evaluate(before, labels, data.class_counts),
        "after": metrics.evaluate(after, labels, data.class_counts),
    }


def describe(facts: dict[str, Any]) -> str:
    """The facts of `pack_run` for people."""
    ratio = facts["training_bytes"] / facts["bytes"]
    before, after = facts["before"], facts["after"]
    change = after["accuracy"] - before["accuracy"]
    return "\n".join(
        [
            f"file          {facts['file']}",
            f"size          {facts['bytes'] / 1e6:.3f} MB, {ratio:.1f} times below the training weights",
            f"same class    {facts['same_class']:.2f} % of {facts['images']} test images ({facts['flips']} flips)",
            f"accuracy      {before['accuracy']:.2f} -> {after['accuracy']:.2f} % ({change:+.2f} points)",
            f"ECE           {before['ece']:.2f} -> {after['ece']:.2f} %",
            f"logits        differ by at most {facts['largest_logit_difference']:.2g}",
        ]
    )
