# Each target sets up its own virtual environment: Python and make are all you need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The oldest torch and torchaudio that pyproject.toml admits, in an environment of their own.
OLDEST := .venv-oldest
OLDEST_TORCH := 'torch==2.8.*' 'torchaudio==2.8.*'

# Threads that wait for each other spin for a moment only, then sleep. If they spin for long, as they do by default,
# training slows down many times over when another program needs a core.
export GOMP_SPINCOUNT := 10000

SOURCES := pyproject.toml setup.py $(shell find speechbrain_mamba -name '*.[ch]')

.PHONY: demo models docs test test-oldest mutants sanitize lint clean

demo: $(READY)  ## train a small Mamba-TasNet on synthetic voices, test it, show what it made
	$(BIN)/python recipes/separation/train.py hparams/separation/mini_mambatasnet.yaml

# Where the two corpora of the bundled models are, or get cloned to.
FSDD ?= data/free-spoken-digit-dataset
SPEECH_TO_INTENT ?= data/speech-to-intent-benchmark
RUNS := results/bundled
models: $(READY) | $(FSDD) $(SPEECH_TO_INTENT)  ## train the bundled models again, and put them into the package: docs/bundled.md
	$(BIN)/python recipes/separation/train.py hparams/separation/bundled_separator.yaml --fsdd_folder $(FSDD) \
		--speech_to_intent_folder $(SPEECH_TO_INTENT) --output_folder $(RUNS)/separator
	$(BIN)/python recipes/bundled/bundle.py separator $(RUNS)/separator --fsdd $(FSDD)
	$(BIN)/python recipes/tts/prepare_fsdd_digits.py $(FSDD) data/bundled_digits/fsdd --long 3000 --short 0 \
		--test_speakers theo
	$(BIN)/python recipes/tts/prepare_mini.py data/mini_digits_8k data/bundled_digits/voices --speakers 100 6 8 \
		--sentences 0 --digit_strings 24
	$(BIN)/python recipes/asr/train.py hparams/asr/bundled_conmamba_ctc_digits.yaml --output_folder $(RUNS)/digits
	$(BIN)/python recipes/bundled/bundle.py recognizer-digits $(RUNS)/digits --count 100 \
		--tests 'an unseen speaker=data/bundled_digits/fsdd/test.csv' \
		'five seen speakers=data/bundled_digits/fsdd/valid.csv' \
		'unseen synthetic voices=data/bundled_digits/voices/test.csv'
	$(BIN)/python recipes/asr/train.py hparams/asr/bundled_conmamba_ctc_sentences.yaml \
		--output_folder $(RUNS)/sentences
	$(BIN)/python recipes/bundled/bundle.py recognizer-sentences $(RUNS)/sentences \
		--tests 'unseen synthetic voices=$(RUNS)/sentences/save/test.csv' \
		'a person who says digits=data/bundled_digits/fsdd/test.csv'
	$(BIN)/python recipes/tts/prepare_fsdd_digits.py $(FSDD) data/bundled_synthesis/fsdd --long 6000 --short 3000 \
		--test_speakers theo
	$(BIN)/python recipes/tts/prepare_mini.py data/mini_digits_48 data/bundled_synthesis/voices --speakers 100 6 8 \
		--sentences 0 --digit_strings 48
	$(BIN)/python recipes/bundled/join_manifests.py data/bundled_synthesis/all data/bundled_synthesis/fsdd \
		data/bundled_synthesis/voices
	$(BIN)/python recipes/codec/train.py hparams/codec/bundled_codec.yaml --output_folder $(RUNS)/codec
	$(BIN)/python recipes/tts/prepare_tokens.py data/bundled_synthesis/all data/bundled_synthesis/tokens \
		--codec $(RUNS)/codec/codec
	$(BIN)/python recipes/tts/train.py hparams/tts/bundled_vallm_digits.yaml --output_folder $(RUNS)/vallm
	$(BIN)/python recipes/bundled/bundle.py synthesizer-digits $(RUNS)/vallm --count 100 \
		--tests 'an unseen person=data/bundled_synthesis/fsdd/test.csv' \
		'unseen synthetic voices=data/bundled_synthesis/voices/test.csv'

$(FSDD):
	git clone --depth 1 https://github.com/Jakobovski/free-spoken-digit-dataset $@

$(SPEECH_TO_INTENT):
	git clone --depth 1 https://github.com/Picovoice/speech-to-intent-benchmark $@

test: $(READY)  ## run all tests and the examples of the docstrings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

# What computes with torch; files, commands and texts do not depend on its version. Of the recipes tests/kills runs each
# from start to end.
OF_TORCH := codecs decoders drop_in inference kills lobes nnet ops training utils
test-oldest: $(OLDEST)/.ready  ## run the fast tests of what computes with torch, with the oldest torch that is supported
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n auto -m "not slow or oldest" $(addprefix tests/,$(OF_TORCH))

AREA ?= nnet
SAMPLE ?= 100
mutants: $(READY)  ## plant faults in an AREA of the code and count those that the tests notice: tests/mutants/README.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutants]'
	$(BIN)/python -m tests.mutants $(AREA) --sample $(SAMPLE) --workers 2 $(OPTIONS)

sanitize: $(READY)  ## run the tests of the CPU kernels with a library that checks addresses and undefined behavior
	OMP_NUM_THREADS=2 $(BIN)/python -m tests.sanitize

SITE := results/site
docs: $(READY)  ## build the site of the documentation, run its notebook, and check all links
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/mkdocs build --quiet --site-dir $(abspath $(SITE))
	$(BIN)/python docs/tools/check_links.py $(SITE)

lint: $(READY)  ## check style and types of Python, and style of YAML
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/yamllint --strict .
	$(BIN)/mypy

clean:  ## remove the virtual environments and all caches; results/ and data/ stay
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv resolves and installs in seconds what takes pip minutes; without uv, pip does the same.
define install
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check uv \
		&& $(1)/bin/uv pip install --python $(1)/bin/python --editable '.[dev]' $(2) \
		|| $(1)/bin/python -m pip install --disable-pip-version-check --editable '.[dev]' $(2)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check 'pesq>=0.0.4' \
		|| echo 'pesq could not be built: the tests of PESQ are left out'
	touch $(1)/.ready
endef

$(READY): $(SOURCES)
	$(call install,$(VENV))

$(OLDEST)/.ready: $(SOURCES)
	$(call install,$(OLDEST),$(OLDEST_TORCH))
