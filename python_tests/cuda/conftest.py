"""PTX, cubins and host code of our CUDA sources, compiled once per content."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import toolchain
from ptx.entry_points import Device, EntryPoints
from ptx_runner import Memory, launch

ROOT = Path(__file__).resolve().parents[2]
CSRC, HERE = ROOT / "csrc", Path(__file__).parent
FLAGS = ["-std=c++20", "--expt-relaxed-constexpr", "-fmad=false", "-lineinfo", f"-I{CSRC}", f"-I{CSRC / 'include'}"]
FAILED: dict[str, str] = {}  # by content: what the compiler said


@lru_cache
def _headers() -> bytes:
    files = sorted([*CSRC.glob("include/bnn/*.h"), *CSRC.glob("cuda/**/*.h"), *HERE.rglob("*.h")])
    return b"".join(path.read_bytes() for path in files)


def compiled(program: str, flags: list[str], sources: list[Path], name: str) -> Path:
    """A program's output for some sources, kept in build/tests by the hash of what goes into it."""
    found = toolchain.find(program)
    if not found:
        pytest.skip(f"{program} is not installed")
    content = b"".join(source.read_bytes() for source in sources)
    key = hashlib.sha256(repr((found, flags)).encode() + _headers() + content).hexdigest()[:16]
    target = ROOT / "build" / "tests" / f"{key}-{name}"
    if not target.is_file() and key not in FAILED:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        done = subprocess.run([found, *flags, *map(str, sources), "-o", str(part)], capture_output=True, text=True)
        if done.returncode:
            FAILED[key] = done.stderr
        else:
            part.rename(target)
    assert key not in FAILED, FAILED[key]
    return target


def _source(name: str) -> Path:
    """A file beside the tests, or one of csrc/cuda."""
    return HERE / name if (HERE / name).is_file() else CSRC / "cuda" / name


@pytest.fixture(scope="session")
def ptx() -> Callable[[str, int], str]:
    """ptx("bitpack.cu", 80): the PTX of a file for one chip."""

    @lru_cache
    def text(name: str, chip: int) -> str:
        path = _source(name)
        return compiled("nvcc", ["-ptx", *FLAGS, f"-arch=sm_{chip}"], [path], f"{path.stem}-{chip}.ptx").read_text()

    return text


@pytest.fixture(scope="session")
def cubin() -> Callable[[str, int], Path]:
    """cubin("binary_conv2d.cu", 90): machine code for one chip."""

    def path(name: str, chip: int) -> Path:
        source = _source(name)
        return compiled("nvcc", ["-cubin", *FLAGS, f"-arch=sm_{chip}"], [source], f"{source.stem}-{chip}.cubin")

    return path


@pytest.fixture(scope="session")
def fat_object() -> Callable[[str, tuple[int, ...]], Path]:
    """An object file with machine code for several chips."""

    def path(name: str, chips: tuple[int, ...]) -> Path:
        source = _source(name)
        targets = [f"-gencode=arch=compute_{chip},code=sm_{chip}" for chip in chips]
        return compiled("nvcc", ["-c", *FLAGS, *targets], [source], f"{source.stem}.o")

    return path


@pytest.fixture(scope="session")
def entry_points() -> EntryPoints:
    """The host code of csrc/cuda."""
    includes = [f"-I{path}" for path in (HERE / "recorder" / "include", CSRC, CSRC / "include")]
    kernels = [path for path in sorted(CSRC.glob("cuda/*.cu")) if path.name != "devices.cu"]
    sources = [*kernels, *sorted(CSRC.glob("cuda/emulator/*.cpp")), HERE / "recorder" / "recorder.cpp"]
    objects = [
        compiled("g++", ["-c", "-std=c++20", "-O0", "-fPIC", "-w", *includes, "-x", "c++"], [path], f"{path.stem}.o")
        for path in sources
    ]
    return EntryPoints(compiled("g++", ["-shared"], objects, "recorder.so"))


@pytest.fixture
def device(entry_points, ptx) -> Callable[..., Device]:
    """device("bitpack.cu", 80): a chip with fresh memory that runs the kernels of a file."""

    def make(name: str, capability: int, multiprocessors: int = 4, memory: int = 1 << 24) -> Device:
        return Device(entry_points, Memory(memory), ptx(name, capability), capability, multiprocessors, launch)

    return make
