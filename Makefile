# `make help` lists what there is. Everything runs in environments of its own below this folder.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first Python that is new enough; `make PYTHON=/path/to/python …` names another.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo $$name; break; fi; done)

RUN := .venv-run
DEV := .venv
PIP := -m pip --disable-pip-version-check --quiet
COMPILE := $(DEV)/bin/pip-compile --quiet --no-header --no-emit-index-url --no-emit-trusted-host \
	--no-emit-find-links --no-emit-options --strip-extras

# What pytest runs (TESTS), and with what (PYTEST_ARGS).
TESTS ?=
PYTEST_ARGS ?=
# How many processes run the tests; 0 runs them in this one. A file's tests stay together.
WORKERS ?= 2
SPREAD = -n $(WORKERS) --dist loadfile
# What runs on PostgreSQL as well: each write, and the queries, locks and outages that depend on the database.
POSTGRES_TESTS = tests/db \
	tests/api/test_failures.py tests/api/test_found.py tests/api/test_groups.py \
	tests/api/test_threaded_handler.py tests/ws/test_law.py tests/runner/test_handing_over.py \
	tests/runner/test_outages.py tests/runner/test_rare_moments.py
POSTGRES_URL ?= postgres://postgres:postgres@127.0.0.1:5432/director
# Options for `make serve`, for example SERVE_ARGS="--port 9000".
SERVE_ARGS ?=

.PHONY: help demo serve test test-all test-postgres test-changed chaos test-real lint format docs requirements clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(RUN)/.installed ## three pictures from three simulated GPUs (ONCE=1: end by itself)
	@$(RUN)/bin/python manage.py demo $(if $(filter-out 0,$(ONCE)),--once)

serve: $(RUN)/.installed ## the Director on http://localhost:9820 (SERVE_ARGS="--port 9000")
	@$(RUN)/bin/python manage.py serve $(SERVE_ARGS)

test: $(DEV)/.installed ## the tests but the slow ones (TESTS=tests/unit PYTEST_ARGS=-x)
	@[ "$$DIRECTOR_TEST_SERVICES" = required ] || echo "Tests that need PostgreSQL or Redis\
	 run where these answer and are skipped elsewhere; DIRECTOR_TEST_SERVICES=required forbids that."
	@$(DEV)/bin/python -m pytest $(SPREAD) -m "not slow" $(PYTEST_ARGS) $(TESTS)

test-all: $(DEV)/.installed ## every test, then those of the database on PostgreSQL; up to an hour
	@$(DEV)/bin/python -m pytest $(SPREAD) $(PYTEST_ARGS) $(TESTS)
	@$(if $(TESTS),,$(MAKE) test-postgres)

test-postgres: $(DEV)/.installed ## the tests of the database, on PostgreSQL (POSTGRES_URL=postgres://…)
	@DIRECTOR_DATABASE_URL=$(POSTGRES_URL) \
		$(DEV)/bin/python -m pytest $(SPREAD) -m "not slow" $(PYTEST_ARGS) $(POSTGRES_TESTS)

# Each breakage and each kill in a file of the product that changed since BASE.
test-changed: $(DEV)/.installed ## the slow tests that concern what changed since BASE=commit
	@$(DEV)/bin/python -m pytest $(SPREAD) --changed-since $(BASE) $(PYTEST_ARGS) \
		tests/sabotage tests/e2e || [ $$? -eq 5 ] # 5: no test concerns the change

# PostgreSQL's and Redis's own programs are needed; the servers are its own.
chaos: $(DEV)/.installed ## strike a farm of processes (SEED=1 KILLS=60 CHILDREN=2000 KEEP=folder)
	@$(DEV)/bin/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(KILLS),--kills $(KILLS)) \
		$(if $(CHILDREN),--children $(CHILDREN)) $(if $(KEEP),--keep $(KEEP))

# One process (-n 0): every test wants the one ComfyUI to itself. With COMFYUI_COMMAND, a command line
# with {port} and {folder} that runs a ComfyUI in the foreground, that one is killed too.
test-real: export COMFYUI_COMMAND ?=
test-real: $(DEV)/.installed ## drive a real ComfyUI (COMFYUI=http://127.0.0.1:8188)
	@[ -n "$(COMFYUI)" ] || { echo "Say which: make test-real COMFYUI=http://127.0.0.1:8188"; exit 2; }
	@COMFYUI="$(COMFYUI)" $(DEV)/bin/python -m pytest $(PYTEST_ARGS) -n 0 tests/real

lint: $(DEV)/.installed ## style, types, import contracts, migrations, deployment checks
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports
	$(DEV)/bin/python manage.py makemigrations --check --dry-run
	$(DEV)/bin/python manage.py check --deploy --fail-level WARNING

format: $(DEV)/.installed ## lay out the code and sort its imports
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

docs: $(DEV)/.installed ## write the generated pages of docs/ anew
	$(DEV)/bin/python docs/generate_states.py
	$(DEV)/bin/python docs/generate_failures.py
	$(DEV)/bin/python -m tests.sabotage

requirements: $(DEV)/.installed ## pin the newest allowed versions (UPGRADE=--upgrade)
	$(COMPILE) $(UPGRADE) --output-file requirements.txt pyproject.toml
	$(COMPILE) $(UPGRADE) --extra dev --constraint requirements.txt \
		--output-file requirements-dev.txt pyproject.toml

clean: ## remove environments, caches and what demos made
	rm -rf $(RUN) $(DEV) demo-data .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .node
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN)/.installed: requirements.txt
	$(call install,$(RUN),-r requirements.txt)

$(DEV)/.installed: requirements.txt requirements-dev.txt
	$(call install,$(DEV),-r requirements.txt -r requirements-dev.txt)

# $(call install,FOLDER,WHAT): the mark is set last, so that a broken installation is made anew.
define install
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed; install it, or say where it is:\
	 make PYTHON=/path/to/python"; exit 1; }
	@echo "Installing into $(1) …"
	@$(1)/bin/python $(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv $(1) || { rm -rf $(1); echo "Python's venv module\
	 is needed (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@$(1)/bin/python $(PIP) install $(2)
	@touch $@
endef
