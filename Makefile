# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs in .venv; nothing else on the machine is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= demo_output

export OMP_NUM_THREADS ?= 1
export INCLUDE_WORKSPACE_FILE ?= false

.PHONY: demo test lint bench

$(VENV)/.installed: setup.py
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (first time: a few minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e .[test]
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/python recipes/demo.py --output_path "$(OUTPUT)" $(if $(RAW_DATA),--raw_data "$(RAW_DATA)")

# Tests of one process share the cores; those of several, which are also about time, have them to themselves.
test: $(VENV)/.installed
	@$(BIN)/python -m pytest -m "not distributed and not slurm" --numprocesses auto --maxprocesses 8 --dist loadfile
	@$(BIN)/python -m pytest -m "distributed or slurm"

lint: $(VENV)/.installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

bench: $(VENV)/.installed
	@$(BIN)/python benchmarks/make_latents.py "$(OUTPUT)/bench_latents" --latent_shape 16 3 12 16 --num_samples 32
	@$(BIN)/python benchmarks/layouts.py --data "$(OUTPUT)/bench_latents" --group tiny-fp32 --num_gpus 2
