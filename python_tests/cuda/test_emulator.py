"""The source emulator: planted bugs are caught by the tool meant for them, kernels without bugs run in silence."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCES = ("tests/emulator/test_emulator.cpp", "cuda/emulator/emulator.cpp", "cuda/emulator/fiber.cpp")
FLAGS = {
    "plain": ["-O1"],
    "ucontext": ["-O0", "-DEMU_UCONTEXT"],
    "address": ["-O0", "-fsanitize=address,undefined"],
    "thread": ["-O1", "-fsanitize=thread"],
}
WRONG_VALUES, EMULATOR_ERROR = 1, 2
ORDERS = ("forward", "reverse", "random")

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(not CSRC.is_dir(), reason="no C++ sources beside the tests"),
    pytest.mark.skipif(not shutil.which("g++"), reason="no g++"),
]


@dataclass(frozen=True)
class Driver:
    """`test_emulator.cpp` as built in one way."""

    command: list[str]

    def __call__(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, errors="replace", timeout=120
        )
        return done.returncode, done.stdout + done.stderr


def build(flavour: str, folder: Path) -> Driver:
    binary = folder / flavour
    sources = [str(CSRC / name) for name in SOURCES]
    flags = ["-std=c++20", "-g", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", f"-I{CSRC}", f"-I{CSRC}/include"]
    subprocess.run(["g++", *flags, *FLAGS[flavour], *sources, "-o", str(binary)], check=True)
    driver = Driver([str(binary)])
    if flavour == "thread" and "unexpected memory mapping" in driver("no case")[1]:
        driver = Driver(
            ["setarch", "-R", str(binary)]
        )  # the thread sanitizer can't place its shadow where addresses vary
        code, said = driver("no case")
        if code != 3:
            pytest.skip(f"the thread sanitizer doesn't run here: {said}")
    return driver


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Driver]:
    """Builds on first use, as most of the time goes into that."""
    built: dict[str, Driver] = {}

    def get(flavour: str) -> Driver:
        if flavour not in built:
            built[flavour] = build(flavour, tmp_path_factory.mktemp("emulator"))
        return built[flavour]

    return get


@pytest.mark.parametrize("flavour", FLAGS)
def test_right_kernels(driver, flavour):
    """Votes, shuffles, mma, ldmatrix and copies against their formulas, in five orders of blocks and threads."""
    assert driver(flavour)("right") == (0, "")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no_copy_wait", "thread returned while asynchronous copies were under way"),
        ("full_mask_in_half_warp", "a warp collective waits for lanes that never arrive"),
        ("shuffle_from_outside", "shuffle reads a lane that its mask leaves out"),
        ("barrier_after_return", "__syncthreads after some threads of the block returned"),
        ("two_barriers", "threads of a block wait at different __syncthreads"),
        ("matrix_row_misaligned", "ldmatrix of a row that isn't aligned to 16 bytes"),
        ("too_much_shared", "launch with more shared memory than the chip has"),
        ("mma_on_old_chip", "mma.m16n8k256 b1 needs compute capability 80"),
    ],
)
def test_emulator_errors(driver, case, message, order):
    code, said = driver("plain")(case, order)
    assert code == EMULATOR_ERROR and message in said


def test_errors_name_source_lines(driver):
    lines = (CSRC / "tests/emulator/kernels.h").read_text().splitlines()
    said = driver("plain")("two_barriers", "forward")[1]
    waiting = {int(line.rpartition(":")[2]) for line in said.splitlines() if "waits at" in line}
    assert len(waiting) == 2 and all("__syncthreads" in lines[number - 1] for number in waiting)


@pytest.mark.parametrize("flavour", ["address", "thread", "ucontext"])
def test_errors_leave_nothing_behind(driver, flavour):
    """All threads of the failed block are unwound: no leak, no report but the emulator's."""
    for case in ("two_barriers", "shuffle_from_outside"):
        code, said = driver(flavour)(case, "forward")
        assert code == EMULATOR_ERROR and "Sanitizer" not in said


@pytest.mark.parametrize(
    ("case", "wrong_in"),
    [
        ("no_barrier", ORDERS),
        ("no_warp_sync", ORDERS),
        ("no_barrier_before_refill", ORDERS[1:]),  # seen where a copy happens early
        ("no_warp_sync_before_matrices", ()),
    ],
)
def test_races(driver, case, wrong_in):
    """Wrong values in some orders, and reports of the thread sanitizer, which knows what orders memory."""
    for order in wrong_in:
        code, said = driver("plain")(case, order)
        assert code == WRONG_VALUES and "wrong values" in said
        if wrong_in == ORDERS:  # one of each pair of threads in three blocks, as shared memory is never left as it was
            assert ": 96 wrong values" in said
    for order in wrong_in or ORDERS:
        code, said = driver("thread")(case, order)
        assert code == 66 and "data race" in said and "kernels.h:" in said


@pytest.mark.parametrize(
    ("case", "report"),
    [
        ("row_too_many", "heap-buffer-overflow"),
        ("past_dynamic_shared", "use-after-poison"),
        ("past_static_shared", "global-buffer-overflow"),
    ],
)
def test_writes_out_of_bounds(driver, case, report):
    for order in ORDERS:
        code, said = driver("address")(case, order)
        assert code and f"AddressSanitizer: {report}" in said and "kernels.h:" in said
