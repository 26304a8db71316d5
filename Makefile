# Everything starts here: `make demo` shows the main job, `make test` proves it. Both build .venv when it is missing or stale.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint bench clean
demo: .venv/ready
	$(BIN)/alphatoken demo

# Two processes of one thread each, a file's tests together: what most of them wait for is not arithmetic.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# A Prefect server, workers, Ray (pip install -e '.[ray]'; skipped without it) and training on two processes: minutes.
test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

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
