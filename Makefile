# Every target builds the environment it needs by itself, once, in .venv.
#   make demo ARGS="--seeds 3"        make test ARGS="-k weighting -x"

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

# What breaks first when a dependency moves: training, loading, exporting, asking, the command line, what extras are for.
FIRST := trainer audit_callback loading predict export openvino runtime cli metrics group_fairness plots ranges

.PHONY: demo test test-slow test-kernels test-lowest test-newest check lint types docs architectures format clean
.NOTPARALLEL:

demo: $(READY)
	$(BIN)/hf-compalign demo --output outputs/demo $(ARGS)

# tests/conftest.py turns the network off and gives each of the two workers one thread.
test: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

# What starts processes or a browser or does a whole job, and the code of the pages: CI runs it too.
test-slow: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal -m slow $(ARGS)

# The kernels of a CPU without AVX-512, and MKL's oldest: a test that depends on how one CPU rounds fails on any.
test-kernels: export ATEN_CPU_CAPABILITY = avx2
test-kernels: export MKL_CBWR = COMPATIBLE
test-kernels: export ONEDNN_MAX_CPU_ISA = AVX2
test-kernels: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal -m "numeric and not slow" $(ARGS)

# The two ends of the ranges in pyproject.toml, each in an environment of its own.
test-lowest: .venv-lowest/.ready
test-newest: .venv-newest/.ready
test-lowest test-newest: test-%:
	.venv-$*/bin/pytest -n 2 --dist worksteal -m "not slow" $(FIRST:%=tests/test_%.py) $(ARGS)

check: lint types docs test

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)
	$(BIN)/mypy

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet

# What works with which type of model, tried out: docs/architectures.md.
architectures: export TQDM_DISABLE = 1
architectures: $(READY)
	$(BIN)/python benchmarks/architectures.py $(ARGS)

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Keeps the environments, which take minutes to build, and whatever else of yours is in outputs/.
clean:
	rm -rf site build dist outputs/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find hf_compalign tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The constraints hold for the whole install: a bare "torch" would bring gigabytes of CUDA to a CPU machine. Compiling all
# that is installed takes half a minute; what is imported is compiled then.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --no-compile -c constraints.txt -e ".[dev]"
	touch $@

.venv-lowest/.ready .venv-newest/.ready: .venv-%/.ready: pyproject.toml constraints-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --no-compile -c constraints-$*.txt -e ".[all,test]"
	touch $@
