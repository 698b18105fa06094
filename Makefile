# Each target does all of its own set-up. What make prints are the plain commands; type them by hand if you like.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: help demo test test-waiting test-computing check bench clean

help:            ## show this list
	@sed -n 's/^\([a-z]*\): *[^#]*## /  make \1 \t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.host  ## run the study's experiment on a virtual lab and draw its figure (about a minute)
	$(BIN)/deploy up inventory/virtual.yaml

# Tests of links that are down for minutes wait most of the time, so those that only compute run beside them. All others
# time something, and run alone.
WAITING   = tests/grpc/test_links.py
COMPUTING = tests/unit tests/environment tests/fake

test: $(VENV)/.test  ## run the whole test suite
	@status=0; \
	$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync test-waiting test-computing || status=1; \
	$(BIN)/python -m pytest tests $(addprefix --ignore=,$(WAITING) $(COMPUTING)) || status=1; \
	exit $$status

test-waiting: $(VENV)/.test
	$(BIN)/python -m pytest $(WAITING)

test-computing: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile $(COMPUTING)

check: $(VENV)/.test  ## lint, types, import boundaries
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test  ## time the engine against Flower's own gRPC server, 50 hosts against OpenSSH, a report of a million events
	$(BIN)/python bench/engine.py --quick
	$(BIN)/python bench/fanout.py --hosts 50 --quick
	$(BIN)/python bench/report.py --events 1

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
