"""`import bnn`: what it loads, how long it takes, what it says when something is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

import bnn

ROOT = Path(bnn.__file__).resolve().parents[1]
HEAVY = ("safetensors", "PIL", "matplotlib", "tyro", "accelerate", "sklearn", "tqdm", "torchmetrics", "torchvision",
         "scipy", "pandas", "jinja2")  # fmt: skip


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """A fresh interpreter that finds the same bnn; BNN_ISA only where given."""
    path = os.pathsep.join([os.path.dirname(os.path.dirname(bnn.__file__)), os.environ.get("PYTHONPATH", "")])
    inherited = {k: v for k, v in os.environ.items() if k != "BNN_ISA"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
                          env=inherited | {"PYTHONPATH": path} | environment)  # fmt: skip


def output(code: str, **environment: str) -> str:
    done = python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# torch.fx and fusion are of torch; what they bring is torch's choice
MEASURE = """
import json, sys, time, numpy, torch, torch.fx, torch.nn.utils.fusion
before, start = set(sys.modules), time.perf_counter()
import bnn
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def imported() -> tuple[float, set[str]]:
    """Median seconds of `import bnn` beyond `import torch` in three interpreters; the modules that it loads."""
    runs = [json.loads(output(MEASURE)) for _ in range(3)]
    return median(seconds for seconds, _ in runs), set(runs[0][1])


def test_loads_torch_and_numpy_only(imported):
    packages = {name.split(".")[0] for name in imported[1]} - set(sys.stdlib_module_names)
    assert not packages & set(HEAVY), f"import bnn loads {sorted(packages & set(HEAVY))}"
    assert packages <= {"bnn", "torch", "numpy"}, f"import bnn loads {sorted(packages)}"


def test_commands_and_recipes_stay_away(imported):
    for name in ("training", "recipes", "cli", "commands", "data", "metrics", "losses", "plotting"):
        loaded = [m for m in imported[1] if f"{m}.".startswith(f"bnn.{name}.")]
        assert not loaded, f"import bnn loads {loaded}"


def test_import_is_fast(imported, record_property):
    """Below 0.3 s beyond torch on a quiet machine; 1 s here, since tests share theirs."""
    print(f"import bnn: {imported[0]:.3f} s beyond import torch")
    record_property("import_seconds", imported[0])
    assert imported[0] < 1.0


def test_public_names():
    assert set(bnn.__all__) >= {"PackedModel", "isa", "load", "models", "nn", "ops", "pack", "save", "__version__"}
    assert all(hasattr(bnn, name) for name in bnn.__all__)
    assert all(callable(getattr(bnn.ops, name)) for name in bnn.ops.__all__)


@pytest.mark.parametrize("name", sorted({"reference", bnn.isa.available()[-1]}))
def test_bnn_isa_chooses(name):
    code = "import torch, bnn; print(bnn.isa.current(), bnn.ops.bitpack(-torch.ones(1, 3)).item())"
    assert output(code, BNN_ISA=name) == f"{name} 7"


def test_bnn_isa_refuses():
    done = python("import bnn", BNN_ISA="nonsense")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "BNN_ISA" in last and "'nonsense'" in last and str(bnn.isa.available()) in last


WITHOUT = "import sys; sys.modules['bnn._C'] = None\nimport torch, bnn\n"


def test_works_without_the_extension():
    code = WITHOUT + (
        "print(bnn.isa.available(), bnn.isa.current())\n"
        "model = bnn.models.build('reactnet_tiny', 10, 1, 32)\n"
        "x = torch.randn(2, 1, 32, 32)\n"
        "model(x).sum().backward()\n"
        "model.eval()\n"
        "print(torch.equal(bnn.pack(model, exact=True)(x), model(x)))\n"
        "bnn.isa.use('reference')\n"
        "try:\n    bnn.isa.use('avx2')\n"
        "except ValueError as problem:\n    print(problem)\n"
    )
    lines = output(code).splitlines()
    assert lines[:2] == ["['reference'] reference", "True"]
    assert "avx2" in lines[2] and "['reference']" in lines[2] and "extension" in lines[2]


def test_the_environment_variable_without_the_extension():
    done = python(WITHOUT, BNN_ISA="avx2")
    assert done.returncode != 0 and "extension" in done.stderr.strip().splitlines()[-1]


def test_why_there_is_no_extension():
    """_extension.error is None exactly where there is one."""
    from bnn import _extension

    assert (_extension.module is None) == (_extension.error is not None)
    assert (len(bnn.isa.available()) > 1) == (_extension.module is not None)
