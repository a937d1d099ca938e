# Needs Python 3.11 or newer and make; everything else is installed into a virtual environment here.
#
#   make demo                      the promise, shown: clients, SIGKILLs, exact sums
#   make test                      the tests          (make test ARGS='-k journal -x')
#   make test PYTHON=python3.13    with another Python: it gets an environment of its own, .venv-3.13
#   make check                     format, lint, types, tests
#
# Without PYTHON= the environment is .venv, whatever Python it was made with; it is made with the newest that works.

SHELL := /bin/bash
.DEFAULT_GOAL := help
ARGS ?=

# A name on PATH may be a shim that doesn't run, or a Debian Python without venv: only running it tells.
RUNS = -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info)'
FIND = for p in python3.13 python3.12 python3.11 python3 python3.14 python3.15 python; do \
         $$p $(RUNS) >/dev/null 2>&1 && { echo $$p; break; }; done

ifdef PYTHON
  VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
  $(if $(VERSION),,$(error PYTHON=$(PYTHON) does not run))
  VENV ?= .venv-$(VERSION)
else
  VENV ?= .venv
endif
PY := $(VENV)/bin/python
CODE := journal objects runtime examples tests

.PHONY: help demo run test check lint format format-check types bench bench-store clean names lock
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(VENV)/.installed
	@$(PY) examples/demo.py $(ARGS)

run: $(VENV)/.installed
	@$(VENV)/bin/perdure serve examples/counter.py examples/bank.py $(ARGS)

bench: $(VENV)/.installed
	@$(PY) tests/benchmarks/bench.py $(ARGS)

bench-store: $(VENV)/.installed
	@$(PY) -m tests.benchmarks.store_scale $(ARGS)

# The first part shows tables of what was tried, and measures itself; the rest runs side by side.
test: $(VENV)/.developing names
ifdef ARGS
	@$(PY) -m pytest $(ARGS)
else
	@$(PY) -m pytest tests/journal
	@$(PY) -m pytest -n 2 tests --ignore=tests/journal
endif

check: format-check lint types test

lint: $(VENV)/.developing
	@$(PY) -m ruff check .

format: $(VENV)/.developing
	@$(PY) -m ruff check --fix-only --quiet . && $(PY) -m ruff format .

format-check: $(VENV)/.developing
	@$(PY) -m ruff format --check .

types: $(VENV)/.developing names
	@$(PY) -m mypy $(CODE)
	@$(PY) -m pyright --pythonpath $(PY) $(CODE)

# Type checkers don't run import hooks: links show them perdure.journal where the import system would find it.
names: build/names/perdure
build/names/perdure:
	@mkdir -p $@ && ln -sfn ../../../journal $@/journal && ln -sfn ../../../objects $@/objects && ln -sfn ../../../runtime $@/runtime

clean:
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis perdure-data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The versions that were tested, with hashes, for every supported Python at once.
lock:
	@python=$$($(if $(PYTHON),echo $(PYTHON),$(FIND))) && $$python -m venv .venv-lock && .venv-lock/bin/python -m pip install -qq --upgrade uv
	@.venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	    pyproject.toml -o requirements.lock
	@.venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	    pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock

$(PY):
	@python=$$($(if $(PYTHON),echo $(PYTHON),$(FIND))); \
	 [ -n "$$python" ] || { echo "make: no Python 3.11 or newer with venv found; on Debian: apt-get install python3-venv" >&2; exit 1; }; \
	 $$python $(RUNS) || { echo "make: $$python is not a Python 3.11 or newer with venv" >&2; exit 1; }; \
	 echo "$(VENV): $$($$python --version)" && rm -rf $(VENV) && $$python -m venv $(VENV)

# Pinned and hashed where the lock has what this Python needs, else the newest that pyproject.toml allows.
# pip comes first: --group needs 25.1. (PYTHONWARNINGS: setuptools draws a box of stars about editable installs.)
define install
	@$(PY) -m pip install -qq --upgrade pip
	@$(PY) -m pip install -qq --require-hashes -r $(1) && PYTHONWARNINGS=ignore $(PY) -m pip install -qq --no-deps -e . \
	  || { echo "make: $(1) doesn't fit this Python; installing the newest versions instead" >&2; $(PY) -m pip install -qq -e . $(2); }
	@touch $@
endef

$(VENV)/.installed: pyproject.toml requirements.lock | $(PY)
	$(call install,requirements.lock,)

$(VENV)/.developing: pyproject.toml requirements-dev.lock | $(PY)
	$(call install,requirements-dev.lock,--group dev)
	@touch $(VENV)/.installed
