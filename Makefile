# Everything starts here: `make demo` shows the main job, `make test` proves it. Both build .venv when it is missing or stale.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean
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
	$(BIN)/python -m bench.warehouse

# Debian's Python may lack ensurepip (package python3-venv): then the machine's own pip brings pip into the environment.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv 2>/dev/null || { $(PYTHON) -m venv --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[peft,test,lint]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
