# Each target does all its set-up by itself, in .venv: python and make are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Threads that wait for each other spin for a moment only, then sleep. Where they spin for long, as they do by default,
# training slows down many times over when another program needs a core.
export GOMP_SPINCOUNT := 10000

SOURCES := setup.cfg pyproject.toml $(wildcard setup.py) $(shell find speechbrain_mamba -name '*.[ch]')

.PHONY: demo test mutants lint clean

demo: $(READY)  ## train a small Mamba-TasNet on synthetic voices, test it, show what it made
	$(BIN)/python recipes/separation/train.py hparams/separation/mini_mambatasnet.yaml

test: $(READY)  ## run all tests and the examples of the docstrings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

AREA ?= nnet
SAMPLE ?= 100
mutants: $(READY)  ## plant faults in an AREA of the code and count those that the tests notice: tests/mutants/README.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutants]'
	$(BIN)/python -m tests.mutants $(AREA) --sample $(SAMPLE) --workers 2 $(OPTIONS)

lint: $(READY)  ## check style of Python and YAML
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/yamllint --strict .

clean:  ## remove the virtual environment and all caches; results/ and data/ stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv resolves and installs in seconds what takes pip minutes; where it is not to be had, pip does the same.
$(READY): $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
		&& $(BIN)/uv pip install --python $(BIN)/python --editable '.[dev]' \
		|| $(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	touch $@
