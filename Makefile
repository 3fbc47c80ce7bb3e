# All targets use one environment, .venv, which the lock files define. Needs Python 3.11 or newer and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip installs only what the lock file names, and checks each file's hash.
PIP := $(BIN)/pip --disable-pip-version-check --quiet install --require-hashes --no-deps

# How many packages a lock file names.
packages = $(shell grep -c '^[A-Za-z0-9].*==' $(1))

# How many minutes `make soak` runs.
MINUTES ?= 5

# Number of test processes. More than the usual number of cores, because most tests wait most of the time.
WORKERS ?= 5

# With this variable each test process would rewrite the assertions of all test modules anew, which takes 10 s of CPU.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-slow check lint types imports audit bench soak docs picture lock clean

help:
	@echo "make run        start the daemon in the foreground, on config/tminus.toml and ./var"
	@echo "make test       run the tests, except the slow ones"
	@echo "make test-slow  run the slow tests"
	@echo "make check      run what CI runs: lint, types, import contracts, all tests"
	@echo "make audit      look up known vulnerabilities of the locked packages"
	@echo "make bench      measure speed, scale and memory"
	@echo "make soak       run everything at once under random faults, for MINUTES=5"
	@echo "make docs       write the tables of docs/events.md, docs/asyncapi.json, the diagram in the README, ..."
	@echo "make picture    write docs/watch.svg and docs/page-*.png, the pictures in the README"
	@echo "make lock       write new lock files; needs uv"
	@echo "make clean      remove .venv and build files"

# The environment that runs the daemon. Each step prints a line, because pip is silent for up to a minute.
$(VENV)/run: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV), once and whenever requirements.lock changes"
	@echo "1/3 creating a virtual environment with $(PYTHON)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2/3 installing the $(call packages,requirements.lock) packages of requirements.lock, which takes about 40 s"
	@$(PIP) --requirement requirements.lock
	@echo "3/3 installing tminus from this folder"
	@$(BIN)/pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation --editable .
	@touch $@

# The packages that only the tests need.
$(VENV)/dev: requirements-dev.lock $(VENV)/run
	@echo "Installing the $(call packages,requirements-dev.lock) packages of requirements-dev.lock for the tests"
	@$(PIP) --requirement requirements-dev.lock
	@touch $@

run: $(VENV)/run
	@echo "Starting the daemon: configuration config/tminus.toml, state in ./var. Ctrl-C stops it."
	@$(BIN)/tminus run --config config/tminus.toml

test: $(VENV)/dev
	$(BIN)/pytest --numprocesses=$(WORKERS) --dist=worksteal -m "not slow"

test-slow: $(VENV)/dev
	$(BIN)/pytest --numprocesses=$(WORKERS) --dist=worksteal -m slow

check: lint types imports test test-slow

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev
	$(BIN)/mypy

imports: $(VENV)/dev
	$(BIN)/lint-imports --no-cache

# Fails if a locked package has a known vulnerability. If neither database of them can be reached, it prints that and
# succeeds.
audit:
	$(PYTHON) tests/support/audit.py $(VENV)/audit

bench: $(VENV)/dev
	$(BIN)/python -m tests.bench

soak: $(VENV)/dev
	$(BIN)/python -m tests.soak --minutes $(MINUTES)
	TMINUS_TEST_KILLS=100 $(BIN)/pytest --numprocesses=2 -k any_number_of_kills tests/acceptance/test_log.py

# These follow from the code: the tables of docs/events.md, docs/asyncapi.json, the diagram in the README, the mapping
# for Elasticsearch, the schema of a new SQLite database.
docs: $(VENV)/run
	$(BIN)/python -m tests.support.reference

picture: $(VENV)/dev
	$(BIN)/python -m tests.support.picture
	$(BIN)/python -m tests.support.page_pictures

# Both lock files, for every Python from 3.11 on.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --extra build --output-file requirements.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --constraint requirements.lock --extra dev \
		--output-file requirements-dev.lock pyproject.toml

clean:
	rm -rf $(VENV) build *.egg-info
