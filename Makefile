# `make train` and `make test` do all the set-up; nothing else needs to be installed.
PYTHON ?= python3
BIN := .venv/bin
# Each holds TensorFlow: 2 GB of memory.
WORKERS := --numprocesses 3 --dist worksteal

# What scripts/serve.py serves.
MODEL := runs/quickstart

.PHONY: train test test-slow test-beam check bench demo venv beam
.NOTPARALLEL: # one pip at a time

train: .venv/.installed ## train, evaluate and export the quickstart preset on the synthetic demo data
	$(BIN)/python scripts/train.py quickstart --overwrite

test: .venv/.installed-dev .venv/.installed-demo ## every test
	$(BIN)/python -m pytest $(WORKERS)

test-slow: .venv/.installed-dev .venv/.installed-demo ## every test, and those that take long
	$(BIN)/python -m pytest $(WORKERS) --run-slow

test-beam: .venv-beam/.installed ## the tests of the pipeline for many machines
	.venv-beam/bin/python -m pytest --run-slow tests/test_beam.py

check: .venv/.installed-dev ## lint, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/.installed-dev ## ratios of speed and memory, of the input, training and serving
	$(BIN)/python -m benchmarks input
	$(BIN)/python -m benchmarks train
	$(BIN)/python -m benchmarks serve

demo: .venv/.installed-demo ## a page to try a model on: make demo MODEL=runs/cpu
	$(BIN)/python scripts/serve.py $(MODEL)

venv: .venv/.installed ## the environment alone

beam: .venv-beam/.installed ## the environment of scripts/batch_predict.py

# pip, and not python, is the target: venv makes it last, so a broken one is made anew.
.venv/bin/pip .venv-beam/bin/pip: %/bin/pip:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."'
	$(PYTHON) -m venv --clear $*

.venv/.installed: .venv/bin/pip setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,export]'
	touch $@

# An environment of its own, and Pillow again: pip finds no versions that all ask for,
#   ERROR: Cannot install apache-beam==2.77.0 and pillow>=13 because these package versions
#   have conflicting dependencies. [...] apache-beam 2.77.0 depends on pillow<13 and >=12.1.1
# Pillow 12.3 has known holes that 13.0 closes. Beam uses it for embeddings and for Gemini
# alone, not here.
.venv-beam/.installed: .venv-beam/bin/pip setup.cfg pyproject.toml
	.venv-beam/bin/python -m pip install --quiet --editable '.[dev]'
	.venv-beam/bin/python -m pip install --quiet --no-warn-conflicts 'apache-beam >= 2.77'
	.venv-beam/bin/python -m pip install --quiet --no-warn-conflicts 'pillow >= 13.0'
	touch $@

# In two steps, and no extra of setup.cfg, because pip finds no way to do it in one:
#   gradio 6.31.0 depends on pillow<13.0 and >=8.0
# while this project asks for Pillow 13, which closes holes that 12 has. Gradio works with it.
.venv/.installed-demo: .venv/.installed
	$(BIN)/python -m pip install --quiet --no-warn-conflicts 'gradio >= 6.31'
	$(BIN)/python -m pip install --quiet --no-warn-conflicts 'pillow >= 13.0'
	touch $@
