# make demo | test | torture | browser | results | check | docs: each sets up what it needs in .venv and nothing else is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
RUN := $(RUN)
DEMO_FLAGS ?=
SHARE ?= 1/1
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# What one process of the tests has compiled, the others read: 5 s a worker, and 2 s a process.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-large torture browser results results-check check types docs clean

help:
	@echo "make demo    train on Shakespeare on the CPU, evaluate, generate, write a report"
	@echo "make test    run the tests; make test-slow those of more than 2 s, make test-large those of large texts"
	@echo "make torture every fault of the disk, one by one, and KILLS=50 kills at random moments (SEED=...)"
	@echo "make browser the tests of the page of atat serve, in chromium"
	@echo "make results the numbers and pictures of the pages on results, from docs/results/*.json; results-check compares"
	@echo "make check   formatting, lint, types, import rules, the numbers of the pages and the site"
	@echo "make docs    the pages of docs/ and the reference, as a site in site/"
	@echo "make clean   remove the virtual environment and all caches (runs/ and data/ stay)"

demo: $(VENV)/installed
	$(BIN)/atat train demo --out $(RUN) $(DEMO_FLAGS)
	$(BIN)/atat generate $(RUN) --length 400 --watch --seed 1
	$(BIN)/atat generate $(RUN) --length 400 --sampler spread --steps 64 --watch --seed 1
	@echo
	@echo "run folder: $(RUN)"
	@echo "on a page: $(BIN)/atat serve $(RUN)"
	@echo "or the model that comes with the package: $(BIN)/atat serve"

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow --share $(SHARE)

test-large: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 0 -m large

SEED ?= $(shell date +%s)
SEED := $(SEED)
KILLS ?= 50
ONLY ?=

torture: $(VENV)/installed-dev
	@echo "the same again: make torture SEED=$(SEED) KILLS=$(KILLS) ONLY=$(ONLY)"
	TORTURE_SEED=$(SEED) TORTURE_KILLS=$(KILLS) $(BIN)/python -m pytest -o addopts= -q -n auto -m torture -k "$(ONLY)" tests/faults

browser: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m browser -rs --share $(SHARE) tests/browser

results: $(VENV)/installed
	$(BIN)/python -m benchmarks.results

results-check: $(VENV)/installed
	$(BIN)/python -m benchmarks.results --check

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory results-check
	$(MAKE) --no-print-directory --jobs 2 types docs

types: $(VENV)/installed-dev
	$(BIN)/pyright

docs: $(VENV)/installed-dev
	$(BIN)/python -m sphinx --quiet --keep-going --fail-on-warning -b html docs site
	@echo "site: site/index.html"

clean:
	rm -rf $(VENV) site dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: Python 3.11 or newer is needed, $(PYTHON) is not; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	    exit 2; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "error: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; \
	    rm -rf $(VENV); exit 2; }

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing mdlm-atat and what it needs into $(VENV): some minutes the first time"
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing mdlm-atat, what it needs and its development tools into $(VENV): some minutes the first time"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/installed
