# On a machine with python3 (3.10 or later) and make, every target sets up what it needs in .venv first.
#
#   make demo      optimise a trained model of fixtures/, accuracy before and after
#   make test      all tests, the fast ones first
#   make fuzz      fold random graphs by the thousand (BNFUSE_FUZZ=20000, BNFUSE_FUZZ_SEED=…)
#   make fuzz-files  damaged ONNX files by the thousand (BNFUSE_FUZZ=20000, BNFUSE_FUZZ_SEED=…)
#   make fuzz-keras  damaged Keras files by the thousand: a result or a sentence? (BNFUSE_FUZZ=20000, MODELS="…")
#   make kills     kill bnfuse at every step and any moment, fill disks, run several at once: is the output whole?
#   make mutants   do the tests notice mistakes in the algebra and the tables? (MODULE=core/axes.py)
#   make test-oldest  the quick tests with the lowest versions that pyproject.toml allows (PYTHON=python3.10)
#   make test-newest  and with the newest there are; both without TensorFlow
#   make test-portable  tests of files, without what only POSIX has
#   make lint      ruff, mypy, import contracts
#   make docs      docs/report-format.md anew, out of the schemas, and the picture of README.md
#   make dist      sdist and wheel, checked, in dist/
#   make fixtures  train the fixture networks anew (installs PyTorch and TensorFlow)
#   make bench     cost of the optimiser beside cp and other tools (installs them; needs about 20 GB of disk)
#   make clean     remove what the targets made, .venv included

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := build/demo
# Any model of fixtures/: an .onnx needs no TensorFlow.
MODEL ?= digits_b.keras
KIND := $(if $(filter %.onnx,$(MODEL)),onnx,keras)
FUSED := $(DEMO)/$(basename $(MODEL)).fused$(suffix $(MODEL))
INPUTS_onnx := digits_inputs.npz
INPUTS_keras := digits28_inputs.npz
DOWNLOADS_tensorflow := : TensorFlow and tf_keras, some 600 MB
DOWNLOADS_test := : TensorFlow, tf_keras and pytest, some 600 MB
NEEDS_onnx := base
NEEDS_keras := tensorflow

.DEFAULT_GOAL := help
.PHONY: help demo test test-portable test-oldest test-newest docs dist fuzz fuzz-files fuzz-keras kills mutants lint format fixtures fixtures-onnx fixtures-keras bench clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.ready-$(NEEDS_$(KIND))
	@mkdir -p $(DEMO)
	@echo "== accuracy before"
	@$(BIN)/python -m fixtures.accuracy fixtures/$(MODEL)
	@echo "== bnfuse optimize fixtures/$(MODEL)"
	@$(BIN)/bnfuse optimize fixtures/$(MODEL) --output $(FUSED) --force \
	    --inputs fixtures/$(INPUTS_$(KIND)) --report $(DEMO)/report.md --report $(DEMO)/report.json
	@echo "== accuracy after"
	@$(BIN)/python -m fixtures.accuracy $(FUSED)
	@echo "== the result and its reports are in $(DEMO)"

# A worker takes up to 4 GB where it has TensorFlow loaded. PYTEST_WORKERS=0 keeps all in one process (--pdb).
PYTEST_WORKERS ?= 2

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

# Each in an environment of its own. Without TensorFlow: what needs it skips.
test-oldest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-oldest test-newest: $(VENV)/.ready-bounds
	rm -rf $(VENV)-$@
	$(BIN)/uv venv --quiet --python $(PYTHON) $(VENV)-$@
	$(BIN)/uv pip compile --quiet --no-annotate --only-binary :all: --resolution $(RESOLUTION) \
	    --python $(VENV)-$@/bin/python --extra test-onnx --output-file $(VENV)-$@/versions.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(VENV)-$@/bin/python --requirements $(VENV)-$@/versions.txt
	$(BIN)/uv pip install --quiet --python $(VENV)-$@/bin/python --no-deps --editable .
	@cat $(VENV)-$@/versions.txt
	$(VENV)-$@/bin/python -m pytest -n $(PYTEST_WORKERS) -m "not slow" $(PYTEST_ARGS)

