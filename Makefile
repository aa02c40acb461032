# Every target works on a fresh clone: it makes .venv, installs what constraints.txt pins, and runs.
# A second run installs nothing unless pyproject.toml or constraints.txt changed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
INSTALLED := $(VENV)/.installed
# mypy knows a package by its folder's name, and this folder may have any: a link gives it the right one.
TYPED := build/typecheck

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format fuzz bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "attnc needs Python 3.11 or newer; choose one with: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
	@touch $@

install: $(INSTALLED) ## make .venv with everything that the other targets need

demo: $(INSTALLED) ## run both examples: errors, times, memory, IR of each stage and pictures
	$(BIN)/python examples/quickstart.py --out attnc-demo
	$(BIN)/python examples/real_model.py

test: $(INSTALLED) ## run the tests (PYTEST_ARGS="-k dilated" to choose some)
	$(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

lint: $(INSTALLED) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(TYPED) && ln -sfn ../.. $(TYPED)/attnc
	MYPYPATH=$(TYPED) $(BIN)/mypy -p attnc
	MYPYPATH=$(TYPED):examples $(BIN)/mypy examples
	MYPYPATH=$(TYPED):benchmarks $(BIN)/mypy benchmarks

format: $(INSTALLED) ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

fuzz: $(INSTALLED) ## try random programs for MINUTES (2), compare with float64; what fails goes to build/fuzz
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),2)

bench: $(INSTALLED) ## run the benchmarks and write benchmarks/results/ (BENCH_ARGS=--quick for a short run)
	$(BIN)/python benchmarks/cpu.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/training.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/startup.py $(BENCH_ARGS)

docs: $(INSTALLED) ## build the documentation into build/site; a broken link is an error
	$(BIN)/mkdocs build --strict --quiet

clean: ## remove .venv and everything that the targets made
	rm -rf $(VENV) build dist attnc-demo *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
