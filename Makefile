# make setup | demo [DICOM=/some/folder] | test | bench | accuracy | lint | lock      (EXTRA=gpu for a GPU environment)
PYTHON ?= python3
EXTRA  ?= cpu
VENV   := .venv
BIN    := $(VENV)/bin
HOME_DIR := .popscan
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: setup setup-test demo test bench accuracy lint lock clean

setup: $(VENV)/installed-$(EXTRA)

$(VENV)/installed-$(EXTRA): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing Popscan into $(VENV) (a few minutes the first time) ..."
	$(PIP) -e '.[$(EXTRA)]'
	touch $@

setup-test: $(VENV)/installed-test

$(VENV)/installed-test: $(VENV)/installed-$(EXTRA)
	$(PIP) -e '.[$(EXTRA),train,test]'
	touch $@

demo: setup
ifdef DICOM
	$(BIN)/popscan --home $(HOME_DIR) screen '$(DICOM)' --programme calcium
	$(BIN)/popscan --home $(HOME_DIR) report
else
	$(BIN)/popscan --home $(HOME_DIR) demo
endif

test: setup-test lint
	$(BIN)/python -m pytest tests/benchmarks
	$(BIN)/python -m pytest --ignore=tests/benchmarks -n logical --maxprocesses=4 --dist loadfile --no-loadscope-reorder

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup-test
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-columns=min,median,rounds -s

accuracy: setup-test
	$(BIN)/python -m tests.accuracy

lock:
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile pyproject.toml --extra cpu --extra gpu --extra train --extra test --universal \
	  --python-version 3.11 --no-annotate --no-header --upgrade -c lock.in -o constraints.txt

clean:
	rm -rf $(VENV) $(VENV)-lock
