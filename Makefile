# The project's commands; `make help` lists them. Needs GNU make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
PIP_FLAGS := --disable-pip-version-check --no-input $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check devices faults dev docs lock demo-models clean

help:
	@echo "make run          the whole pipeline on the embedded demo models, offline; prints the before/after table"
	@echo "make test         all tests"
	@echo "make check        formatting, lint, security rules, types, imports, all tests, known vulnerabilities of what is installed"
	@echo "make devices      tries everything on this machine's GPU, or on a Mac; prints a table; minutes"
	@echo "make faults       kills, full disks and damaged files, tried on every stage; prints a table; minutes"
	@echo "make dev          only make $(VENV), with all that tests and checks need"
	@echo "make docs         write docs/settings.md anew from config.py"
	@echo "make lock         write requirements.lock anew; needs uv"
	@echo "make demo-models  train the embedded demo models anew"
	@echo "make clean        remove $(VENV) and caches; checkpoints stay"
	@echo
	@echo "The first call makes $(VENV) and installs the requirements. Options:"
	@echo "  PYTHON=python3.11   the interpreter, 3.10 to 3.13 (now: $(PYTHON))"
	@echo "  PARALLEL=             tests in one process, and not as many as there are cores (at most 4)"
	@echo "  TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	@echo "                      torch without CUDA, gigabytes smaller, for Linux machines without a GPU"

run: $(STAMP)
	$(BIN)/python data_preparation.py --preset demo --overwrite
	$(BIN)/python training_ppo.py --preset demo --overwrite
	$(BIN)/python evaluate_ppo.py --preset demo --overwrite

test: $(DEV_STAMP)
	$(BIN)/python -m pytest -q $(PARALLEL)

check: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q $(PARALLEL)
	$(BIN)/python -m tests.audit

devices: $(DEV_STAMP)
	$(BIN)/python -m tests.device_check

faults: $(DEV_STAMP)
	$(BIN)/python -m tests.faults

dev: $(DEV_STAMP)

docs: $(STAMP)
	$(BIN)/python -m docs.settings_reference

lock:
	uv pip compile requirements.txt requirements-dev.txt --universal --python-version 3.10 -q \
	  --custom-compile-command "make lock" -o requirements.lock

demo-models: $(STAMP)
	$(BIN)/python -m detox.demo.build

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.10 to 3.13; name one, such as: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@rm -f $@
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements.txt -c requirements.lock
	@touch $@

$(DEV_STAMP): requirements-dev.txt $(STAMP)
	@rm -f $@
	$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements-dev.txt -c requirements.lock
	@touch $@
