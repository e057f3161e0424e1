# `make demo` and `make test` on a machine with Python 3.11 or later: both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Files of tests at a time: `make test JOBS=8`.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

.PHONY: demo test test-slow fuzz lint coverage mutation clean

demo: .venv/installed
	$(BIN)/nearkin demo --out runs/demo $(ARGS)

test: .venv/installed-dev
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: .venv/installed-dev
	$(PYTEST) -m slow --durations 20 $(ARGS)

# every line of the losses and the metrics, by the fast tests
coverage: .venv/installed-dev
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -m "not slow" tests/losses tests/metrics $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# `make fuzz SECONDS=600` gives each target ten minutes
fuzz: .venv/installed-dev
	NEARKIN_FUZZ_SECONDS=$(or $(SECONDS),60) $(BIN)/python -m pytest -m slow -s tests/fuzz $(ARGS)

# what these tests notice: docs/reliability.md
mutation: .venv/installed-mutation
	$(BIN)/python tools/mutation.py $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet --editable '.[serve]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $@

.venv/installed-mutation: .venv/installed-dev
	$(BIN)/pip install --disable-pip-version-check --quiet --editable '.[mutation]'
	touch $@

clean:
	rm -rf .venv runs
