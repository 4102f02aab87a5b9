# Everything starts here; the environment makes itself in .venv. `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env wheelhouse demo test lint prove bench docs clean

# The first interpreter that is new enough; constraints.txt was tested with Python 3.11.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := $(CURDIR)/.venv/bin
RUNTIME := .venv/.runtime
COMPLETE := .venv/.complete
# Modules are byte-compiled when first imported: compiling all of torch would double the installation. A machine that
# forbids that would compile them anew in every process: three times as long to start, and tests start many.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# DeepSpeed looks for ninja on PATH.
export PATH := $(BIN):$(PATH)

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

env: $(COMPLETE)  ## make .venv with the tested versions

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; install one, or name it: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv

# torch comes first and alone: where a CPU wheel is at hand, nothing later may ask for another build of it.
$(RUNTIME): setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(COMPLETE): $(RUNTIME)
	$(PIP) -e '.[dev,ingest,archive,object,eval]'
	touch $@

# For machines without a network: launch/install.sh --wheelhouse wheelhouse TARGET. WHEELHOUSE_TORCH=no leaves torch and CUDA
# to the site; EXTRAS=ingest,object adds what those need. Wheels fit this Python and kind of machine.
wheelhouse: | $(BIN)/python  ## all wheels for nodes without a network, into wheelhouse/
	rm -rf wheelhouse build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check -c constraints.txt -w wheelhouse \
		'setuptools>=70.1' '.$(if $(EXTRAS),[$(EXTRAS)])'
	[ "$(WHEELHOUSE_TORCH)" != no ] || rm -f wheelhouse/{torch,triton,nvidia_*,cuda_*}-*.whl
	@echo "$$(ls wheelhouse | wc -l) wheels, $$(du -sh wheelhouse | cut -f1)"

demo: $(RUNTIME)  ## simulate, pretrain, export, score, report: the whole way on a laptop
	bash recipes/demo.sh

test: lint  ## lint, then all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(COMPLETE)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

prove: $(RUNTIME)  ## the long proofs, resumable cell by cell, into benchmarks/results/
	$(BIN)/python -m benchmarks.prove

# litdata asks for a torchvision that reading does not need, and that must match torch: see benchmarks/reader.py.
bench: $(RUNTIME)  ## ratios of start-up, objectives and reading on this machine
	$(PIP) -e '.[bench]'
	$(BIN)/python -m benchmarks.reader --quick
	for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

docs: $(COMPLETE)  ## build the site in site/
	$(BIN)/mkdocs build --quiet --strict

clean:  ## remove what the other targets made, the environment too (finished cells of `make prove` stay)
	rm -rf .venv wheelhouse site build demo .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
