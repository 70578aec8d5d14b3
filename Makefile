# `make quickstart` and `make test` are all the set-up there is: they need Python >= 3.11, make and
# a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(shell find convnet_edge exported/fashion-mnist.onnx pyproject.toml -type f -not -name '*.pyc')
PYTEST_ARGS ?=
HOURS ?= 0.1
SMALLER ?= SSE41
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

.PHONY: quickstart test test-all test-smaller-processor test-cuda test-arm test-emulated campaign lint format lock clean

quickstart: $(VENV)/installed-here  ## the main job on the embedded data
	$(BIN)/convnet-edge quickstart

# waiting threads of one test would spin where those of another have work
test test-all test-smaller-processor: export OMP_WAIT_POLICY := passive

test: $(VENV)/installed-locked  ## the tests that need neither network nor minutes
	$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS)

test-all: $(VENV)/installed-locked  ## every test; needs the full data, chromium, a package index
	$(BIN)/pytest --slow --index --browser $(PARALLEL) $(PYTEST_ARGS)

# weights, and so what they lead to, differ between processors: no test may rest on one of them
test-smaller-processor: $(VENV)/installed-locked  ## what trains, exports or quantises; SMALLER=AVX2: that
	ONEDNN_MAX_CPU_ISA=$(SMALLER) ATEN_CPU_CAPABILITY=default $(BIN)/pytest \
	  tests/networks tests/training tests/exporting tests/quantizing $(PARALLEL) $(PYTEST_ARGS)

test-cuda: $(VENV)/installed-locked  ## on a machine with a GPU and onnxruntime-gpu in the venv
	$(BIN)/pytest -m cuda --require-cuda $(PYTEST_ARGS)

test-arm: $(VENV)/installed-locked .emulated/ready  ## a bundle on an emulated Raspberry Pi 4
	$(BIN)/pytest -m arm --arm tests/bundling $(PYTEST_ARGS)

test-emulated: $(VENV)/installed-locked .emulated/ready  ## the shipped files on other processors
	$(BIN)/pytest -m arm --arm $(PARALLEL) --dist loadfile $(PYTEST_ARGS)

campaign: $(VENV)/installed-locked  ## six minutes of attacks; HOURS=10 for all of them
	$(BIN)/python benchmarks/campaign.py --anew --hours $(HOURS) --out runs/campaign.json

lint: $(VENV)/installed-locked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-locked
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## needs uv
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --extra train --extra cpu --extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .emulated build dist runs .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# what the tests run is the built wheel, on the locked versions
$(VENV)/installed-locked: $(VENV)/locked $(SOURCES)
	$(PIP) install --quiet --no-deps --no-build-isolation --force-reinstall .
	@touch $@ $(VENV)/installed-here

$(VENV)/locked: requirements.lock | $(BIN)/python
	$(PIP) install --quiet --require-hashes -r requirements.lock
	@touch $@

# on an amd64 Debian only
.emulated/ready: tests/project/emulated_setup.sh requirements.lock | $(VENV)/locked
	tests/project/emulated_setup.sh $(BIN)/python

# by lower bounds: the newest of everything, as a user would get it
$(VENV)/installed-here: $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet ".[train,cpu]"
	@touch $@
