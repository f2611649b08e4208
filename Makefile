# make demo: install, then train DeepFM on a synthetic click log, sharded over two local Ray workers
# make test: install, then lint, type-check and run every test but the long ones
# make tests: these tests alone
# make test-long: the long ones, which start Rays, follow the pages of docs/, kill trainings; CI runs both
# make faults: breaks runs on purpose, a thousand times, for hours; goes on where it was stopped; results in faults.jsonl
# make gpu-check: on a machine with a GPU, all that needs one: tests, samples/s, profiles; results in gpu-check/
#
# DEVICE=cpu|cuda   which builds to install (default: cuda where nvidia-smi sees a GPU)
# TORCH_INDEX=URL   where PyTorch comes from (default: pip's own setting); its CPU builds: https://download.pytorch.org/whl/cpu
# PYTHON=python3    the interpreter (3.11 or newer) that .venv is made with
# RUN=python3       gpu-check by this interpreter, which has all that is needed (Ray is not); default: .venv's, installed
# OUT=gpu-check    where gpu-check writes
# FAULTS=faults.jsonl  the file that `make faults` appends its trials to
# JOBS=2            processes that run tests side by side; 0: one test after another, in one process

PYTHON ?= python3
DEVICE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
TORCH_INDEX ?=
OUT ?= gpu-check
FAULTS ?= faults.jsonl
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
RUN ?= $(BIN)/python
INSTALLED := $(VENV)/.installed-$(DEVICE)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# what is compiled of tests and code is kept, also where the environment says otherwise: processes start by the hundred
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(JOBS) --durations 20

.PHONY: install demo test tests test-long faults gpu-check lint types clean

install: $(INSTALLED)

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python {sys.version.split()[0]} found, 3.11 or newer needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) --editable '.[$(DEVICE),dev]'
	$(if $(filter cpu,$(DEVICE)),$(PIP) --no-deps torchrec)
	$(BIN)/python -m shardrec.sharding.kernels.build
	rm -f $(VENV)/.installed-* && touch $@

demo: demo/data/schema.yaml
	rm -rf demo/run
	$(BIN)/shardrec train trainer/runs/demo.yaml

demo/data/schema.yaml: $(INSTALLED)
	$(BIN)/shardrec prepare synthetic demo/data --overwrite

# types are checked beside the tests, which wait for processes now and then
test: $(INSTALLED)
	$(MAKE) --no-print-directory --jobs 2 lint types tests

tests: $(INSTALLED)
	$(PYTEST) -m "not long"

test-long: $(INSTALLED)
	$(PYTEST) -m long

faults: $(INSTALLED)
	$(BIN)/python -m tests.faults --out $(FAULTS)

gpu-check: $(if $(filter $(BIN)/python,$(RUN)),$(INSTALLED))
	$(RUN) -m shardrec bench gpu --out $(OUT)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build *.egg-info
