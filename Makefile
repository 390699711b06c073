# Everything runs in a virtual environment of its own, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-deep lint bench clean

demo: $(VENV)/.demo
	$(BIN)/python examples/lenet_mnist.py outputs

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

# Thousands of examples a property; an hour or more.
test-deep: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal --deep property_tests

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python benchmarks/convert_resnet101.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training.py

# The torch pin in constraints.txt is installed first: a build backend's or another package's
# unpinned torch would otherwise fetch a CUDA build.
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) outputs build *.egg-info
