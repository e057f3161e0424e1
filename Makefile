# `make demo` and `make test` on a machine with Python 3.11 or later: both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint clean

demo: .venv/installed
	$(BIN)/nearkin demo --out runs/demo $(ARGS)

test: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow $(ARGS)

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

clean:
	rm -rf .venv runs
