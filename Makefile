# `make train` and `make test` install everything they need into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Each worker imports TensorFlow and requires 2 GB of memory.
WORKERS := --numprocesses 3 --dist worksteal

# The model of `make demo`.
MODEL := runs/quickstart

.PHONY: train test test-slow test-beam check bench docs dist demo venv beam
.NOTPARALLEL: # one pip process at a time

train: .venv/.installed ## train, evaluate and export the quickstart preset on the synthetic demo data
	$(BIN)/python scripts/train.py quickstart --overwrite

test: .venv/.installed-dev ## run all tests except the slow ones
	$(BIN)/python -m pytest $(WORKERS)

test-slow: .venv/.installed-dev ## run all tests
	$(BIN)/python -m pytest $(WORKERS) --run-slow

test-beam: .venv-beam/.installed ## run the tests of the Apache Beam pipeline
	.venv-beam/bin/python -m pytest --run-slow tests/test_beam.py

check: .venv/.installed-dev ## check lint, formatting, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for platform in win32 darwin; do $(BIN)/mypy --platform $$platform \
		--cache-dir .mypy_cache/$$platform skincnn tfds_ham10000 tuning scripts || exit 1; done
	$(BIN)/lint-imports --no-logo

bench: .venv/.installed-dev ## measure speed and memory of input pipeline, training and serving
	$(BIN)/python -m benchmarks input
	$(BIN)/python -m benchmarks train
	$(BIN)/python -m benchmarks serve

docs: .venv/.installed-docs ## build the documentation site in docs/_build
	$(BIN)/python -m sphinx -W --keep-going docs docs/_build

dist: .venv/.installed-dist ## build the wheel and the source distribution, and test them in a new environment
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	.ci/test_dist $(BIN)/python

demo: .venv/.installed-dev ## serve the page and API of a model: make demo MODEL=runs/mobilenet_160
	$(BIN)/python scripts/serve.py $(MODEL)

venv: .venv/.installed ## create the environment only

beam: .venv-beam/.installed ## create the environment for scripts/batch_predict.py

# TensorFlow has wheels for these versions of Python, and none for Intel Macs.
define CHECK_PYTHON
import platform, sys
if not (3, 11) <= sys.version_info < (3, 14):
    sys.exit("Python 3.11 to 3.13 is required: make PYTHON=python3.12 ...")
if sys.platform == "darwin" and platform.machine() == "x86_64":
    sys.exit("TensorFlow has no version for Intel Macs: see docs/guides/platforms.md")
endef
export CHECK_PYTHON

# The target is pip, which venv installs last: an incomplete environment is recreated.
.venv/bin/pip .venv-beam/bin/pip: %/bin/pip:
	$(PYTHON) -c "$$CHECK_PYTHON"
	$(PYTHON) -m venv --clear $*

.venv/.installed: .venv/bin/pip setup.cfg pyproject.toml
	@echo "Installing packages in .venv (minutes)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,export,weights,serve]'
	touch $@

.venv/.installed-docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

.venv/.installed-dist: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dist]'
	touch $@

# A separate environment, with Pillow installed in a second step, because of a conflict:
#   ERROR: Cannot install apache-beam==2.77.0 and pillow>=13 because these package versions
#   have conflicting dependencies. [...] apache-beam 2.77.0 depends on pillow<13 and >=12.1.1
# Pillow 12.3 has known vulnerabilities that 13.0 fixes. Beam uses Pillow only for embeddings
# and for Gemini, which are not used here.
.venv-beam/.installed: .venv-beam/bin/pip setup.cfg pyproject.toml
	.venv-beam/bin/python -m pip install --quiet --editable '.[dev]'
	.venv-beam/bin/python -m pip install --quiet --no-warn-conflicts 'apache-beam >= 2.77'
	.venv-beam/bin/python -m pip install --quiet --no-warn-conflicts 'pillow >= 13.0'
	touch $@
