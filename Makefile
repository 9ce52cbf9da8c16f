# `make help` lists what there is.

PYTHON ?= python3
VENV   ?= .venv

# What the project's own environment is built on, in this one place. Another torch is fine for an environment of your
# own (pyproject.toml has the lower bounds), or here: make conformance TORCH=torch==2.13.0 TORCHVISION=torchvision
TORCH       ?= torch==2.14.1
TORCHVISION ?= torchvision==0.29.1

PROFILE ?= ci#   dev, ci or nightly
IMPLEMENTATIONS ?= ultralytics article#  what is tested
INPUTS  ?= 10000#  for each reader in make fuzz
MINUTES ?= 30#   of make soak
ROUNDS  ?= 10#   of each benchmark in make bench
WORKERS ?= auto# processes of make test: a number, auto (one a core), or 0
RELEASES ?= each#  of make eras: cached, each era's first, or the edges and the newest
ARGS    ?=#      anything that pytest takes, e.g. ARGS="--implementation my.py:assigner"

PROFILE := $(strip $(PROFILE))
TESTED  := $(foreach name,$(IMPLEMENTATIONS),--implementation $(name))
ROUNDS  := $(strip $(ROUNDS))
RELEASES := $(strip $(RELEASES))
BIN     := $(VENV)/bin
# Named after the pins, so that another TORCH sets up again; older than pyproject.toml: sets up again too.
PINS    := $(shell printf '%s' '$(TORCH) $(TORCHVISION)' | cksum | cut -d ' ' -f 1)
USER    := $(VENV)/.set-up-user-$(PINS)#  what the main job needs
STAMP   := $(VENV)/.set-up-$(PINS)#  the developers' tools as well
USER    := $(strip $(USER))
SHAPES  := --jaxtyping-packages=tal_reference,beartype.beartype

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup conformance eras test test-slow test-all test-quality fuzz soak bench power lint format docs wheel clean distclean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  PROFILE=dev|ci|nightly   how much is generated (now: $(PROFILE))'
	@echo '  IMPLEMENTATIONS="..."    what is tested (now: $(strip $(IMPLEMENTATIONS)))'
	@echo '  ROUNDS=N                 of each benchmark in make bench (now: $(ROUNDS))'
	@echo '  WORKERS=N                processes of make test (now: $(strip $(WORKERS)))'
	@echo '  ARGS="..."               passed on to pytest, e.g. ARGS="--implementation my.py:assigner --device cpu"'
	@echo '  PYTHON, VENV             the Python to start from, the environment'"'"'s folder (now: $(PYTHON), $(VENV))'
	@echo '  TORCH, TORCHVISION       what pip installs for them (now: $(TORCH), $(TORCHVISION))'

setup: $(STAMP)  ## the developers' environment in $(VENV), made once and brought up to date when pyproject.toml changes

$(USER): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Python 3.11 or newer is needed, and $(PYTHON) is' "$$($(PYTHON) --version 2>&1):" \
	       'name another one, e.g. make PYTHON=python3.12' >&2; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo '$(PYTHON) -m venv failed: on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check '$(TORCH)' '$(TORCHVISION)'
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	@rm -f $(VENV)/.set-up-*
	@touch $@

$(STAMP): $(USER)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev,docs]'
	@touch $@

conformance: $(USER)  ## the main job: every implementation asked for against the reference, with a report at the end
	$(BIN)/python -m pytest conformance --conformance-profile $(PROFILE) $(TESTED) $(ARGS)

eras: $(USER)  ## releases of Ultralytics against the table of eras (RELEASES=cached|each|edges)
	$(BIN)/python -m conformance eras --releases $(RELEASES)

PYTEST := $(BIN)/python -m pytest -n $(strip $(WORKERS)) --dist worksteal --maxprocesses 8

test: $(STAMP)  ## the tests of this project itself, without those marked slow
	$(PYTEST) tests/reference $(SHAPES) $(ARGS)
	$(PYTEST) tests --ignore tests/reference -m 'not slow' $(ARGS)

test-slow: $(STAMP)  ## the other tests: launches of whole runs, shrinking, planted faults, browsers
	$(PYTEST) tests --ignore tests/reference -m 'slow and not long' $(ARGS)

test-all: test test-slow  ## every test but those marked long

test-quality: $(STAMP)  ## the tests that say how good the suite is, long ones too: shrinking, planted faults, mutants, identification
	$(PYTEST) tests/quality $(ARGS)
	$(PYTEST) tests --ignore tests/quality -m long $(ARGS)

fuzz: $(STAMP)  ## damaged and hostile files for every reader: make fuzz INPUTS=1000000
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS)

soak: $(STAMP)  ## the suite again and again in one process, which may hold no more at the end: make soak MINUTES=30
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

bench: $(USER)  ## the benchmarks alone, of all sizes, with their report
	$(BIN)/python -m pytest conformance/suite/test_benchmark.py --rounds $(ROUNDS) $(ARGS)

power: $(STAMP)  ## proof that the suite can fail: planted faults, and mutants of the installed release and the reference
	$(BIN)/python -m conformance power --mutants all $(ARGS)

lint: $(STAMP)  ## ruff, mypy and the floors of the house (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## ruff's formatting and safe repairs
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## the documentation in site/
	$(BIN)/mkdocs build --strict

wheel: $(STAMP)  ## the wheel in dist/
	$(BIN)/python -m build --wheel

clean:  ## builds and caches (what runs left stays: reports/runs)
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find reference conformance reports tests src -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## the environment as well
	test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV)
