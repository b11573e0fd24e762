# Each target makes the environment it needs, on a machine with only Python 3.11+, g++ and make.

PYTHON ?= python3
# The sample that changes in the demo, and a search that takes a minute: the 64 masks of six rows.
FACE ?= seed0035
# Versions from pyenv count too: their commands on PATH work only where they are switched on.
find_python = $(firstword $(shell for p in $(foreach v,$(1),python$(v) \
	$(wildcard $(HOME)/.pyenv/versions/$(v).*/bin/python)); do \
	$$p -c 'import venv' 2>/dev/null && command -v $$p; done))
PYTHON_OLDEST ?= $(call find_python,3.11)
PYTHON_NEWEST ?= $(call find_python,3.13 3.12)

OLDEST := 'jax==0.10.0' 'flax==0.12.8' 'optax==0.2.8' 'orbax-checkpoint==0.12.8'
NEWEST := 'jax==0.12.*'

BIN := .venv/bin
DEMO := runs/demo
TESTS := -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20 \
	-m "not slow"
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Bytecode is written as files are first used, also where images of containers forbid it: pip would
# write that of all packages' files, which takes longer than to fetch them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-docs test-web browser test-oldest test-newest lint docs clean

# Gives a face of the shipped generator (of no real person) the expression of a real photo.
demo: .venv/demo-stamp
	mkdir -p $(DEMO)
	$(BIN)/python -c "import skimage.data, skimage.io; \
		skimage.io.imsave('$(DEMO)/driver.png', skimage.data.astronaut())"
	$(BIN)/python -m experiments.transfer --appearance=fxjax/zoo/faces256/samples/$(FACE).png \
		--expression=$(DEMO)/driver.png --out=$(DEMO)/transfer \
		--rows=2-7 --steps=40 --tuning=20 --refine=20
	@echo "Open $(DEMO)/transfer/report.html"

test: lint
	$(BIN)/python $(TESTS)

lint: .venv/stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

# The site, in runs/site; a warning, or a page that fetches from another machine, is an error.
docs: .venv/docs-stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Open runs/site/index.html"

# What takes more than half a minute each: kills, several processes, the shipped model on photos.
test-slow: .venv/stamp
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=20 -m slow

# The Python on the pages and in the notebook, with the shipped model.
test-docs: .venv/stamp
	$(BIN)/python -m pytest -n 2 -m slow tests/test_docs.py

# The page, in a real browser.
test-web: .venv/stamp browser
	$(BIN)/python -m pytest -n 0 tests/test_web.py tests/test_web_studio.py tests/test_browser.py

# As root on Debian it installs Chromium if there is none.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { test "$$(id -u)" = 0 \
		&& timeout 600 sh -c 'apt-get update -qq && apt-get install -qq -y chromium' >/dev/null; } \
		|| { echo "no Chromium; install it (Debian: apt install chromium)" >&2; exit 1; }

test-oldest: .venv-oldest/stamp
	.venv-oldest/bin/python $(TESTS)

test-newest: .venv-newest/stamp
	.venv-newest/bin/python $(TESTS)

# What the demo needs, without the tools of the tests.
.venv/demo-stamp: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fxjax needs Python 3.11 or newer; use make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[demo]'
	touch $@

.venv/stamp: .venv/demo-stamp
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	touch $@

.venv/docs-stamp: .venv/stamp
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[docs]'
	touch $@

.venv-oldest/stamp: pyproject.toml
	@test -n "$(PYTHON_OLDEST)" || { echo "make test-oldest: no Python 3.11 found; install it or give PYTHON_OLDEST=..." >&2; exit 1; }
	$(PYTHON_OLDEST) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --no-compile --editable '.[dev]' $(OLDEST)
	touch $@

.venv-newest/stamp: pyproject.toml
	@test -n "$(PYTHON_NEWEST)" || { echo "make test-newest: no Python 3.12 or newer found; install it or give PYTHON_NEWEST=..." >&2; exit 1; }
	$(PYTHON_NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --no-compile --editable '.[dev]' $(NEWEST)
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-newest .cache .pytest_cache .ruff_cache runs build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
