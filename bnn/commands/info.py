"""`bnn info`: what is installed and what runs; with a model, its layers."""

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import bnn
from bnn import _extension, isa, models
from bnn.models.external import is_external

LAYER_COLUMNS = ("name", "kind", "output", "binary_macs", "real_macs", "binary_bits", "real_parameters", "kernel")


@dataclass(frozen=True)
class Config:
    """Versions, processor and kernels; with --model, the layers of a network or packed file."""

    model: str | None = None
    """Name of a network (torchvision:NETWORK and timm:NETWORK: made binary), or a packed file."""
    num_classes: int | None = None
    """Classes of a named network; default 100 for the tiny ones, else 1000."""
    in_channels: int | None = None
    """Channels of its images; default 1 for the tiny ones, else 3."""
    image_size: int | None = None
    """Side of its images, pixels; default 32 for the tiny ones, else 224."""


def main(argv: list[str]) -> int:
    """Print."""
    from bnn.commands._parse import as_json, parse

    rest, wants_json = as_json(argv)
    config = parse(Config, rest, "bnn info")
    facts = installation()
    if config.model is not None:
        facts["model"] = layers(config.model, config)
    print(json.dumps(facts, indent=2) if wants_json else describe(facts))
    return 0


def installation() -> dict[str, Any]:
    """Versions, processor, instruction sets, and why the extension is not loaded if it is not."""
    built = _extension.module.build_info() if _extension.module else {}
    return {
        "bnn": bnn.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "extension": "loaded" if _extension.module else f"not loaded: {_extension.error}",
        "build": built,
        "isa_available": isa.available(),
        "isa_current": isa.current(),
        "cuda_kernels": built.get("cuda", "no"),
        "cuda_devices": cuda_devices(),
    }


def cuda_devices() -> list[str]:
    """One line a device that the CUDA kernels see, or why they see none."""
    if _extension.module is None or _extension.module.build_info()["cuda"] == "no":
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    try:
        found = _extension.module.cuda_devices()
    except RuntimeError as problem:
        return [f"none: {problem}"]
    unfit = ", which the kernels are not compiled for"
    return [f"{name}, compute capability {capability}{'' if fit else unfit}" for name, capability, fit in found]


def processor() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def default_shape(name: str) -> tuple[int, int, int]:
    """Classes, channels and pixels of a named network, where nothing else is asked for."""
    return (100, 1, 32) if name in models.names() and name.endswith("_tiny") else (1000, 3, 224)


def layers(name: str, config: Config) -> dict[str, Any]:
    """One row a layer of the named network or packed file, and totals."""
    report: list[dict[str, str]] = []
    if name in models.names() or is_external(name):
        asked = (config.num_classes, config.in_channels, config.image_size)
        classes, channels, size = (a if a is not None else f for a, f in zip(asked, default_shape(name), strict=True))
        model = models.build(name, classes, channels, size)
        report = getattr(model, "binarize_report", [])
    elif Path(name).is_file():
        model = bnn.load(name)
        known = model.preprocess or {"size": [config.image_size or 224], "mean": [0] * (config.in_channels or 3)}
        channels, size = len(known["mean"]), known["size"][0]
    else:
        raise ValueError(
            f"--model: expected one of {', '.join(models.names())}, torchvision:NETWORK, timm:NETWORK "
            f"or a packed file; got {name!r}"
        )
    rows = models.summary(model, size, channels)
    sums = ("binary_macs", "real_macs", "binary_bits", "real_parameters")
    totals = {name: sum(row[name] for row in rows) for name in sums}
    known = {"binarized": report} if report else {}
    return {"input": [channels, size, size], "layers": rows, "total": totals, **known}


def describe(facts: dict[str, Any]) -> str:
    """The facts for people."""
    lines = [
        f"bnn {facts['bnn']}   torch {facts['torch']}   python {facts['python']}",
        f"processor      {facts['processor']}, {facts['threads']} threads",
        f"extension      {facts['extension']}",
        *([] if _extension.module else ["               the pure-torch reference runs: same results, slower"]),
        f"CPU kernels    {facts['isa_current']} (available: {', '.join(facts['isa_available'])}; choose with BNN_ISA)",
        f"CUDA kernels   {'not built' if facts['cuda_kernels'] == 'no' else facts['cuda_kernels']}",
        f"CUDA device    {'; '.join(facts['cuda_devices']) or 'none'}",
    ]
    if "model" in facts:
        lines += ["", f"input {facts['model']['input']}", *_table(facts["model"])]
        lines += _binarized(facts["model"].get("binarized", []))
    return "\n".join(lines)


def _table(model: dict[str, Any]) -> list[str]:
    rows = [*model["layers"], {"name": "total", **model["total"]}]
    cells = [
        [c.replace("_", " ") for c in LAYER_COLUMNS],
        *([_cell(row.get(c, "")) for c in LAYER_COLUMNS] for row in rows),
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(LAYER_COLUMNS))]
    right = {LAYER_COLUMNS.index(c) for c in ("binary_macs", "real_macs", "binary_bits", "real_parameters")}
    return [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]


def _binarized(report: list[dict[str, str]]) -> list[str]:
    """What stayed real and why, and what else `bnn.binarize` did that it gives a reason for."""
    told = [row for row in report if row["why"]]
    real = [f"  {row['name']} ({row['kind']}): {row['why']}" for row in told if row["kind"] == row["becomes"]]
    changed = [f"  {r['name']} ({r['kind']} to {r['becomes']}): {r['why']}" for r in told if r["kind"] != r["becomes"]]
    return [*(["", "stays real", *real] if real else []), *(["", "changed", *changed] if changed else [])]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
