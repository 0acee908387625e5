# `make train` and `make test` do all the set-up; nothing else needs to be installed.
PYTHON ?= python3
BIN := .venv/bin
# Each holds TensorFlow: 2 GB of memory.
WORKERS := --numprocesses 3 --dist worksteal

.PHONY: train test test-slow check bench venv

train: .venv/.installed ## train, evaluate and export the quickstart preset on the made-up demo data
	$(BIN)/python scripts/train.py quickstart --overwrite

test: .venv/.installed-dev ## every test
	$(BIN)/python -m pytest $(WORKERS)

test-slow: .venv/.installed-dev ## every test, and those that take long
	$(BIN)/python -m pytest $(WORKERS) --run-slow

check: .venv/.installed-dev ## lint, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/.installed-dev ## ratios of speed and memory, of the input, training and serving
	$(BIN)/python scripts/benchmark.py input
	$(BIN)/python scripts/benchmark.py train
	$(BIN)/python scripts/benchmark.py serve

venv: .venv/.installed ## the environment alone

# pip, and not python, is the target: venv makes it last, so a broken .venv is made anew.
.venv/bin/pip:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."'
	$(PYTHON) -m venv --clear .venv

.venv/.installed: .venv/bin/pip setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,export]'
	touch $@
