# Every target sets up what it needs; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := $(BIN)/uv pip compile pyproject.toml --group dev --group bench --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-header --no-emit-package ferry --quiet

.PHONY: help
help: ## this list
	@grep -hE '^[a-z][a-zA-Z0-9_-]*:.*##' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-zA-Z0-9_-]+):.*## /\1\t/' | expand -t 20

$(VENV)/.installed: requirements.lock pyproject.toml user_code/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Ferry needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is `$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "The virtual environment cannot be made. On Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "Installing what requirements.lock names …"
	@grep -A100 '^uv==' requirements.lock | awk 'NR == 1 || /^    --hash/ {print; next} {exit}' > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.lock
	@# Compiled now: where Python may not write bytecode, every process would compile Dagster anew, for seconds.
	@$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e user_code
	@$(BIN)/python -m compileall -q user_code/src
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## make .venv and install the locked packages

.PHONY: demo
demo: $(VENV)/.installed ## migrate the example shop, without Docker (SCALE=0.02)
	@$(BIN)/python -m shop.demo.migrate

.PHONY: demo-airbyte
demo-airbyte: $(VENV)/.installed ## migrate what an emulated Airbyte syncs, without an account (SCALE=0.02)
	@$(BIN)/python -m shop.demo.airbyte tests/emulators/airbyte.py

.PHONY: demo-shopify
demo-shopify: $(VENV)/.installed ## migrate a shop from an emulated Shopify, without an account (ORDERS=3000)
	@$(BIN)/python -m shop.demo.shopify tests/emulators/shopify.py

.PHONY: demo-to-shopify
demo-to-shopify: $(VENV)/.installed ## migrate an old shop into an emulated Shopify, by bulk mutations (SCALE=0.002)
	@$(BIN)/python -m shop.demo.to_shopify tests/emulators/shopify.py

.PHONY: demo-databases
demo-databases: $(VENV)/.installed ## start the demo's databases alone and print their URLs
	@$(BIN)/python -m shop.demo databases

.PHONY: demo-ui
demo-ui: $(VENV)/.installed ## open the Dagster UI on what the demo did (PORT=3000)
	@$(BIN)/python -m shop.demo.ui

.PHONY: demo-clean
demo-clean: ## remove the demo's databases, stage and history
	@test ! -x $(BIN)/python || $(BIN)/python -m shop.demo clean
	@rm -rf out/demo out/demo-airbyte out/demo-shopify out/demo-to-shopify

.PHONY: test
test: $(VENV)/.installed ## unit and integration tests, without Docker
	@tests/mariadb.sh
	@# Four, on two cores as well: half of its time a test waits, for a server, a process of its own or a clock.
	@$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder \
	  tests/unit tests/integration tests/oracle

.PHONY: test-daemon
test-daemon: $(VENV)/.installed ## backfills, queues and re-executions through Dagster's webserver and daemon, without Docker
	@$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --timeout 900 tests/daemon

.PHONY: test-demos
test-demos: $(VENV)/.installed ## the demos end to end, and data sets that others made, without Docker
	@$(BIN)/python -m pytest --numprocesses 4 --dist loadfile tests/demos

.PHONY: docs-pictures
docs-pictures: $(VENV)/.installed ## draw docs/images anew: a failed backfill in the UI (needs Debian's chromium)
	@FERRY_PICTURES=docs/images $(BIN)/python -m pytest tests/browser/test_recovery.py

.PHONY: check
check: $(VENV)/.installed ## format, lint, types, definitions, lock
	@$(BIN)/ruff format --check --quiet . || { echo "Run: make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@cd user_code && DAGSTER_HOME= ../$(BIN)/dg check defs
	@cp requirements.lock $(VENV)/wanted.lock && $(LOCK) -o $(VENV)/wanted.lock && cmp -s requirements.lock $(VENV)/wanted.lock \
	  || { echo "requirements.lock is not what pyproject.toml asks for. Run: make lock" >&2; exit 1; }

.PHONY: format
format: $(VENV)/.installed ## format the code and mend what the linter can
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

.PHONY: lock
lock: $(VENV)/.installed ## write requirements.lock anew from pyproject.toml
	@$(LOCK) -o requirements.lock

-include deploy/platform.mk
-include benchmarks/benchmarks.mk
-include tests/chaos/chaos.mk
