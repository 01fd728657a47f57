# medseg: every target makes the virtual environment first when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= auto

.PHONY: help demo test check format bench clean

help:
	@echo "make demo    install medseg, make a data set, train, segment a DICOM series, measure"
	@echo "make test    install and run the tests"
	@echo "make check   style, types, layers, budgets"
	@echo "make bench   the measured claims; tables go to benchmarks/results/"
	@echo "make format  put the code into shape"

# The stamp is written last: an installation that was cut off is done again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	rm -rf medseg_demo
	$(BIN)/medseg demo medseg_demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/resample.py
	$(BIN)/python benchmarks/segment_memory.py
	$(BIN)/python benchmarks/dicom_read.py
	$(BIN)/python benchmarks/loss_memory.py

clean:
	rm -rf $(VENV) medseg_demo build dist .mypy_cache .ruff_cache .pytest_cache
