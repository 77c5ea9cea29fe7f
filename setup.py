"""Builds bnn._C with CMake against the torch that is already installed. No downloads.

BNN_BUILD=0 leaves the extension out. BNN_CUDA=0 leaves the CUDA kernels out, 1 demands them, auto builds them where
nvcc is there and torch is a CUDA build: for the GPUs that are visible, else for all that are supported.
BNN_EMULATED_AMX=1 is for tests: plain C++ in the place of a matrix unit that this machine lacks.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
FIND_TORCH = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"


def find_torch() -> str | None:
    """Folder of torch in the target environment (-I looks past an isolated build), else in the build's own."""
    for flags in (["-I"], []):
        found = subprocess.run([sys.executable, *flags, "-c", FIND_TORCH], cwd="/", capture_output=True, text=True)
        if folder := found.stdout.strip():
            return folder
    return None


def visible_gpus() -> list[str]:
    """Their compute capabilities as CMake writes them, lowest first: 80, 90a."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    found = re.findall(r"^(\d+)\.(\d)$", subprocess.run(query, capture_output=True, text=True).stdout, re.M)
    return ["90a" if n == 90 else str(n) for n in sorted({int(major + minor) for major, minor in found}) if n >= 75]


def cuda_options(torch: str) -> list[str]:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    asked, has_cuda = wanted("BNN_CUDA", "auto", ("auto", "0", "1")), Path(torch, "lib/libtorch_cuda.so").exists()
    if asked == "1" and nvcc is None:
        raise RuntimeError("bnn: BNN_CUDA=1, but there is no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda")
    if asked == "0" or nvcc is None or (asked == "auto" and not has_cuda):
        why = "BNN_CUDA=0" if asked == "0" else "no nvcc" if nvcc is None else "torch is a CPU build"
        print(f"bnn: CPU kernels only ({why})")
        return ["-DBNN_CUDA=OFF"]
    gpus = visible_gpus()
    print(f"bnn: CUDA kernels by {nvcc} for {'the visible GPUs: ' + ' '.join(gpus) if gpus else 'every supported GPU'}")
    targets = f"-DBNN_CUDA_ARCHITECTURES={';'.join(gpus)}" if gpus else "-UBNN_CUDA_ARCHITECTURES"
    return ["-DBNN_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}", targets]


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        torch = find_torch()
        if torch is None:
            raise RuntimeError("bnn: torch is not installed; install it first, or set BNN_BUILD=0")
        import pybind11

        environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        ninja = shutil.which("ninja", path=environment["PATH"])
        if ninja is None:
            raise RuntimeError("bnn: ninja is not installed; pip install cmake ninja pybind11")
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DPython_INCLUDE_DIR={sysconfig.get_path('include')}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DBNN_TORCH_DIR={torch}",
            f"-DBNN_VERSION={self.distribution.get_version()}",
            f"-DBNN_EMULATED_AMX={wanted('BNN_EMULATED_AMX', '0', ('0', '1'))}",
            *cuda_options(torch),
        ]  # fmt: skip
        for command in (configure, ["cmake", "--build", str(build), "--target", "_C"]):
            subprocess.run(command, check=True, env=environment)


def wanted(variable: str, default: str, choices: tuple[str, ...]) -> str:
    value = os.environ.get(variable, default)
    if value not in choices:
        raise SystemExit(f"bnn: {variable} must be one of {', '.join(choices)}, got {value!r}")
    return value


build = wanted("BNN_BUILD", "1", ("0", "1")) == "1"
wanted("BNN_CUDA", "auto", ("auto", "0", "1"))

setup(
    ext_modules=[Extension("bnn._C", sources=[])] if build else [],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=["torch>=2.10"] if build and find_torch() is None else [],
)
