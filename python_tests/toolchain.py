"""Finds the CUDA toolkit's programs and c++filt."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

TOOLKIT = Path("/usr/local/cuda/bin")


def find(program: str) -> str | None:
    """On PATH, in /usr/local/cuda/bin, or in NVIDIA's wheels (nvidia-cuda-nvdisasm, nvidia-cuda-cuobjdump)."""
    places = [shutil.which(program), str(TOOLKIT / program)]
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        places += map(str, Path(folder).glob(f"*/bin/{program}"))
    return next((p for p in places if p and Path(p).is_file()), None)


def demangle(names: list[str]) -> list[str]:
    """C++ names as people write them; unchanged where no c++filt is found."""
    program = find("cu++filt") or find("c++filt")
    if not names or not program:
        return names
    done = subprocess.run([program], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
