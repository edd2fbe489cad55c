# lumiray: `make demo` trains and shows a model from an empty machine, `make test` runs every test.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
UV_HOME := .cache/uv
UV := $(UV_HOME)/bin/uv
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow test-cluster test-faults dashboards check bench lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(STAMP) ## the environment in .venv, exactly as in requirements.lock

$(UV):
	@command -v c++ >/dev/null || { echo "a C++ compiler is missing (offload and torch.compile build small extensions): apt-get install g++"; exit 1; }
	python3 -m venv $(UV_HOME)
	$(UV_HOME)/bin/python -m pip install -q --disable-pip-version-check uv

# the interpreter behind a version manager's shim is given to uv, so that it downloads none
$(STAMP): $(UV) requirements.lock pyproject.toml
	$(UV) venv -q --allow-existing --no-python-downloads --python "$$(python3 -c 'import sys; print(sys.executable)')" $(VENV)
	$(UV) pip sync -q --compile-bytecode --python $(PYTHON) --require-hashes requirements.lock
	$(UV) pip install -q --compile-bytecode --python $(PYTHON) --no-deps -e .
	@touch $@

demo: env ## train a small CLIP on emoji of one artist, retrieve another's, write a report
	$(PYTHON) examples/emoji/demo.py

check: env ## formatting, lint, types, import rules
	ruff format --check .
	ruff check .
	mypy
	PYTHONPATH=platform:models lint-imports --no-cache

test: check ## every test but those of the two targets below: half an hour on two cores
	$(PYTHON) -m pytest

dashboards: env ## TensorBoard, optuna-dashboard and Ray's own of a study: make dashboards STUDY=studies/cidnet
	lumiray study dashboards $(or $(STUDY),$(shell ls -t studies/*/study.db 2>/dev/null | head -1 | xargs -r dirname))

test-slow: env ## the longest: photographs learnt, trials of several workers, processes that die in a search
	$(PYTHON) -m pytest -m slow

test-cluster: env ## jobs submitted to a real head with dashboard and token: logs, stopping, strangers, secrets
	$(PYTHON) -m pytest -m head

test-faults: env ## 20 kills at random steps, every row of every run counted; .cache/faults.json
	$(PYTHON) tests/faults/sweep.py

bench: env ## every benchmark; one JSON file under benchmarks/results
	$(PYTHON) benchmarks/collect.py

lock: $(UV) ## resolve requirements.lock anew
	$(UV) pip compile -q --no-header --no-annotate --generate-hashes --no-emit-index-url --extra dev --extra tracking --extra dashboards --extra postgresql --extra pb2 --extra phrases pyproject.toml -o requirements.lock

clean: ## remove what was built, keep runs
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache build dist
