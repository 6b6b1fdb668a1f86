# Needs Python 3.10 or newer and make; everything else is installed into .venv once.
PYTHON ?= python3
AGENT ?= gumbel
ARGS ?=
BIN := .venv/bin
# Pins for Python 3.11; `make test CONSTRAINTS=` takes the newest versions that fit another one.
CONSTRAINTS ?= --constraint constraints.txt
PIP := $(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS)

# torch 2.8.0 is the lowest that is allowed; from PyPI it comes with gigabytes (constraints-lowest.txt).
LOWEST_TORCH ?= 2.13.0
# constraints.txt, with the lines of another file in place of its own.
WITH = awk -F== 'NR == FNR {named[$$1]} NR == FNR || !($$1 in named)' - constraints.txt

.PHONY: train test test-all test-lowest test-examples faults docs

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

# The fast tests, on the lowest versions that pyproject.toml allows; the tests of what dev brings need what dev brings.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/pytest --numprocesses 2 --dist worksteal -m "not slow" \
		--deselect tests/test_packaging.py::test_every_distribution_that_is_installed_is_pinned_exactly \
		--deselect tests/test_packaging.py::test_the_pins_are_what_the_tests_run_on \
		--deselect tests/test_packaging.py::test_an_extra_widens_the_closure $(ARGS)

# Every example, slow ones too, and other people's code in the tests.
test-examples: .venv-examples/installed
	.venv-examples/bin/pytest tests/test_examples.py tests/envs/test_other_code.py $(ARGS)

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

.venv-lowest/installed: pyproject.toml constraints.txt constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	(cat constraints-lowest.txt; echo torch==$(LOWEST_TORCH)) | $(WITH) > .venv-lowest/constraints.txt
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --constraint .venv-lowest/constraints.txt setuptools
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --constraint .venv-lowest/constraints.txt \
		--no-build-isolation --editable ".[contrib,dashboard,nevergrad,ray,tensorboard]" \
		build hypothesis import-linter pytest pytest-xdist
	touch $@

.venv-examples/installed: pyproject.toml constraints.txt constraints-examples.txt
	$(PYTHON) -m venv .venv-examples
	cat constraints-examples.txt | $(WITH) > .venv-examples/constraints.txt
	.venv-examples/bin/pip install --quiet --disable-pip-version-check --constraint .venv-examples/constraints.txt setuptools
	.venv-examples/bin/pip install --quiet --disable-pip-version-check --constraint .venv-examples/constraints.txt \
		--no-build-isolation --editable ".[examples]" pytest
	touch $@
