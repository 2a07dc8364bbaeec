# Every target works on a fresh machine with Python 3.10 or newer: it makes .venv, installs and runs.
PYTHON := python3
VENV := .venv
PORT := 7860
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check install
CODE := cyclegan_age options $(wildcard *.py benchmarks/*.py datasets/*.py)

.PHONY: demo web test lint visdom bench wheel docs eval-packages

demo: $(VENV)/installed  ## age the built-in portrait and say where its page is
	@$(RUN) test.py --name demo --life --features down2 blocks.2

web: $(VENV)/installed-web  ## the browser application, at 127.0.0.1:7860 (make web PORT=7861)
	@$(RUN) demo.py --port $(PORT)

test: lint  ## the checks of `make lint`, then every test
	@$(MAKE) --no-print-directory PIP="$(PIP) --quiet" eval-packages || \
	  echo "the packages of requirements-eval.txt cannot be installed: their tests will skip" >&2
	@$(RUN) -m pytest -n 2 --dist loadfile --ignore-glob 'tests/*_browser.py'
	@$(RUN) -m pytest -n 2 --dist loadfile tests/*_browser.py

lint: $(VENV)/installed-dev  ## style, format and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy $(CODE)

visdom: $(VENV)/installed  ## the server that a training draws on, at 127.0.0.1:8097
	@$(RUN) -m cyclegan_age.visdom_server

bench: $(VENV)/installed  ## speed and memory on this machine
	@$(RUN) -m benchmarks

wheel: $(VENV)/installed  ## dist/cyclegan_age-*.whl, weights inside: pip install takes it, see docs/install.md
	@rm -rf build
	@$(RUN) -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build && ls dist/*.whl

docs: $(VENV)/installed-docs  ## the documentation as a site: site/index.html, its links checked
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "site/index.html"

eval-packages: $(VENV)/installed-eval  ## networks for evaluation, and ImageNet features for some trainings

$(VENV)/installed: requirements.txt requirements-visdom.txt requirements-tests.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
	  { echo "$(PYTHON): Python 3.10 or newer is needed; name it: make PYTHON=python3.12"; exit 1; }
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV) || \
	  { echo "venv: not part of this Python; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV), once: some minutes and up to 6 GB" >&2
	$(PIP) "setuptools<81" wheel >&2
	$(PIP) --no-build-isolation -r requirements.txt >&2
	@touch $@

$(VENV)/installed-eval: $(VENV)/installed requirements-eval.txt
	$(PIP) -r requirements-eval.txt
	@touch $@

$(VENV)/installed-web: $(VENV)/installed requirements-web.txt
	$(PIP) -r requirements-web.txt >&2
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed requirements-docs.txt
	$(PIP) -r requirements-docs.txt >&2
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt requirements-web.txt requirements-export.txt
	$(PIP) -r requirements-dev.txt -r requirements-web.txt -r requirements-export.txt >&2
	@touch $@
