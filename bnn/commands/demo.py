"""`bnn demo`: the whole story on glyphs: baselines, CANDLE, Prior2Posterior, packing, prediction."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional as F

from bnn import models
from bnn.commands._load import Target, open_target
from bnn.commands._parse import as_json, continuation, parse
from bnn.commands.eval import data_for
from bnn.commands.pack import describe, pack_run
from bnn.commands.predict import describe as describe_prediction
from bnn.commands.predict import predict_files
from bnn.data import Data
from bnn.recipes import candle, p2p, plain
from bnn.recipes._report import markdown
from bnn.training.checkpoint import write_text

COLUMNS = ("mean", "many", "medium", "few", "ece", "size MB")
NOTE = """\
mean: mean class accuracy on test images in fonts never trained on, %. many, medium, few: classes with more than 100,
20 to 100, fewer than 20 training images. ece: expected calibration error, %. One seed, one draw of classes.
The shipped teacher was trained on 36,000 images of 600 other characters; the first two students saw the long tail only.
"""


@dataclass(frozen=True)
class Config:
    """Train three 1-bit students on long-tailed glyphs, calibrate, pack and use the best; minutes on two cores."""

    out: Path = Path("bnn-demo")
    """Folder for runs, plots and the packed model."""
    epochs: int = 12
    """Passes over the training images for each student."""
    draw: int = 0
    """Seed of the classes."""
    seed: int = 0
    """Seed of weights, batches and augmentation."""
    num_classes: int = 100
    """Characters to tell apart."""
    teacher: str = "glyphs"
    """glyphs (the network that ships with bnn) or the folder of a run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    resume: bool = False
    """Continue an interrupted demo."""
    overwrite: bool = False
    """Start again in an existing folder."""


def main(argv: list[str]) -> int:
    """Run the demo and print its table."""
    rest, wants_json = as_json(argv)
    config = parse(Config, rest, "bnn demo")
    if config.out.exists() and any(config.out.iterdir()) and not (config.resume or config.overwrite):
        raise ValueError(f"{config.out} exists: add --resume to continue, --overwrite to start again, or another --out")
    if config.teacher == "glyphs":
        models.pretrained("glyph_teacher")  # a build without the weights fails here, not after the first student
    try:
        rows, epilogue = tell(config)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; continue with: {continuation(['demo', *argv])}") from None
    table = markdown(rows, COLUMNS)
    write_text(config.out / "table.md", table + "\n" + NOTE)
    print(json.dumps(rows, indent=2) if wants_json else f"\n{table}\n{NOTE}\n{epilogue}")
    return 0


def tell(config: Config) -> tuple[list[dict[str, Any]], str]:
    """All steps in order; returns the rows of the table and what to print below it."""
    say = _narrator(total=5)
    common: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("epochs", "draw", "seed", "num_classes", "device", "resume", "overwrite")
    }
    post: dict[str, Any] = {name: common[name] for name in ("device", "resume", "overwrite")}
    out = config.out

    say("a 1-bit student with plain cross-entropy")
    ce = plain.run(plain.Config(out=out / "ce", **common))
    say("a 1-bit student with balanced softmax")
    balanced = plain.run(plain.Config(out=out / "balanced-softmax", loss="balanced_softmax", **common))
    say("CANDLE: calibrate the teacher's classifier, distil it into a 1-bit student")
    distilled = candle.run(candle.Config(out=out / "candle", teacher=config.teacher, **common))
    say("P2P: remove the class prior the student has learned")
    corrected = p2p.run(p2p.Config(out=out / "candle-p2p", from_run=str(out / "candle"), **post))
    say("pack the corrected student")
    run = open_target(str(out / "candle-p2p"))
    facts = pack_run(run, out / "student.safetensors", overwrite=True)
    packed, data = open_target(str(out / "student.safetensors")), data_for(run, {})

    megabytes = facts["training_bytes"] / 1e6
    rows = [
        {**ce.rows[0], "name": "cross-entropy", "size MB": megabytes},
        {**balanced.rows[0], "name": "balanced softmax", "size MB": megabytes},
        {**distilled.rows[0], "name": "CANDLE", "size MB": megabytes},
        {**corrected.rows[1], "name": "CANDLE + P2P", "size MB": megabytes},
        {**facts["after"], "name": "CANDLE + P2P, packed", "size MB": facts["bytes"] / 1e6},
        {**distilled.rows[1], "name": "its teacher (full precision)", "size MB": None},
    ]
    return rows, _epilogue(out, facts, packed, data)


def _narrator(total: int) -> Callable[[str], None]:
    began, steps = time.monotonic(), iter(range(1, total + 1))

    def say(text: str) -> None:
        print(f"\n[{next(steps)}/{total}, {time.monotonic() - began:.0f} s] {text}", file=sys.stderr, flush=True)

    return say


def _epilogue(out: Path, facts: dict[str, Any], packed: Target, data: Data) -> str:
    picture = out / "example.png"
    guess, truth = write_example(picture, packed, data)
    plots = "\n".join(f"  {path}" for path in sorted(out.glob("*/*.png")))
    shown = describe_prediction({**guess, "image": f"{picture}, a character with few training images: {truth}"})
    command = shlex.join(["bnn", "predict", str(packed.path), str(picture), "--top", "3"])
    return f"{describe(facts)}\n\nplots\n{plots}\n\n{shown}\n\ntry it:\n  {command}\n"


def write_example(path: Path, packed: Target, data: Data) -> tuple[dict[str, Any], str]:
    """Write a test picture of a class with few images, 8 times enlarged: the first that the model gets right."""
    from PIL import Image

    images = data.splits["test"]
    for i in _candidates(data):
        pixels = images.images([i])
        large = F.interpolate(pixels.float(), scale_factor=8, mode="nearest")[0, 0].to(torch.uint8)
        Image.fromarray(large.numpy()).save(path)
        guess = predict_files(packed, (str(path),), top=3)[0]
        truth = data.classes[int(images.labels[i])]
        if guess["top"][0]["class"] == truth:
            break
    return guess, truth


def _candidates(data: Data) -> Iterator[int]:
    """Up to 50 test images of the classes with the fewest training images."""
    order = data.class_counts[data.splits["test"].labels].argsort(stable=True)
    return iter(order[:: max(1, len(order) // 100)][:50].tolist())
