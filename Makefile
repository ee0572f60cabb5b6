# Requirements: Python 3.11 or newer with venv. Each target installs everything else that it needs into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEXUSCTL := $(BIN)/nexusctl

# Two workers per core: at any moment about half of the tests wait for a timer or for another process.
TEST_WORKERS = $${PYTEST_XDIST_AUTO_NUM_WORKERS:-$$((2 * $$(nproc)))}
# Every process that a test starts imports the tree, so it is compiled once before the run. pytest keeps its rewritten
# test modules, too, unless PYTHONDONTWRITEBYTECODE is set, as it is in many containers.
PYTEST = $(BIN)/python -m compileall -q nexus protocol/nexus_protocol && \
	PYTHONDONTWRITEBYTECODE= PYTEST_XDIST_AUTO_NUM_WORKERS=$(TEST_WORKERS) \
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --durations 10
# How many times the usual examples and rounds "make soak" runs.
SOAK ?= 20

.PHONY: start stop test soak check bench docs clean help

help:
	@echo "make start   start the daemon and create the VM record demo"
	@echo "make stop    stop the daemon"
	@echo "make test    run all tests; PYTEST_ARGS='-k journal' adds options for pytest"
	@echo "make soak    run the property tests and the kill -9 tests 20 times as long; SOAK=100 for longer"
	@echo "make check   run ruff and mypy"
	@echo "make bench   run the benchmarks and print the README's table"
	@echo "make docs    regenerate protocol/COMMANDS.md"

$(VENV)/.runtime: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cannot set up Nexus: $(PYTHON) is missing or older than 3.11"; echo "  Name another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "cannot set up Nexus: Python's venv module is missing"; echo "  On Debian: apt-get install python3-venv"; exit 1; }
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
	@$(PYTEST) $(PYTEST_ARGS)

soak: export NEXUS_TESTS_SOAK = $(SOAK)
soak: $(VENV)/.development
	@$(PYTEST) -m 'hypothesis or soak' $(PYTEST_ARGS)

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
