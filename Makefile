# Two commands do everything: `make demo` and `make test`. They use the active environment's torch if there is one,
# else they install TORCH into .venv.
PYTHON ?= python3
TORCH ?= torch
HAS_TORCH := $(shell $(PYTHON) -I -c "import torch" 2>/dev/null && echo yes)
ENV := $(if $(HAS_TORCH),,.venv)
PY := $(if $(ENV),$(ENV)/bin/python,$(PYTHON))
STAMP := build/.installed$(if $(ENV),-venv)
# Where no GPU is visible the CUDA kernels would only cost minutes of compiling; `make CUDA=1 ...` builds them all the same.
CUDA ?= $(if $(shell nvidia-smi -L 2>/dev/null),auto,0)
# Processes of `make test`, a thread and about 1 GB each
WORKERS ?= 2
CLANG_FORMAT = $(PY) -c "import clang_format; clang_format.clang_format()"
# The last that Larq Compute Engine has wheels for
PEER_PYTHON ?= python3.11
BUILD_INPUTS := setup.py pyproject.toml CMakeLists.txt $(shell find csrc -type f)

.PHONY: demo test claims dev fmt lint bench peers clean

demo: $(STAMP)
	$(PY) -m bnn demo --resume

test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadscope --benchmark-disable

claims: $(STAMP)
	$(PY) -m bench.claims

dev: $(STAMP)
	$(PY) -m pip install -q -e ".[all,dev]"

fmt:
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .
	$(CLANG_FORMAT) -i $$(git ls-files 'bench/*.cpp' 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.inc' 'csrc/*.inl' 'csrc/*.cu')

lint:
	$(PY) -m ruff check . && $(PY) -m ruff format --check .
	$(CLANG_FORMAT) --dry-run --Werror $$(git ls-files 'bench/*.cpp' 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.inl' 'csrc/*.cu')
	$(PY) -m mypy bnn

bench: $(STAMP)
	$(PY) -m bench

# What `python -m bench binary_conv2d --peers` times ours against, each in an environment of its own
peers: build/peers/openvino/.installed build/peers/larq/.installed

build/peers/openvino/.installed: PACKAGES := openvino==2026.4.1
build/peers/larq/.installed: PACKAGES := larq-compute-engine==0.16.0 larq==0.14.0 tensorflow==2.16.1 tf-keras==2.16.0
build/peers/%/.installed:
	$(PEER_PYTHON) -m venv $(@D)
	$(@D)/bin/pip install -q $(PACKAGES)
	touch $@

clean:
	rm -rf build dist *.egg-info bnn/*.so .venv

$(STAMP): $(BUILD_INPUTS) $(if $(ENV),$(ENV)/bin/python)
	$(if $(ENV),$(PY) -c "import torch" 2>/dev/null || $(PY) -m pip install $(TORCH))
	BNN_CUDA=$(CUDA) $(PY) -m pip install -e ".[all]"
	mkdir -p build && touch $@

.venv/bin/python:
	$(PYTHON) -m venv .venv
