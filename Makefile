# `make help` lists the targets. Set-up is done by the targets that need it, once: the stamp files in .venv/ remember.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.stamp-runtime
DEV := $(VENV)/.stamp-dev
BROWSER := $(VENV)/.stamp-browser
NODE := $(VENV)/.stamp-node
PGBOUNCER := $(VENV)/.stamp-pgbouncer
HEADLESS_SHELL := $(VENV)/.stamp-headless-shell
WITH_BROWSER := sh scripts/with_browser.sh

ACCOUNTS ?= 5
N ?=
SEED ?= 1
KEEP ?=
ARGS ?=
JOBS ?= $(shell sh scripts/jobs.sh)

# Some machines set it, and each process would compile the project and rewrite the tests' assertions anew.
unexport PYTHONDONTWRITEBYTECODE

# A stamp is only true while its Python runs, the checkout has not moved and the browser is still there.
$(shell sh scripts/venv.sh forget-stale >&2)

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(RUNTIME) $(BROWSER) ## Authorise ACCOUNTS=5 sandbox accounts for real; KEEP=1 leaves it serving
	@$(WITH_BROWSER) $(PY) -m sandbox.demo --accounts $(ACCOUNTS) $(if $(filter-out 0,$(KEEP)),--keep)

.PHONY: batch
batch: $(RUNTIME) $(BROWSER) ## Authorise a batch of N=500 sandbox accounts, a tenth faulty, and check each end
	@$(WITH_BROWSER) $(PY) -m benchmarks.batch $(or $(N),500)

.PHONY: serve
serve: .env $(RUNTIME) ## Migrate the database and run the service with the settings in .env
	@$(PY) -m app migrate
	@exec $(PY) -m app serve

.env:
	@echo "There is no .env: run 'cp .env.example .env', edit it, then 'make serve' again." >&2; exit 1

.PHONY: test
test: $(DEV) $(BROWSER) $(NODE) $(PGBOUNCER) $(HEADLESS_SHELL) ## Run the whole suite, real browser and PostgreSQL included (ARGS='-k name -x')
	@$(WITH_BROWSER) $(PY) -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

.PHONY: test-long
test-long: $(DEV) $(BROWSER) $(NODE) $(PGBOUNCER) ## Run the slow tests that `make test` leaves out
	@$(WITH_BROWSER) $(PY) -m pytest -n $(JOBS) --dist loadgroup -m long $(ARGS)

.PHONY: chaos
chaos: $(DEV) $(BROWSER) ## Kill everything at random while N=200 sessions run, SEED=1; ARGS='-k sqlite' for one database
	@CHAOS_SESSIONS=$(or $(N),200) CHAOS_SEED=$(SEED) $(WITH_BROWSER) $(PY) -m pytest -s -m "" -p no:randomly tests/e2e/test_chaos.py $(ARGS)

.PHONY: kills
kills: $(DEV) $(BROWSER) ## Kill a process N=100 times, at every step of a refresh; ARGS='-k sqlite' for one database
	@KILLS=$(or $(N),100) $(WITH_BROWSER) $(PY) -m pytest -s -m "" -p no:randomly tests/e2e/test_refresh_kills.py $(ARGS)

.PHONY: fuzz
fuzz: $(DEV) ## Try N=2000 generated requests, token answers and schedules of simultaneous acts each
	@FUZZ_CASES=$(or $(N),2000) $(PY) -m pytest --timeout 3600 tests/integration/api/test_fuzz.py \
		tests/integration/services/tokens/test_hostile_answers.py \
		tests/integration/services/authorizations/test_transitions.py $(ARGS)

.PHONY: bench
bench: $(DEV) $(BROWSER) ## Measure the service against its baselines in up to 10 minutes (ARGS='--long --json FILE NAME')
	@$(WITH_BROWSER) $(PY) -m benchmarks $(ARGS)

.PHONY: coverage
coverage: $(DEV) $(BROWSER) $(NODE) $(PGBOUNCER) $(HEADLESS_SHELL) ## Run the suite and show which lines of app/ it did not reach
	@$(WITH_BROWSER) $(PY) -m pytest -n $(JOBS) --dist loadgroup --cov --cov-report=term-missing:skip-covered $(ARGS)

.PHONY: check check-format check-lint check-types check-docstrings check-imports check-openapi check-requirements check-reference check-docs check-docker check-compose check-migrations
check: check-format check-lint check-types check-docstrings check-imports check-openapi check-requirements check-reference check-docs check-docker check-compose check-migrations ## Run what CI runs besides the tests
	@echo "check: everything passed"

check-format: $(DEV)
	@echo "== format (ruff format)"
	@$(VENV)/bin/ruff format --check . || { echo "'make fmt' formats them" >&2; exit 1; }

