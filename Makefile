# The two commands of a fresh machine: make demo, make test. On Windows: the postval commands in README.md.
PYTHON ?= python3
VENV ?= .venv
TEST_PROCESSES ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test bench up lint audit sample clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

setup: $(STAMP)  ## the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/postval home
	@touch $(STAMP)

demo: setup  ## the whole job on the bundled sample, through the real daemon and sensor
	$(BIN)/postval demo

test: setup  ## all tests
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

bench: setup  ## all benchmarks (35 GB of disk); BENCH="--only engine,peers" for some (docs/benchmarks.md)
	$(BIN)/python -m postval_assets_tests.bench $(BENCH)

up: setup  ## web UI, daemon and sensors on http://127.0.0.1:3000
	$(BIN)/postval up

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: setup  ## known vulnerabilities of the pinned packages, where the advisory service can be asked
	$(BIN)/python .ci/audit.py

sample: setup  ## make data/sample again
	$(BIN)/python -m postval_assets.trainer.make_sample --out data/sample

clean:  ## remove the environment and caches; data stays
	rm -rf $(VENV) .venv-bench .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
