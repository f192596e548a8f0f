# Everything runs from the repository's root, in the environment .venv that `make` keeps up to date.

# The first Python that is new enough; name another with `make PYTHON=/path/to/python3`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PORT ?= 8501

VENV := .venv
RUN := $(VENV)/bin/python -m
INSTALL := $(RUN) pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup app space test browser-test screenshots bench lint format clean

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.runtime ## install what the app needs into .venv

app: $(VENV)/.runtime ## open the app (PORT=8501)
	$(RUN) streamlit run app.py --server.port $(PORT)

# What is committed and nothing else, by the Hub's own client: the Hub refuses a plain `git push` of
# weights and pictures.
space: $(VENV)/.runtime ## send the app to a Space of the Hub (SPACE=org/name, after hf auth login)
	@test -n '$(SPACE)' || { echo 'Say which Space: make space SPACE=org/name.'; exit 1; }
	rm -rf build/space
	mkdir -p build/space
	git archive HEAD | tar -x -C build/space
	$(VENV)/bin/hf upload $(SPACE) build/space . --repo-type space --delete '*'

test: $(VENV)/.dev ## run the tests; those in a browser are skipped without Chromium
	$(RUN) pytest -n 2 --dist loadgroup --no-loadscope-reorder

browser-test: $(VENV)/.dev ## run the tests in a browser; without Chromium they fail
	SR3_REQUIRE_BROWSER=1 $(RUN) pytest -m browser

screenshots: $(VENV)/.dev ## photograph every page into screenshots/: desktop, phone and 4K stand, light and dark
	$(RUN) benchmarks.screenshots

bench: $(VENV)/.runtime ## measure speed on this machine, which should be idle
	$(RUN) sr3 bench

lint: $(VENV)/.dev ## check style and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: $(VENV)/.dev ## put the code into house style
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

clean: ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is the last thing a recipe makes: an interrupted install starts again.
$(VENV)/.runtime: requirements.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'SR3 Lab needs Python 3.11 or newer: install it, or run make PYTHON=/path/to/python3.'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'This Python cannot make environments: install its venv module (on Debian and Ubuntu, apt-get install python3-venv).'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-scale.txt $(VENV)/.runtime
	$(INSTALL) -r requirements-dev.txt
	@touch $@
