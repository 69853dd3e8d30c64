# `make demo` and `make test` do all the set-up themselves; the second time they reuse it.
VENV   ?= .venv
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
TORCH  := $(shell sed -n 's/^torch==//p' constraints.txt)
# The CPU build of torch is much smaller than the default one; it is used when its index can be reached.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# Files of tests run side by side; each keeps its own order and fixtures.
TEST_WORKERS ?= 2
PYTEST := $(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile

.PHONY: help setup models demo test test-all lint format lock clean

help:
	@echo "make demo      index the sample papers and answer three questions"
	@echo "make test      lint, type-check and test"
	@echo "make test-all  the same, with the tests that take minutes"
	@echo "make lint | format | lock | clean"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt index/_kernels.c
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "== setting up $(VENV) with $$($(PYTHON) --version) (once; some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== installing torch $(TORCH), CPU build"
	@$(BIN)/python -c 'import importlib.metadata as m, sys; sys.exit(not m.version("torch").startswith("$(TORCH)"))' 2>/dev/null \
	  || { $(BIN)/python -c 'import urllib.request as u; u.urlopen("$(TORCH_CPU_INDEX)/torch/", timeout=5)' 2>/dev/null \
	       && $(PIP) install -q --no-deps --index-url $(TORCH_CPU_INDEX) torch==$(TORCH); } \
	  || $(PIP) install -q -c constraints.txt torch==$(TORCH)
	@echo "== installing hiperrag[cpu,test] with the versions in constraints.txt"
	@$(PIP) install -q -c constraints.txt -e '.[cpu,test]'
	@touch $@

models: setup
	@$(BIN)/hiperrag models get minilm
	@$(BIN)/hiperrag models get smollm2

demo: models
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint models
	$(PYTEST) -m "not slow and not gpu"

test-all: lint models
	$(PYTEST) -m "not gpu"

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	@rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip install -q torch==$(TORCH)
	@$(VENV)-lock/bin/python -m pip install -q '.[cpu,test,bench,samples]'
	@$(VENV)-lock/bin/python -m pip freeze --exclude hiperrag --exclude setuptools | sed 's/+cpu$$//' > constraints.txt
	@rm -rf $(VENV)-lock && echo "wrote constraints.txt"

clean:
	rm -rf $(VENV) demo-collection build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
