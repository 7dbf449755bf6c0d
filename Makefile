# Set-up lives in .venv: hash-locked packages from requirements/, Mixer itself installed editable.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --no-input install --quiet
COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench lock proto clean

help:
	@echo 'make demo [ONCE=1]    start Mixer behind a real Envoy, send it traffic, show what happened'
	@echo 'make test             fetch what the tests need, then lint, types and every test'
	@echo 'make lint             ruff and mypy only'
	@echo 'make bench [ONLY=…]   benchmarks beside their peers; ONLY=check, opa, quota, onehop, report, flood or overload'
	@echo 'make lock             renew requirements/*.txt from pyproject.toml'
	@echo 'make proto            renew the code that is generated from proto/'
	@echo 'make clean            remove .venv, caches and builds'

demo: $(VENV)/run.stamp
	@$(RUN) -m mixer demo $(if $(ONCE),--once)

# The toolchains are looked at first, by the standard library alone: a missing one is named before any installing.
test: $(VENV)/made.stamp
	@$(RUN) -m tests.components --check
	@$(MAKE) --no-print-directory $(VENV)/dev.stamp
	@$(RUN) -m tests.components
	@echo 'lint and types'
	@$(MAKE) --no-print-directory lint
	@echo 'tests, two at a time'
	@$(RUN) -m pytest -m 'not alone' --numprocesses=2 --dist=loadfile
	@echo 'tests that need the machine for themselves'
	@$(RUN) -m pytest -m alone

lint: $(VENV)/dev.stamp
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

bench: $(VENV)/dev.stamp
	@$(RUN) -m tests.components
	@$(RUN) -m benchmarks $(ONLY)

# run.txt takes its versions from dev.txt, so that one .venv serves both.
lock: $(VENV)/dev.stamp
	$(COMPILE) --upgrade --extra dev pyproject.toml requirements/build.in --output-file requirements/dev.txt
	$(COMPILE) --extra demo --constraint requirements/dev.txt pyproject.toml requirements/build.in \
		--output-file requirements/run.txt

proto: $(VENV)/dev.stamp
	$(RUN) proto/generate.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/run.stamp: requirements/run.txt pyproject.toml | $(VENV)/made.stamp
	@echo 'installing what Mixer and its demo need into $(VENV) (about a minute, once)'
	@$(PIP) --require-hashes --no-deps --requirement requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt pyproject.toml | $(VENV)/made.stamp
	@echo 'installing what development needs into $(VENV) (about a minute, once)'
	@$(PIP) --require-hashes --no-deps --requirement requirements/dev.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/run.stamp

$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Mixer needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
		echo 'If a newer one is here under another name: make PYTHON=python3.12 …' >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo '$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv' >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@
