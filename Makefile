# Everything starts here: `make demo` shows the main job, `make test` proves it. Both build .venv when it is missing or stale.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint bench clean
demo: .venv/ready
	$(BIN)/alphatoken demo

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready
	$(BIN)/python -m bench.scoring

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[peft,test,lint]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
