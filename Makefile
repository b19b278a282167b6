# `make help` lists the targets. All tools run in virtual environments below this folder.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Python keeps compiled files: else each of some hundred processes of the tests compiles what it imports.
export PYTHONDONTWRITEBYTECODE :=

# The first Python that is new enough. `make PYTHON=/path/to/python …` selects another.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo $$name; break; fi; done)

RUN := .venv-run
DEV := .venv
PIP := -m pip --disable-pip-version-check --quiet
COMPILE := $(DEV)/bin/pip-compile --quiet --no-header --no-emit-index-url --no-emit-trusted-host \
	--no-emit-find-links --no-emit-options --strip-extras

# Checks and formats the JavaScript; npx installs it outside this folder.
BIOME := npx --yes @biomejs/biome@2.6.8
SCRIPTS := --config-path=.ci/biome.json director/static/director/*.js

# Paths (TESTS) and options (PYTEST_ARGS) for pytest.
TESTS ?=
PYTEST_ARGS ?=
# The module that runs a suite. tests.rerun, as in .ci/run, runs failed tests once more, alone.
PYTEST ?= pytest
# Number of test processes; 0 runs the tests in the main process. Most tests wait more than they compute, so there are
# more processes than cores.
WORKERS ?= 6
SPREAD = -n $(WORKERS) --dist worksteal
# Without slow tests, and a quarter of the examples of Hypothesis.
QUICK = -m "not slow" --hypothesis-profile quick
# Tests that also run on PostgreSQL: each write, and the queries, locks and outages that depend on the database.
POSTGRES_TESTS = tests/db tests/api/test_accounts.py tests/api/test_audit.py tests/api/test_private.py \
	tests/api/test_failures.py tests/api/test_found.py tests/api/test_groups.py \
	tests/api/test_metrics.py tests/api/test_threaded_handler.py tests/api/test_usage.py \
	tests/api/listener/test_owners.py tests/api/listener/test_records.py tests/api/v2/test_assets.py tests/api/v2/test_jobs.py tests/ws/test_stream.py tests/runner/test_outages.py \
	tests/runner/test_rare_moments.py tests/runner/test_webhooks.py
POSTGRES_URL ?= postgres://postgres:postgres@127.0.0.1:5432/director
# Options for `make serve`, for example SERVE_ARGS="--port 9000".
SERVE_ARGS ?=

.PHONY: help demo serve test test-all test-postgres test-changed chaos fuzz test-real lint format docs pictures site requirements clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(RUN)/.installed ## three groups on three simulated GPUs (ONCE=1: end afterwards)
	@$(RUN)/bin/python manage.py demo $(if $(filter-out 0,$(ONCE)),--once)

serve: $(RUN)/.installed ## run the Director on http://localhost:9820 (SERVE_ARGS="--port 9000")
	@$(RUN)/bin/python manage.py serve $(SERVE_ARGS)

test: $(DEV)/.installed ## run all tests except slow ones (TESTS=tests/unit PYTEST_ARGS=-x)
	@[ "$$DIRECTOR_TEST_SERVICES" = required ] || echo "Tests that need PostgreSQL or Redis\
	 are skipped if these are not available; DIRECTOR_TEST_SERVICES=required makes that an error."
	@$(DEV)/bin/python -m $(PYTEST) $(SPREAD) $(QUICK) $(PYTEST_ARGS) $(TESTS)

test-all: $(DEV)/.installed ## run all tests, then the database tests on PostgreSQL (up to 1 h)
	@$(DEV)/bin/python -m $(PYTEST) $(SPREAD) $(PYTEST_ARGS) $(TESTS)
	@$(if $(TESTS),,$(MAKE) test-postgres)

test-postgres: $(DEV)/.installed ## run the database tests on PostgreSQL (POSTGRES_URL=postgres://…)
	@DIRECTOR_DATABASE_URL=$(POSTGRES_URL) \
		$(DEV)/bin/python -m $(PYTEST) $(SPREAD) $(QUICK) $(PYTEST_ARGS) $(POSTGRES_TESTS)

# Each sabotage and each kill in a product file that changed since BASE.
# All breakages are one file: the workers share its tests.
test-changed: $(DEV)/.installed ## run the slow tests of files that changed since BASE=commit
	@$(DEV)/bin/python -m $(PYTEST) $(SPREAD) --changed-since $(BASE) $(PYTEST_ARGS) \
		tests/sabotage tests/e2e || [ $$? -eq 5 ] # 5: no test was selected

# Requires the programs of PostgreSQL and Redis; starts separate servers.
chaos: $(DEV)/.installed ## inject random failures into farms of processes (SEED=1 KILLS=60 CHILDREN=2000 KEEP=folder FARM=sqlite)
	@CHAOS_SEED=$(or $(SEED),1) CHAOS_KILLS=$(or $(KILLS),60) CHAOS_CHILDREN=$(or $(CHILDREN),2000) \
		$(if $(KEEP),CHAOS_KEEP=$(abspath $(KEEP))) DIRECTOR_TEST_SERVICES=required \
		$(DEV)/bin/python -m pytest -n 0 -s tests/chaos $(if $(FARM),-k $(FARM))

fuzz: $(DEV)/.installed ## send requests made of docs/openapi.yaml to simulated farms (CASES=100000 SEED=1)
	@FUZZ_CASES=$(or $(CASES),10000) FUZZ_SEED=$(or $(SEED),1) $(DEV)/bin/python -m pytest -n 0 -s tests/fuzz

# One process (-n 0): every test needs exclusive use of the ComfyUI. COMFYUI_COMMAND is a command line with
# {port} and {folder} that runs a ComfyUI in the foreground; tests kill that ComfyUI too.
test-real: export COMFYUI_COMMAND ?=
test-real: $(DEV)/.installed ## run the tests against a real ComfyUI (COMFYUI=http://127.0.0.1:8188)
	@[ -n "$(COMFYUI)" ] || { echo "COMFYUI is not set. Example: make test-real COMFYUI=http://127.0.0.1:8188"; exit 2; }
	@COMFYUI="$(COMFYUI)" $(DEV)/bin/python -m pytest $(PYTEST_ARGS) -n 0 tests/real

lint: $(DEV)/.installed ## check style, types, import contracts, migrations, deployment settings, Dockerfile and site
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	@command -v npx >/dev/null || echo "JavaScript is not checked: npx, a part of npm, is missing."
	[ -z "$$(command -v npx)" ] || $(BIOME) ci $(SCRIPTS)
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports
	$(DEV)/bin/python manage.py makemigrations --check --dry-run
	$(DEV)/bin/python manage.py check --deploy --fail-level WARNING
	[ ! -x $(DEV)/bin/hadolint ] || $(DEV)/bin/hadolint Dockerfile # installed on Linux only
	@$(MAKE) site

format: $(DEV)/.installed ## format the code and sort imports
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .
	[ -z "$$(command -v npx)" ] || $(BIOME) check --write $(SCRIPTS)

docs: $(DEV)/.installed ## regenerate the generated pages of docs/
	$(DEV)/bin/python docs/generate.py
	$(DEV)/bin/python -m tests.sabotage

pictures: $(DEV)/.installed ## take the screenshots of the docs again (needs Chromium)
	$(DEV)/bin/python docs/pictures.py

site: $(DEV)/.installed ## build the documentation as a site, in the folder site
	@NO_MKDOCS_2_WARNING=1 $(DEV)/bin/mkdocs build

requirements: $(DEV)/.installed ## pin the newest allowed versions of packages (UPGRADE=--upgrade)
	$(COMPILE) $(UPGRADE) --output-file requirements.txt pyproject.toml
	$(COMPILE) $(UPGRADE) --extra dev --extra mcp --extra oidc --extra s3 --constraint requirements.txt \
		--output-file requirements-dev.txt pyproject.toml

clean: ## remove environments, caches and demo data
	rm -rf $(RUN) $(DEV) demo-data .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .node site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN)/.installed: requirements.txt
	$(call install,$(RUN),-r requirements.txt)

$(DEV)/.installed: requirements.txt requirements-dev.txt
	$(call install,$(DEV),-r requirements.txt -r requirements-dev.txt)

# $(call install,FOLDER,WHAT): the mark is set last, so that an incomplete installation is repeated.
define install
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is required; install it, or set its path:\
	 make PYTHON=/path/to/python"; exit 1; }
	@echo "Installing into $(1) …"
	@$(1)/bin/python $(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv $(1) || { rm -rf $(1); echo "Python's venv module\
	 is required (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@$(1)/bin/python $(PIP) install $(2)
	@touch $@
endef
