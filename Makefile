# Every target makes the environment it needs; `make demo` is the place to start.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test slow check format lint types layers spelling bench docs lock clean

help: ## say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "expunge needs Python 3.11 or newer; say which: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## unlearn, audit and report on bundled data, in about a minute
	$(BIN)/expunge demo

test: $(READY) ## the default tests, in under five minutes
	$(BIN)/python -m pytest -q -n 2

slow: $(READY) ## the tests that take longer
	$(BIN)/python -m pytest -q -m slow

check: format lint types layers spelling test ## everything that CI asks for

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/pyright

layers: $(READY)
	$(BIN)/lint-imports

spelling: $(READY)
	$(BIN)/codespell

bench: $(READY) ## measure the claims about speed, as ratios in one run
	$(BIN)/python -m benchmarks



docs: $(READY) ## write docs/cards.md from the code
	$(BIN)/python docs/make_cards.py

lock: $(READY) ## write the versions now installed as constraints
	( sed -n '/^#/p' constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' ) > constraints.new
	mv constraints.new constraints.txt

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info src/*.egg-info
