# One command runs the main job (make run), one passes the tests (make test). Everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# PyTorch's own index of builds for the CPU (200 MB); PyPI's for Linux bring CUDA, several GB. Where it cannot be reached
# (or is set empty), pip's own indexes have to do.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/pip install --disable-pip-version-check
ARGS ?=

.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.embedded  ## install, then train a tiny Nemotron-H on this CPU and show what it learned (ARGS="seed...": overrides)
	@$(BIN)/python launch.py $(ARGS)

# Five processes for two cores: four of them begin with what needs Slurm, which waits a lot (tests/conftest.py).
test: $(VENV)/.dev  ## install, then all tests; says what it skips for want of root or Slurm
	$(BIN)/python -m pytest -q -n 5 --dist loadfile $(ARGS)

thorough: $(VENV)/.dev  ## every version, row and shape that make test has samples of, and more cases by chance (40 min)
	NANO_EXP_EXAMPLES=$${NANO_EXP_EXAMPLES:-60} $(BIN)/python -m pytest -q -n 5 --dist loadfile --thorough $(ARGS)

faults: $(VENV)/.dev  ## inject every fault on a real Slurm and tell what became of the runs (root and Slurm)
	$(BIN)/python tests/slurm/faults.py $(ARGS)
	$(BIN)/python -m pytest -q tests/sync/test_sync.py -k kill  # W&B and metrics.jsonl after kills, key by key
	$(BIN)/python -m pytest -q -s tests/job/test_cache_lock.py -k sixteen  # runs that start at once on empty caches

bench: $(VENV)/.dev  ## launches timed beside stock hydra-submitit-launcher (root and Slurm; ARGS=--stub: neither)
	$(BIN)/python tests/bench/bench.py $(ARGS)

check: $(VENV)/.dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev  ## write what is generated in docs/: the table of preflight's rules
	$(BIN)/python tests/write_docs.py

pictures: $(VENV)/.dev  ## make the pictures of the docs, from a sweep that trains here (20 min)
	@bash docs/pictures/make.sh

site: $(VENV)/.dev  ## the documentation as a site, in site/: warnings are errors
	$(PIP) --quiet -e '.[docs]'
	$(BIN)/mkdocs build --strict

wheel: $(VENV)/.dev  ## the wheel and the source distribution, in dist/
	$(BIN)/python -m build --outdir dist .

format: $(VENV)/.dev  ## write the format that check asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and caches; results/ stays
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and by its exact version: asked for by a range or by another package, pip takes a CUDA build of several GB.
# A build for the CPU is the higher version of the two (2.13.0+cpu), so that pip prefers it.
FIND_TORCH = import sys, urllib.request as web; index = sys.argv[1]; web.urlopen(index + "/torch/", timeout=10); \
    print("--extra-index-url", index)
$(VENV)/.embedded: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --quiet --upgrade pip
	@index=$$($(BIN)/python -c '$(FIND_TORCH)' "$(TORCH_INDEX)" 2>/dev/null) || echo "$(TORCH_INDEX) is not reached: $(TORCH) comes from pip's own indexes"; \
	echo "$(PIP) $$index $(TORCH)" && $(PIP) $$index $(TORCH)
	@echo "installing nano-exp with its embedded engine: transformers, wandb and what they need"
	$(PIP) --quiet -e '.[embedded]'
	@touch $@

$(VENV)/.dev: $(VENV)/.embedded
	@echo "installing what the tests and checks need"
	$(PIP) --quiet -e '.[dev]'
	@touch $@

.PHONY: help run test thorough bench faults check docs pictures format clean
