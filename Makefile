#: make bench METHOD=ptacl TASK=retrieval     one command from a fresh clone to a leaderboard row
#: make test                                  the tests
PYTHON ?= python3
METHOD ?= ptacl
TASK ?= retrieval
SEEDS ?= 1
SCALE ?=
FRACTIONS ?= 1.0,0.1,0.01
COHORT ?= simulated
PRESET ?= default
TRACK ?= harmonised
TABLE ?=
MODALITY ?=
LAYER ?=
AGAINST ?= HEAD
NAME ?=
WORKERS ?=
ARGS ?=

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -p no:benchmark --ignore=tests/benchmarks
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help bench test nightly lint privacy benchmarks boards reproduce check golden new-method new-task docs docs-serve

help:
	@sed -n 's/^#: //p' Makefile
	@echo 'variables: METHOD TASK TABLE SEEDS SCALE FRACTIONS COHORT PRESET TRACK MODALITY LAYER AGAINST NAME WORKERS, and ARGS for anything else'

bench: $(BIN)/.installed
	@$(BIN)/ecgcmr run --method '$(METHOD)' --task '$(TASK)' --seeds '$(SEEDS)' --scale '$(SCALE)' \
	  --fractions '$(FRACTIONS)' --cohort '$(COHORT)' --preset '$(PRESET)' \
	  --track '$(TRACK)' --modality '$(MODALITY)' $(if $(WORKERS),--workers '$(WORKERS)') $(ARGS)

#: make reproduce TABLE='MMCL Table II'        a published table beside our numbers
reproduce: $(BIN)/.installed
	@$(BIN)/ecgcmr reproduce $(if $(TABLE),'$(TABLE)') --seeds '$(SEEDS)' --scale '$(SCALE)' \
	  --cohort '$(COHORT)' --preset '$(PRESET)' --track '$(TRACK)' \
	  $(if $(WORKERS),--workers '$(WORKERS)') $(ARGS)

#: make new-method NAME=my-idea               a method to start from, and its test
#: make new-task NAME=my-task                 a task to start from, and its test
# The next step that is printed runs pytest.
new-method new-task: $(BIN)/.installed-dev
	@$(BIN)/ecgcmr new $(@:new-%=%) $(if $(NAME),'$(NAME)') $(ARGS)

test: $(BIN)/.installed-dev
	@$(PYTEST) -n logical --maxprocesses 4 --dist loadfile -m 'not nightly' $(ARGS)

#: make nightly                               the tests that take too long for every change
nightly: $(BIN)/.installed-dev
	@$(PYTEST) -m nightly $(ARGS)

#: make check                                 whether a change made something worse
# make has one exit code for every failure; ecgcmr check tells a regression (1) from not knowing (3).
check: $(BIN)/.installed
	@$(BIN)/ecgcmr check --against '$(AGAINST)' --track '$(TRACK)' $(if $(LAYER),--layer '$(LAYER)') $(ARGS)

#: make golden                                write the references of check again, for review
golden: $(BIN)/.installed
	@$(BIN)/ecgcmr golden --track '$(TRACK)' $(if $(LAYER),--layer '$(LAYER)') $(ARGS)

#: make lint                                  style and layering
lint: $(BIN)/.installed-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

#: make privacy                               no ids, no data of single people, in any commit
privacy: $(BIN)/.installed
	@$(BIN)/ecgcmr privacy --history $(ARGS)

#: make benchmarks                            speed, by pytest-benchmark
benchmarks: $(BIN)/.installed-dev
	@$(BIN)/python -m pytest tests/benchmarks $(ARGS)

#: make boards                                render the boards again from the committed rows
boards: $(BIN)/.installed
	@$(BIN)/ecgcmr boards --scale '$(SCALE)' --cohort '$(COHORT)' --preset '$(PRESET)' $(ARGS)

#: make docs                                 the documentation, into build/site; docs-serve shows it
docs: $(BIN)/.installed-dev
	@$(BIN)/python docs/generator/readme.py && $(BIN)/python docs/generator/leaderboards.py && \
	  $(BIN)/mkdocs build --strict --quiet
	@echo 'documentation: build/site/index.html'

docs-serve: $(BIN)/.installed-dev
	@$(BIN)/mkdocs serve $(ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo 'making .venv'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# All requirements in one call: torch and torchvision have to be resolved together.
$(BIN)/.installed: pyproject.toml | $(BIN)/python
	@echo 'installing ecgcmr-bench into .venv (about two minutes, once)'
	@$(INSTALL) -e .
	@touch $@

$(BIN)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo 'installing ecgcmr-bench and its test tools into .venv (about two minutes, once)'
	@$(INSTALL) -e '.[dev]'
	@touch $@ $(BIN)/.installed
