# Each target does all of its own set-up. What make prints are the plain commands; type them by hand if you like.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: help demo test check bench clean

help:            ## show this list
	@sed -n 's/^\([a-z]*\): *[^#]*## /  make \1 \t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.host  ## run the study's experiment on a virtual lab and draw its figure (about a minute)
	$(BIN)/deploy up inventory/virtual.yaml

test: $(VENV)/.test  ## run the whole test suite
	$(BIN)/python -m pytest

check: $(VENV)/.test  ## lint, types, import boundaries
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test  ## time the engine against Flower's own gRPC server, and 50 hosts against OpenSSH, each in one run
	$(BIN)/python bench/engine.py --quick
	$(BIN)/python bench/fanout.py --hosts 50 --quick

clean:           ## remove the virtual environment and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.host: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[host]'
	touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
