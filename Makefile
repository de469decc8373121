# make demo    set up, defend a bundled backdoored checkpoint, show the table and the report's path
# make test    set up, run the fast tests
# make docs    set up, build the documentation into site/, which needs no network to be read
# make zoo     set up, train every attack on digits into runs/zoo (what is there is kept)
# make test-all, make lint, make bench, make clean
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= runs/demo

.PHONY: demo test docs zoo test-all lint bench clean

demo: $(VENV)/.installed
	@rm -rf $(OUT)
	$(BIN)/rnp-jax defend checkpoints/digits_badnets.pt --config configs/auto_digits.yaml --out $(OUT)

test: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

docs: $(VENV)/.documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo 'open site/index.html'

zoo: $(VENV)/.installed
	@mkdir -p runs/zoo
	@set -e; for preset in configs/attacks/digits/*.yaml; do \
	  name=$$(basename $$preset .yaml); \
	  [ -f runs/zoo/digits_$$name.card.json ] || \
	    $(BIN)/rnp-jax attack $$name --config $$preset --out runs/zoo/digits_$$name.pt; \
	done

test-all: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.tested
	$(BIN)/python -m benchmarks.compare

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "CPython 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.tested: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.documented: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) runs site .pytest_cache .ruff_cache .hypothesis