# As on a system that has no more than Python promises everywhere (Windows): tests of files, in one process.
FILES := portable external_data staging placing narrow_places wire unchanged small_files streams packed \
    packed_keras keras_hostile_hdf5 keras_hostile_disk keras_written python_models

test-portable: $(VENV)/.ready-test
	BNFUSE_PORTABLE=1 $(BIN)/python -m pytest -m "not slow" $(FILES:%=tests/test_%.py) $(PYTEST_ARGS)

# Other graphs every time; the first seed is printed, and a failure prints its own.
BNFUSE_FUZZ ?= 20000
BNFUSE_FUZZ_SEED := $(or $(BNFUSE_FUZZ_SEED),$(shell date +%s))

fuzz: $(VENV)/.ready-test
	@echo "== $(BNFUSE_FUZZ) random graphs from seed $(BNFUSE_FUZZ_SEED) on"
	BNFUSE_FUZZ=$(BNFUSE_FUZZ) BNFUSE_FUZZ_SEED=$(BNFUSE_FUZZ_SEED) $(BIN)/python -m pytest --maxfail=3 tests/test_random_graphs.py
	BNFUSE_FUZZ=$(BNFUSE_FUZZ) BNFUSE_FUZZ_SEED=$(BNFUSE_FUZZ_SEED) $(BIN)/python -m pytest --maxfail=3 tests/test_keras_order.py -k random

fuzz-files: $(VENV)/.ready-test
	$(BIN)/python -m benchmarks.fuzz_onnx --mutants $(BNFUSE_FUZZ) --seed $(BNFUSE_FUZZ_SEED)

# Those of fixtures/, or MODELS.
fuzz-keras: $(VENV)/.ready-test
	$(BIN)/python -m benchmarks.fuzz_keras --mutants $(BNFUSE_FUZZ) --seed $(BNFUSE_FUZZ_SEED) $(MODELS)

kills: $(VENV)/.ready-test
	$(BIN)/python -m benchmarks.kills

# Hours for all; one module is quick: make mutants MODULE=core/axes.py (results: build/mutants, docs/mutants.md).
mutants: $(VENV)/.ready-mutants
	$(BIN)/python -m benchmarks.mutants $(MODULE)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready-base
	$(BIN)/python -m docs.report_format
	$(BIN)/python -m docs.picture

dist: $(VENV)/.ready-dist
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*

fixtures: fixtures-onnx fixtures-keras

fixtures-onnx: $(VENV)/.ready-fixtures
	$(BIN)/python -m fixtures.make

fixtures-keras: $(VENV)/.ready-fixtures
	$(BIN)/python -m fixtures.make_keras

bench: $(VENV)/.ready-peers
	$(BIN)/python benchmarks/optimizer_cost.py $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(VENV)-test-* build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Set-up. One stamp per extra; all are stale as soon as pyproject.toml changes.
$(VENV)/.ready-base: $(VENV)/.ready-venv pyproject.toml
	@echo "== fetching onnx, onnxruntime, h5py and numpy into $(VENV) (once, some 60 MB; pip is silent meanwhile)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.ready-%: $(VENV)/.ready-venv pyproject.toml
	@echo "== fetching what '$*' needs into $(VENV) (once; pip is silent meanwhile)$(DOWNLOADS_$*)"
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

# Debian and Ubuntu ship python3 without ensurepip: then a pip outside the environment fills it, where there is one.
$(VENV)/.ready-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "bnfuse needs Python 3.10 or later, and '$(PYTHON)' is older or not there: run 'make PYTHON=python3.12' with one that is." >&2; exit 1; }
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	    $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -m venv --without-pip $(VENV) && \
	    $(PYTHON) -m pip --python $(BIN)/python install --quiet pip 2>/dev/null; then \
	    :; \
	else \
	    echo "'$(PYTHON)' cannot make a virtual environment with pip in it, as it lacks ensurepip: install it (Debian and Ubuntu: apt install python3-venv) and run make again." >&2; \
	    rm -rf $(VENV); exit 1; \
	fi
	@touch $@
