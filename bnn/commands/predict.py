"""`bnn predict FILE IMAGE...`: classes and probabilities of pictures."""

import json
from dataclasses import dataclass
from typing import Any

import torch
import tyro

from bnn.commands._load import Target, open_target
from bnn.commands._parse import as_json, parse


@dataclass(frozen=True)
class Config:
    """The most probable classes of pictures (any size; PNG, JPEG and what else Pillow reads)."""

    file: tyro.conf.Positional[str]
    """Packed file (or run folder)."""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Picture files."""
    top: int = 5
    """Classes to print for each picture."""


def main(argv: list[str]) -> int:
    """Predict and print."""
    rest, wants_json = as_json(argv)
    config = parse(Config, rest, "bnn predict")
    if not config.images:
        raise ValueError("bnn predict FILE IMAGE...: no image given")
    if config.top < 1:
        raise ValueError(f"--top: expected at least 1; got {config.top}")
    results = predict_files(open_target(config.file), config.images, config.top)
    if wants_json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        print("\n".join(describe(result) for result in results))
    return 0


def predict_files(target: Target, paths: tuple[str, ...], top: int) -> list[dict[str, Any]]:
    """One {"image", "top": [{"class", "probability"}]} a file, most probable first; probabilities 0 to 1."""
    pixels = torch.stack([target.preprocess.read(path) for path in paths])
    with torch.inference_mode():
        parts = [target.forward(target.preprocess.normalize(part)) for part in pixels.split(256)]
    probability = torch.cat(parts).float().softmax(1)
    values, order = probability.topk(min(top, probability.shape[1]), dim=1)
    names = target.classes or [str(k) for k in range(probability.shape[1])]
    return [
        {
            "image": path,
            "top": [{"class": names[k], "probability": p} for k, p in zip(ks, ps, strict=True)],
        }
        for path, ks, ps in zip(paths, order.tolist(), values.tolist(), strict=True)
    ]


def describe(result: dict[str, Any]) -> str:
    """A result for people."""
    lines = [f"  {100 * guess['probability']:5.1f} %  {guess['class']}" for guess in result["top"]]
    return "\n".join([result["image"], *lines])
