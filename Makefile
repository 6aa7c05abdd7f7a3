# Candor in one command: `make replicate`. `make` alone lists what else there is.

PYTHON ?= python3.11
SCALE ?= laptop
CLAIM ?=
GPUS ?= 1
CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

# One thread a process: the models are small, and a job is a process of its own.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK = 1

READY := .venv/.ready
PY := .venv/bin/python
# Jobs of the graph find python, papermill and jupyter on the path.
CANDOR = PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m candor

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help environment replicate report notebooks figures verify lab test test-long clean

help: ## This list
	@echo "Candor: published claims about RLHF and overconfidence, replicated."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  SCALE=smoke|laptop|sweep|gpu|paper (now $(SCALE))   CLAIM=a claim (now $(or $(CLAIM),all))"
	@echo "  Claims: binary_reward sophistry grounding_loss annotation_noise brier_fix self_feedback"
	@echo "  CORES=number (now $(CORES))   GPUS=number that jobs share (now $(GPUS))   PYTHON=a Python 3.11 (now $(PYTHON))"

environment: $(READY) ## Create .venv from requirements.lock (2 GB, some minutes); other targets do it when needed

replicate: $(READY) ## Compute, judge and draw everything at SCALE, for one CLAIM or all
	$(CANDOR) replicate --scale $(SCALE) $(if $(CLAIM),--claim $(CLAIM)) --cores $(CORES) --gpus $(GPUS)

report: $(READY) ## Write the report of what has been computed at SCALE
	$(CANDOR) report --scale $(SCALE) $(if $(CLAIM),--claim $(CLAIM))

notebooks: $(READY) ## Execute all notebooks again from data/reference, live cells off
	$(CANDOR) notebooks --cores $(CORES)

figures: $(READY) ## Draw all figures again from the tables at SCALE, or from data/reference
	$(CANDOR) figures --scale $(SCALE)

verify: $(READY) ## Compare your results at SCALE with data/reference
	$(CANDOR) verify --scale $(SCALE)

lab: $(READY) ## Open the notebooks in JupyterLab
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m jupyter lab notebooks

test: export HF_HUB_OFFLINE = 1
test: $(READY) ## Lint, format check, workflow lint, and all tests (including the graph at smoke scale)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m snakemake --lint
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m pytest -n 2 --dist loadfile

test-long: $(READY) ## Kill a small run twenty times and compare what comes out with one that nobody touched
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m pytest -m long -s

clean: ## Remove smoke results and caches; results of other scales and .venv stay
	rm -rf results/smoke .snakemake/log .ruff_cache .pytest_cache .hypothesis
	find lib tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "Candor needs Python 3.11, and '$(PYTHON)' is not one: install it, or name it with make PYTHON=/path/to/python3.11." >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	@# pip cannot build a wheel while its cache is on a read-only disk; then it does without.
	cache=$$($(PY) -m pip cache dir) && mkdir -p "$$cache" && rm "$$(mktemp "$$cache/candor.XXXXXX")" \
	  || export PIP_NO_CACHE_DIR=1; \
	$(PY) -m pip install --quiet -r requirements.lock && $(PY) -m pip install --quiet --no-deps -e .
	@touch $@
