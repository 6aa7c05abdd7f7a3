# Candor in one command: `make replicate`. `make` alone lists what else there is.

ifndef PYTHON
PYTHON := $(shell command -v python3.11 || echo python3)
endif
SCALE ?= laptop
CLAIM ?=
CORES ?=
GPUS ?= 1
LAB_FLAGS ?=
LOCK_FLAGS ?=

# What a person sets is data: taken as it is written, and quoted wherever the shell sees it.
$(foreach name,PYTHON SCALE CLAIM CORES GPUS,$(eval override $(name) := $$(value $(name))))
quote = '$(subst ','\'',$(1))'

# One thread a process: the models are small, and a job is a process of its own.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK = 1

READY := .venv/.ready
PY := .venv/bin/python
# Jobs of the graph find python, papermill and jupyter on the path.
IN := PATH=$(call quote,$(CURDIR)/.venv/bin):"$$PATH"
CANDOR = $(IN) $(PY) -m candor
AT = --scale $(call quote,$(SCALE))
OF = $(AT)$(if $(CLAIM), --claim $(call quote,$(CLAIM)))
# How many there are is asked in Python: nproc obeys OMP_NUM_THREADS, which GNU make 4.4 shows it.
ON = $(if $(CORES), --cores $(call quote,$(CORES)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SILENT:
.PHONY: help environment replicate report notebooks figures verify lab test test-long lock clean

help: ## This list
	echo "Candor: published claims about RLHF and overconfidence, replicated."
	echo
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	echo
	printf '  SCALE=smoke|laptop|released|sweep|gpu|paper (now %s)   CLAIM=a claim (now %s)\n' \
	  $(call quote,$(SCALE)) $(call quote,$(or $(CLAIM),all))
	echo "  Claims: binary_reward sophistry grounding_loss annotation_noise brier_fix self_feedback"
	printf '  CORES=number (now %s)   GPUS=number that jobs share (now %s)   PYTHON=3.11 or newer (now %s)\n' \
	  $(call quote,$(or $(CORES),all)) $(call quote,$(GPUS)) $(call quote,$(PYTHON))

environment: $(READY) ## Create .venv from requirements.lock (2 GB, some minutes); other targets do it when needed

replicate: $(READY) ## Compute, judge and draw everything at SCALE, for one CLAIM or all
	$(CANDOR) replicate $(OF)$(ON) --gpus $(call quote,$(GPUS))

report: $(READY) ## Write the report of what has been computed at SCALE
	$(CANDOR) report $(OF)

notebooks: $(READY) ## Execute all notebooks again from data/reference, live cells off
	$(CANDOR) notebooks$(ON)

figures: $(READY) ## Draw all figures again from the tables at SCALE, or from data/reference
	$(CANDOR) figures $(AT)

verify: $(READY) ## Compare your results at SCALE with data/reference
	$(CANDOR) verify $(AT)

lab: $(READY) ## Open copies of the notebooks in JupyterLab, in work/, which is yours (LAB_FLAGS=its options)
	$(CANDOR) lab $(LAB_FLAGS)

test: export HF_HUB_OFFLINE = 1
test: $(READY) ## Lint, format check, workflow lint, and all tests (including the graph at smoke scale)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(IN) $(PY) -m snakemake --lint
	$(IN) $(PY) -m pytest -n 2 --dist loadfile

test-long: export HF_HUB_OFFLINE = 1
test-long: $(READY) ## Kill a small run twenty times and compare what comes out with one that nobody touched
	$(IN) $(PY) -m pytest -m long -s

lock: $(READY) ## Write requirements.lock again from requirements.in (LOCK_FLAGS=--upgrade for newer packages)
	$(PY) tools/environment.py lock $(LOCK_FLAGS)

clean: ## Remove smoke results and caches; results of other scales, work/ and .venv stay
	rm -rf "$${CANDOR_RESULTS:-results}/smoke" .snakemake/log .snakemake/results-* .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find lib tests tools benchmarks notebooks work \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune \
	  -exec rm -rf {} + 2>/dev/null || true

$(READY): requirements.lock requirements-cuda.lock pyproject.toml tools/environment.py
	$(call quote,$(PYTHON)) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  printf "candor: Candor needs Python 3.11 or newer, and '%s' is not one: install it, or name it with %s.\n" \
	    $(call quote,$(PYTHON)) make\ PYTHON=/path/to/python3 >&2; \
	  exit 1; }
	echo "An environment in .venv, with $$($(call quote,$(PYTHON)) --version): about 2 GB, some minutes"
	$(call quote,$(PYTHON)) -m venv .venv
	$(PY) tools/environment.py install
	touch $@
