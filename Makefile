# make run    trains the default language model on the King James Bible, with a report
# make test   the whole suite; make test SINCE=main: what the changes since can touch
# make sweep  the public suites in all implementations, and 1,000 random problems of
#             each kernel; hours
# make docs   all pages anew, and docs/index.html for a browser
# make lint   ruff and pyrefly
# make bench  speed, beside PyTorch, jax and fla (installs PyTorch)
# Each makes .venv first, from the Python that `python3` gives in this folder, or
# another one that is new enough.

# The first that is 3.12 or newer of: python3, python3.12, uv's.
PYTHON ?= $(shell \
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null \
    && echo python3 || command -v python3.12 \
    || uv python find 3.12 2>/dev/null || echo python3)
BIN := .venv/bin
WORKDIR ?= runs/lm
export JAX_PLATFORMS ?= cpu

.PHONY: run test sweep docs lint bench clean
# Compilers for machines that need not be there: libtpu, the CUDA plugin without CUDA,
# and the oldest assembler that jax[cuda13] allows, which must take our kernels too.
# They lie apart, since JAX would look for a TPU wherever it finds libtpu.
MACHINES := libtpu==0.0.52 jax-cuda13-plugin==0.11.2 'nvidia-cuda-nvcc==13.0.*'

run: .venv/ready
	$(BIN)/python -m experiments.run --config configs/lm.py --workdir $(WORKDIR)

test: .venv/ready
	SINCE=$(SINCE) $(BIN)/python -m pytest

sweep: .venv/ready
	$(BIN)/python -m tests.suites
	$(BIN)/python -m tests.sweep

docs: .venv/ready
	$(BIN)/python -m experiments.docs

bench: .venv/ready
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m pip install --quiet --no-deps 'triton==3.9.*'  # torch pins 3.8
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/machines jax-cuda13-pjrt==0.11.2  # tokamax
	$(BIN)/python -m tests.suites.torch_expected
	for kind in cpu tpu gpu; do $(BIN)/python -m experiments.bench $$kind; done

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

.venv/ready: setup.py
	@test ! -L .venv || { echo ".venv is a link: make it in the folder that it leads to"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 12) and \
	  f"attnjax needs Python 3.12 or newer; {sys.executable} is {v}. Put one first on PATH, or: make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[run,data,log,docs,test,lint]'
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/machines $(MACHINES)
	@touch $@

clean:
	rm -rf .venv
