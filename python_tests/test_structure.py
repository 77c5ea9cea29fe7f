"""Arrows point one way (house.md §4.1), held by parsing imports and includes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BNN, CSRC = ROOT / "bnn", ROOT / "csrc"
CONCEPTS = ("bitpack", "sign_ste", "binary_conv2d", "binary_linear", "gated_add", "multires_pool2d")

# A module or package may import itself and what stands on a lower line. What shares a line knows nothing of each other.
LEVELS = (
    {"_extension"},
    {"ops"},
    {"isa"},
    {"nn"},
    {"models", "data"},
    {"metrics"},
    {"losses", "posthoc", "robustness"},
    {"plotting"},
    {"report"},
    {"training"},
    {"recipes"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, names in enumerate(LEVELS) for name in names}
CORE = ("_extension", "ops", "isa", "nn", "models")  # what `import bnn` loads


def sources() -> list[Path]:
    return sorted(BNN.rglob("*.py"))


def part(module: str) -> str:
    """bnn.ops.bitpack -> ops; bnn -> ''."""
    return (module.split(".") + [""])[1]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(tree: ast.Module) -> ast.Module:
    """The file without function bodies: what importing it imports."""
    kept = [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return ast.Module(kept, [])


def test_every_package_has_its_level():
    names = {part(module_name(path)) for path in sources()} - {""}
    assert names <= set(RANK), f"give {sorted(names - set(RANK))} a line in LEVELS"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows(path):
    own = part(module_name(path))
    for name in imports(ast.parse(path.read_text())):
        if name.split(".")[0] != "bnn":
            continue
        other = part(name)
        if own and other in RANK and other != own:
            assert RANK[other] < RANK[own], f"{module_name(path)} imports {name}: the arrow points the other way"


def test_the_namespace_is_named_in_one_place():
    users = {path for path in sources() if "torch.ops.bnn" in path.read_text()}
    strangers = [str(p.relative_to(ROOT)) for p in users if part(module_name(p)) != "ops"]
    assert not strangers, f"torch.ops.bnn is for bnn/ops alone: {strangers}"


def test_core_needs_torch_and_numpy_only():
    import sys

    allowed = {*sys.stdlib_module_names, "torch", "numpy", "bnn"}
    for path in sources():
        if part(module_name(path)) in (*CORE, ""):
            found = {name.split(".")[0] for name in imports(top_level(ast.parse(path.read_text())))}
            assert found <= allowed, f"{path.relative_to(ROOT)} imports {sorted(found - allowed)} when it is imported"


def test_torchvision_is_never_imported_on_import():
    for path in [*sources(), *Path(__file__).parent.rglob("*.py")]:
        names = imports(top_level(ast.parse(path.read_text())))
        assert not any(name.startswith(("torchvision", "timm")) for name in names), path


def test_every_op_is_checked():
    """torch.library.opcheck runs on every op of the namespace, the internal ones too."""
    ops = {name for path in (BNN / "ops").glob("*.py") for name in re.findall(r'define(?:_composite)?\(\s*f?"(\w+)\(',
                                                                              path.read_text())}  # fmt: skip
    assert len(ops) >= 16
    tests = "\n".join(path.read_text() for path in (Path(__file__).parent / "ops").glob("test_*.py"))
    checked = set(re.findall(r"\.(\w+)\.default\b", tests))
    assert ops <= checked, f"no opcheck of {sorted(ops - checked)}"


def test_training_knows_no_recipe():
    for path in (BNN / "training").rglob("*.py"):
        assert "bnn.recipes" not in " ".join(imports(ast.parse(path.read_text()))), path


def test_tests_are_no_packages():
    assert not list(Path(__file__).parent.rglob("__init__.py"))


def test_concepts_have_the_same_file_name_in_every_column():
    for concept in CONCEPTS:
        assert (BNN / "ops" / f"{concept}.py").is_file()
        assert (Path(__file__).parent / "ops" / f"test_{concept}.py").is_file()
        if CSRC.is_dir():
            for column in (
                f"include/bnn/{concept}.h",
                f"ops/{concept}.cpp",
                f"cpu/{concept}.cpp",
                f"cuda/{concept}.cu",
            ):
                assert (CSRC / column).is_file(), f"csrc/{column} is missing"


needs_csrc = pytest.mark.skipif(not CSRC.is_dir(), reason="no C++ sources beside the tests")
SUFFIXES = (".cpp", ".h", ".inc", ".inl", ".cu", ".cuh")
EMULATOR_ENTRANCES = {("cuda", "cuda/emulator/cuda_emu.h"), ("ops", "cuda/emulator/emulator.h"),
                      ("cpu/amx", "cpu/amx/emulator/unit.h")}  # fmt: skip
STABLE = ("torch/csrc/stable/", "torch/headeronly/", "torch/csrc/inductor/aoti_torch/c/")


def cpp() -> list[Path]:
    return sorted(p for p in CSRC.rglob("*") if p.suffix in SUFFIXES)


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.MULTILINE)


def folder(path: Path) -> str:
    """include, ops, cpu, cpu/avx2, ...; "" for bindings.cpp."""
    parent = path.relative_to(CSRC).parent.as_posix()
    return "include" if parent.startswith("include") else "" if parent == "." else parent


def may_include(own: str, header: str) -> bool:
    """Whether a file in csrc/`own` may include `header`, one of ours."""
    place = str(Path(header).parent)
    if place == "bnn":
        return True
    shared = place in ("cpu", "cuda")  # not a folder of one instruction set
    if own == "include":
        return False
    if own in ("", "ops"):  # no CUDA header beyond the contracts, so that a C++ compiler is enough
        return place in ("cpu", own)
    root = own.split("/")[0]
    if own == root:  # loop nests, kernels
        return place == root
    if root == "tests":
        return shared or place == own
    return place in (root, own, f"{root}/generic")


@needs_csrc
@pytest.mark.parametrize("path", cpp() if CSRC.is_dir() else [], ids=lambda p: str(p.relative_to(CSRC)))
def test_includes(path):
    own = folder(path)
    for header in includes(path):
        if header.startswith(("bnn/", "cpu/", "cuda/", "ops/", "tests/")):
            assert (CSRC / header).is_file() or (CSRC / "include" / header).is_file(), f"{header} does not exist"
            allowed = may_include(own, header) or own.startswith("tests") and not header.startswith("ops/")
            allowed |= (own, header) in EMULATOR_ENTRANCES
            assert allowed, f"csrc/{path.relative_to(CSRC)} includes {header}: the arrow points the other way"
        elif header.startswith(("torch/", "ATen/", "c10/")):
            assert own == "ops" and header.startswith(STABLE), f"{path}: {header} is not of the stable ABI"
        elif header.startswith("pybind11/"):
            assert path.name == "bindings.cpp", f"{path}: pybind11 is for bindings.cpp alone"
        elif header.startswith(("sys/", "sanitizer/")):
            assert own == "cuda/emulator", f"{path}: {header} is for the emulator"
        else:
            assert "/" not in header, f"{path}: unknown header {header}"


@needs_csrc
def test_every_source_is_built():
    named = re.findall(r"csrc/[\w./*]+", re.sub(r"\$\{\w+\}", "*", (ROOT / "CMakeLists.txt").read_text()))
    built = {p for pattern in named for p in ROOT.glob(pattern)}
    built |= set((CSRC / "tests" / "emulator").glob("*.cpp"))  # by python_tests/cuda/test_emulator.py, in four ways
    missing = [str(p.relative_to(ROOT)) for p in cpp() if p.suffix in (".cpp", ".cu") and p not in built]
    assert not missing, f"CMakeLists.txt builds none of {missing}"


@needs_csrc
def test_microkernels_are_listed_once():
    listed = re.findall(r"^BNN_UKERNEL\((\w+), (\w+)\)", (CSRC / "cpu" / "ukernels.inc").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed)) > 0
    folders = {p.name for p in (CSRC / "cpu").iterdir() if p.is_dir()} - {"generic"}
    assert {isa for isa, _ in listed} == folders
    scalar = {op for isa, op in listed if isa == "scalar"}
    assert {op for _, op in listed} == scalar, "every microkernel has a scalar form to be compared with"


@needs_csrc
def test_instruction_sets_are_chosen_by_region_not_by_flag():
    text = "\n".join((ROOT / name).read_text() for name in ("CMakeLists.txt", "setup.py") if (ROOT / name).is_file())
    assert not re.findall(r"-m(?:avx|arch|fma|amx|sse|bmi|f16c)\w*", text)


@needs_csrc
def test_glue_and_contracts_name_no_cuda_runtime():
    places = [*(CSRC / "ops").iterdir(), *(CSRC / "include").rglob("*.h"), CSRC / "bindings.cpp"]
    for path in places:
        code = re.sub(r"//.*", "", path.read_text())
        assert not re.search(r"\bcuda[A-Z]\w+|__global__|<<<", code), f"{path}: the CUDA runtime is for csrc/cuda"


@needs_csrc
def test_ptx_is_written_in_one_place():
    for path in (CSRC / "cuda").glob("*"):
        if path.is_file() and path.name != "device.h":
            assert not re.search(r"\basm\b", path.read_text()), f"{path}: inline PTX is for device.h"
