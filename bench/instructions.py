"""`python -m bench.instructions`: instructions of one convolution, words to words, counted by valgrind.

Counts don't swing as times do. Valgrind knows no AVX-512: the tiers are scalar and AVX2. Batch 1, everything that a
call does: image copy, filter panels, products, threshold.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from python_tests.shapes import CONVS

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "instructions"
ISAS = ("scalar", "avx2")


def program() -> Path:
    """csrc/tests/one_convolution.cpp, built where it isn't up to date."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=path)
    if cmake is None or shutil.which("valgrind") is None:
        raise SystemExit("bench.instructions needs cmake and valgrind: install the packages of those names")
    configure = [cmake, "-S", ROOT, "-B", BUILD, "-DBNN_TESTS=ON", "-DBNN_PYTHON=OFF"]
    for command in (configure, [cmake, "--build", BUILD, "--target", "one_convolution", "-j", "2"]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return BUILD / "one_convolution"


def instructions(arguments: list[str]) -> int:
    """Instructions inside the function `counted`."""
    tool = ["valgrind", "--tool=callgrind", "--toggle-collect=counted", "--callgrind-out-file=/dev/null"]
    done = subprocess.run([*tool, program(), *arguments], capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"valgrind failed:\n{done.stderr}")
    return int(found[1])


def main() -> None:
    print("| layer, batch 1 | ISA | instructions | a word product (64 multiply-adds) |\n|---|---|---:|---:|")
    for name, layer in CONVS.items():
        if not name.startswith("resnet18/"):
            continue
        for isa in ISAS:
            count = instructions([isa, *map(str, (layer.c, layer.k, layer.h, layer.stride[0]))])
            print(f"| {name} | {isa} | {count:,} | {64 * count / layer.macs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