check-lint: $(DEV)
	@echo "== lint (ruff check)"
	@$(VENV)/bin/ruff check .

check-types: $(DEV)
	@echo "== types (mypy, strict)"
	@$(PY) -m mypy

check-docstrings: $(DEV)
	@echo "== docstrings start with what the thing is or does"
	@$(PY) -m scripts.check_docstrings

check-imports: $(DEV)
	@echo "== imports point one way (import-linter)"
	@$(VENV)/bin/lint-imports --no-logo

check-openapi: $(DEV)
	@echo "== openapi.json is what the code says"
	@$(PY) -m scripts.openapi --check

check-requirements: $(DEV)
	@echo "== requirements*.txt are compiled from pyproject.toml"
	@$(PY) scripts/check_requirements.py || { echo "'make requirements' compiles them" >&2; exit 1; }

check-reference: $(DEV)
	@echo "== generated pages are what the code says"
	@$(PY) -m scripts.settings_reference --check
	@$(PY) -m scripts.cli_reference --check
	@$(PY) -m scripts.reference --check

check-docs: $(DEV)
	@echo "== documentation: the site builds, no link is broken"
	@$(PY) -m scripts.site_assets
	@$(VENV)/bin/zensical build --strict >/dev/null

check-docker: $(DEV)
	@echo "== Dockerfile (hadolint)"
	@$(VENV)/bin/hadolint --no-color Dockerfile

check-compose: $(DEV)
	@echo "== docker-compose.yml (the official schema, then its references)"
	@$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@$(PY) scripts/check_compose.py docker-compose.yml

check-migrations: $(DEV)
	@echo "== migrations, each step up and down with data (SQLite and PostgreSQL)"
	@$(PY) -m scripts.check_migrations

.PHONY: openapi
openapi: $(DEV) ## Write openapi.json anew
	@$(PY) -m scripts.openapi

# The files that are there are preferred: without ARGS='--upgrade' (or '--upgrade-package NAME') only what must change does.
COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make requirements" $(ARGS) pyproject.toml
.PHONY: requirements
requirements: $(DEV) ## Compile requirements.txt and requirements-dev.txt from pyproject.toml (ARGS=--upgrade)
	@$(COMPILE) --output-file requirements.txt
	@$(COMPILE) --extra dev --constraint requirements.txt --output-file requirements-dev.txt

.PHONY: reference
reference: $(DEV) ## Write .env.example and the generated pages of docs/ anew
	@$(PY) -m scripts.settings_reference
	@$(PY) -m scripts.cli_reference
	@$(PY) -m scripts.reference

.PHONY: docs
docs: $(DEV) ## Build the documentation as a site in site/; fails on a broken link
	@rm -rf site
	@$(PY) -m scripts.site_assets
	@$(VENV)/bin/zensical build --strict --clean

.PHONY: fmt
fmt: $(DEV) ## Format the code and fix what ruff can fix
	@$(VENV)/bin/ruff check --fix-only --quiet .
	@$(VENV)/bin/ruff format .

.PHONY: venv
venv: $(DEV) $(BROWSER) $(NODE) $(PGBOUNCER) $(HEADLESS_SHELL) ## Set everything up: virtual environment, requirements, browser and driver
	@echo "Ready: $$($(PY) --version), $$(cat $(BROWSER))"

.PHONY: clean
clean: ## Remove the virtual environment, caches and demo data; .env and data/ stay
	@rm -rf $(VENV) build dist tests/e2e/foreign/oidc/node_modules .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov site docs/vendor docs/openapi.json .cache
	@find app sandbox tests alembic scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): requirements.txt
	@sh scripts/venv.sh install requirements.txt runtime

# requirements-dev.txt holds the runtime's pins too, so this one sets the runtime stamp as well.
$(DEV): requirements-dev.txt requirements.txt
	@sh scripts/venv.sh install requirements-dev.txt runtime dev

# Selenium, which can download a browser, comes with either set of requirements.
$(BROWSER): scripts/ensure_browser.sh | $(if $(filter test chaos kills coverage check venv,$(MAKECMDGOALS)),$(DEV),$(RUNTIME))
	@sh scripts/ensure_browser.sh

$(NODE): scripts/ensure_node_packages.sh tests/e2e/foreign/oidc/package-lock.json | $(DEV)
	@sh scripts/ensure_node_packages.sh

$(PGBOUNCER): scripts/ensure_pgbouncer.sh | $(DEV)
	@sh scripts/ensure_pgbouncer.sh

$(HEADLESS_SHELL): scripts/ensure_headless_shell.sh $(BROWSER)
	@sh scripts/ensure_headless_shell.sh
