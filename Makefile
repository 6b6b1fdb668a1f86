# Needs Python 3.10 or newer and make; everything else is installed into .venv once.
PYTHON ?= python3
AGENT ?= gumbel
ARGS ?=
BIN := .venv/bin
# Pins for Python 3.11; `make test CONSTRAINTS=` takes the newest versions that fit another one.
CONSTRAINTS ?= --constraint constraints.txt
PIP := $(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS)

.PHONY: train test test-all faults docs

train: .venv/installed
	$(BIN)/python scripts/train_agent.py --agent $(AGENT) $(ARGS)

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m "not slow" $(ARGS)

test-all: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist worksteal $(ARGS)

# What is promised about failures, tried, with figures.
faults: .venv/installed-dev
	COLUMNS=160 $(BIN)/pytest --numprocesses 2 --dist worksteal --quiet tests/faults $(ARGS)

# The documentation in site/, warnings as errors; EXECUTE_NOTEBOOKS=1 runs its notebooks.
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Without build isolation, so that the build's own setuptools is pinned as well.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) setuptools
	$(PIP) --no-build-isolation --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --no-build-isolation --editable ".[dev]"
	touch $@
