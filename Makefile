# Two commands for users: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test check bench docs clean

demo: $(READY)  ## run the main job on embedded data
	$(BIN)/moeseg study configs/demo.yaml

test: $(READY)  ## run the tests
	sh tests/browser.sh
	$(BIN)/python -m pytest -n auto

check: $(READY)  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)  ## measure every hot path and render docs/benchmarks.md
	for script in gate_cache gate_fused mixture_forward ten_models insight labels loader scenes attacks corruptions uncertainty; do \
	  $(BIN)/python benchmarks/$$script.py || exit 1; done
	$(BIN)/python benchmarks/render.py

docs: $(READY)  ## render the pages that follow from the code
	$(BIN)/python docs/settings.py

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV)
