# Everything is set up by the targets themselves: they need Python 3.11 or newer with venv, and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEXUSCTL := $(BIN)/nexusctl

.PHONY: start stop test check bench docs clean help

help:
	@echo "make start   start the daemon and create the VM record demo"
	@echo "make stop    stop the daemon"
	@echo "make test    run all tests"
	@echo "make check   ruff and mypy"
	@echo "make bench   measure, and print the table of the README"
	@echo "make docs    write protocol/COMMANDS.md anew"

$(VENV)/.runtime: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Nexus needs Python 3.11 or newer; say where it is: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

start: $(VENV)/.runtime
	@$(NEXUSCTL) daemon start
	@$(NEXUSCTL) vm inspect demo --output name >/dev/null 2>&1 || $(NEXUSCTL) vm create demo
	@echo
	@$(NEXUSCTL) status
	@echo
	@$(NEXUSCTL) vm list
	@echo
	@echo "Try next, with $(CURDIR)/$(BIN) in your PATH:"
	@echo "  nexusctl vm inspect demo"
	@echo "  nexusctl vm create web --vcpu 2 --mem 512"
	@echo "  nexusctl service add site --port 0 --start --run 'exec python3 -m http.server \$$PORT --bind 127.0.0.1'"
	@echo "  nexusctl service list"
	@echo "  nexusctl events --no-follow"
	@echo "  nexusctl doctor"
	@echo "  nexusctl service stop --all"
	@echo "  nexusctl daemon stop"

stop: $(VENV)/.runtime
	@$(NEXUSCTL) daemon stop

test: $(VENV)/.development
	@$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(PYTEST_ARGS)

check: $(VENV)/.development
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.development
	@$(BIN)/python tests/bench/run.py $(BENCH_ARGS)

docs: $(VENV)/.development
	@$(BIN)/python -m nexus.docs

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
