"""What ptxas made of the kernels: registers, shared memory, and the instructions of the main loop.

    kernels(Path("lib.so"), 90)["void bnn::cuda::conv_tensor_core<...>(...)"].loop["BMMA.168256.AND.POPC"]

Needs nvdisasm and cuobjdump, of the toolkit or of the wheels nvidia-cuda-nvdisasm and nvidia-cuda-cuobjdump.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import toolchain

MATRIX = ("BMMA", "IMMA", "HMMA", "DMMA", "QMMA", "OMMA", "BGMMA", "IGMMA", "HGMMA")
LOCAL = ("LDL", "STL")


@dataclass(frozen=True)
class Kernel:
    name: str
    registers: int  # per thread
    shared: int  # bytes per block, without the dynamic part
    stack: int  # bytes per thread
    code: Counter[str] = field(repr=False)  # all instructions, called routines included
    loop: Counter[str] = field(repr=False)  # of the main loop, empty without one

    def count(self, *opcodes: str, whole: bool = False) -> int:
        """Instructions of the main loop (or of all code) whose name begins with one of these."""
        code = self.code if whole else self.loop
        return sum(n for name, n in code.items() if name.split(".")[0] in opcodes)

    @property
    def matrix(self) -> dict[str, int]:
        """Matrix instructions of the main loop by their full name."""
        return {name: n for name, n in self.loop.items() if name.split(".")[0] in MATRIX}

    @property
    def calls(self) -> int:
        return self.count("CALL", whole=True)

    @property
    def local_accesses(self) -> int:
        return self.count(*LOCAL, whole=True)


def missing_tools() -> list[str]:
    return [program for program in ("nvdisasm", "cuobjdump") if not toolchain.find(program)]


def _output(program: str, *args: str, folder: str | None = None) -> str:
    found = toolchain.find(program)
    if not found:
        raise FileNotFoundError(f"{program} is not installed: pip install nvidia-cuda-{program}")
    return subprocess.run([found, *args], capture_output=True, text=True, check=True, cwd=folder).stdout


@lru_cache(maxsize=32)
def kernels(path: Path, arch: int | None = None) -> dict[str, Kernel]:
    """Kernels by demangled name in a cubin, or in an object, fatbin or shared library with code for sm_<arch>."""
    if path.suffix == ".cubin":
        return _read(path)
    with tempfile.TemporaryDirectory() as folder:
        _output("cuobjdump", "-xelf", "all", str(path.resolve()), folder=folder)
        cubins = [c for c in sorted(Path(folder).glob("*.cubin")) if re.search(rf"\.sm_{arch}a?\.", c.name)]
        if not cubins:
            raise ValueError(f"{path} has no code for sm_{arch}")
        return {name: kernel for cubin in cubins for name, kernel in _read(cubin).items()}


def _read(cubin: Path) -> dict[str, Kernel]:
    usage = re.findall(
        r"Function ([\w$]+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", _output("cuobjdump", "-res-usage", str(cubin))
    )
    code = _sections(_output("nvdisasm", "-c", str(cubin)))
    names = toolchain.demangle([mangled for mangled, *_ in usage])
    found = {}
    for name, (mangled, registers, stack, shared) in zip(names, usage, strict=True):
        if mangled in code:
            lines = code[mangled]
            all_code = Counter(filter(None, map(_opcode, lines)))
            found[name] = Kernel(name, int(registers), int(shared), int(stack), all_code, _main_loop(lines))
    return found


def _sections(listing: str) -> dict[str, list[str]]:
    """Mangled name -> lines of its text section: labels and instructions."""
    pieces = re.split(r"^\s*\.section\s+\.text\.([\w$]+),.*$", listing, flags=re.M)
    return {name: body.splitlines() for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def _opcode(line: str) -> str | None:
    q = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)", line)
    if q and q[1].startswith("CALL") and "`(.L_" in q[2]:
        return "BRA"  # ptxas also leaves a loop by a CALL to a label of the kernel itself; routines have names
    return q[1] if q else None


def _loops(lines: list[str]) -> list[tuple[int, int]]:
    """First and last line of each stretch of code with a branch back to its beginning."""
    labels = {q[1]: at for at, line in enumerate(lines) if (q := re.match(r"(\.L_\w+):", line))}
    found = []
    for at, line in enumerate(lines):
        target = re.search(r"\bBRA\b.*`\((\.L_\w+)\)", line)
        start = labels.get(target[1], at) if target else at
        if start < at - 1:  # else the endless branch that pads a kernel
            found.append((start, at))
    return found


def _main_loop(lines: list[str]) -> Counter[str]:
    """The innermost loop with matrix instructions that has most of them; without any, the longest innermost loop."""
    loops = [(span, Counter(filter(None, map(_opcode, lines[span[0] : span[1] + 1])))) for span in _loops(lines)]
    loops = [loop for loop in loops if _matrix_count(loop[1])] or loops
    spans = [span for span, _ in loops]
    inner = [code for (a, b), code in loops if not any((a, b) != (c, d) and a <= c and d <= b for c, d in spans)]
    return max(inner, key=lambda code: (_matrix_count(code), code.total()), default=Counter())


def _matrix_count(code: Counter[str]) -> int:
    return sum(n for name, n in code.items() if name.split(".")[0] in MATRIX)
