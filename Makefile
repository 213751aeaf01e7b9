# Everything a developer types. The environment in .venv is made, and kept up to date, by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Two test processes share the machine: other engines get one thread each, TVM at most two, and no
# thread is tied to a core (both processes would tie theirs to the same one).
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	TVM_NUM_THREADS=2 TVM_BIND_THREADS=0
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-all bench bench-check report check format clean

demo: $(STAMP)  ## compile a network, check it against ONNX Runtime, time it beside the others
	$(BIN)/python -m edgeconv.benchmarks.demo

test: $(STAMP)  ## all tests but the slow ones
	$(PYTEST)

test-all: $(STAMP)  ## every test, and property tests on examples never drawn before
	HYPOTHESIS_PROFILE=random $(PYTEST) -m "slow or not slow"

bench: $(STAMP)  ## a quick benchmark
	$(BIN)/edgeconv bench nets --engines tvm

bench-check: $(STAMP)  ## five minutes: nothing slower than the baseline, relative to ONNX Runtime
	$(BIN)/edgeconv bench check

report: $(STAMP)  ## docs/performance.md, docs/performance-zen4.md and report.html from benchmarks/results
	$(BIN)/edgeconv report benchmarks/results/*.json -o docs/performance.md --charts docs/charts
	$(BIN)/edgeconv report benchmarks/results/zen4/*.json -o docs/performance-zen4.md --charts docs/charts/zen4
	$(BIN)/edgeconv report benchmarks/results/*.json -o report.html

check: $(STAMP)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## format, and repair what lint can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what was built; .venv stays
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Debian's python3 comes without ensurepip: then the pip at hand fills the environment.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || { \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip install --quiet -e '.[test,dev]' -c constraints.txt
	touch $(STAMP)
