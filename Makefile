# Needs Python 3.11 or newer with its venv module and pip; python3-venv (ensurepip) is not needed.
# Everything else comes, pinned by hash, from requirements.lock.

PYTHON ?= python3
UV ?= uv
ARGS ?=

VENV := .venv
VENV_OLDEST := .venv-oldest
SENDER := tests/senders/javascript
BIN := $(VENV)/bin
PIP = $(PYTHON) -m pip --disable-pip-version-check
LOCKING = $(UV) pip compile --quiet --no-config --universal --generate-hashes --python-version 3.11 \
	--all-extras --group dev --custom-compile-command 'make lock'

.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs pictures collector test-wheel test-oldest lock clean venv node-modules python

# Prints what decides whether a venv is still good: the files' content, this Python and this folder.
KEY = import hashlib, os, sys; \
	print(hashlib.sha256(b"".join(open(p, "rb").read() for p in sys.argv[1:])).hexdigest(), \
	sys.version.split()[0], sys.base_prefix, os.getcwd())

# $(call install_lock,VENV,LOCK): a new venv with what LOCK pins, and nothing that it does not.
# setuptools comes first because build isolation would fetch one that no hash pins.
define install_lock
$(PYTHON) -m venv --without-pip "$(1)"; \
sed -n '/^setuptools==/,/[^\\]$$/p' "$(2)" > "$(1)/setuptools.txt"; \
$(PIP) --python "$(1)/bin/python" install -q --require-hashes --no-deps -r "$(1)/setuptools.txt"; \
$(PIP) --python "$(1)/bin/python" install -q --require-hashes --no-build-isolation --use-pep517 -r "$(2)"
endef

# $(call ready,VENV,LOCK): brings VENV to LOCK plus this checkout (editable). The two stamps are written
# last, so an interrupted install is never taken for a finished one.
define ready
@set -eu; \
deps=$$($(PYTHON) -c '$(KEY)' $(2)); \
all=$$($(PYTHON) -c '$(KEY)' $(2) pyproject.toml); \
if [ "$$(cat $(1)/.locked 2>/dev/null)" != "$$deps" ]; then \
	if [ -e $(1) ] && [ ! -e $(1)/.made-by-make ]; then \
		echo "error: $(1) was not made by this Makefile; move it away, then try again" >&2; exit 1; \
	fi; \
	echo "==> Installing $(2) into $(1) (about a minute)"; \
	rm -rf $(1); mkdir $(1); : > $(1)/.made-by-make; \
	$(call install_lock,$(1),$(2)); \
	echo "$$deps" > $(1)/.locked; \
fi; \
if [ "$$(cat $(1)/.installed 2>/dev/null)" != "$$all" ]; then \
	echo "==> Installing this checkout into $(1) (editable)"; \
	rm -f $(1)/.installed; \
	$(PIP) --python $(1)/bin/python install -q --no-deps --no-build-isolation -e .; \
	echo "$$all" > $(1)/.installed; \
fi
endef

help: ## list the targets
	@echo "make TARGET [ARGS='...'] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' Makefile

demo: venv ## run the demo (ARGS go to audit-bridge demo)
	@exec $(BIN)/audit-bridge demo $(ARGS)

test: venv node-modules ## run the tests (ARGS go to pytest)
	$(BIN)/python -m pytest $(ARGS)

check: venv ## lint, format check, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: venv ## run the benchmarks (ARGS go to them, such as --quick)
	$(BIN)/python -m benchmarks $(ARGS)

pictures: venv ## draw the pictures in the docs anew, from the real program
	$(BIN)/python docs/images/draw_demo.py

collector: ## build the OpenTelemetry Collector that some tests run, once (needs Go; OTELCOL=/path names one instead)
	@GO='$(GO)' sh collector_config/build.sh

docs: venv ## build the documentation into site/; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test-wheel: venv node-modules ## build the wheel and run the tests against it, out of reach of this checkout
	@set -eu; \
	tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
	echo "==> Building the wheel"; \
	$(BIN)/python -m build --wheel --no-isolation --outdir "$$tmp/dist" > "$$tmp/log" 2>&1 \
		|| { cat "$$tmp/log" >&2; exit 1; }; \
	$(BIN)/python -c 'import sys, zipfile; names = zipfile.ZipFile(sys.argv[1]).namelist(); \
		odd = [n for n in names if not n.startswith(("bridge/", "otel_audit_bridge-"))]; \
		sys.exit(f"error: the wheel holds {odd}" if odd else "bridge/py.typed" not in names)' "$$tmp"/dist/*.whl; \
	echo "==> Installing requirements.lock and the wheel into a new venv (about a minute)"; \
	$(call install_lock,$$tmp/venv,requirements.lock); \
	$(PIP) --python "$$tmp/venv/bin/python" install -q --no-deps "$$tmp"/dist/*.whl; \
	mkdir "$$tmp/copy"; \
	tar -cf - --exclude=./bridge --exclude=./.git --exclude='./.venv*' --exclude=./site --exclude=./dist \
		--exclude='./.*_cache' --exclude=node_modules . | tar -xf - -C "$$tmp/copy"; \
	if [ -e $(SENDER)/node_modules ]; then ln -s "$$PWD/$(SENDER)/node_modules" "$$tmp/copy/$(SENDER)/"; fi; \
	cd "$$tmp/copy"; \
	"$$tmp/venv/bin/python" -c 'import bridge, pathlib, sys; print("==> Testing", bridge.__file__); \
		sys.exit("site-packages" not in pathlib.Path(bridge.__file__).parts)'; \
	"$$tmp/venv/bin/python" -m pytest $(ARGS)

test-oldest: python node-modules ## run the tests against the oldest supported OpenTelemetry
	$(call ready,$(VENV_OLDEST),requirements-oldest.lock)
	$(VENV_OLDEST)/bin/python -m pytest $(ARGS)

lock: ## solve both lock files anew (ARGS=--upgrade takes the newest releases; needs uv)
	@command -v $(UV) > /dev/null \
		|| { echo "error: uv is missing; pip install uv, or make lock UV=/path/to/uv" >&2; exit 1; }
	$(LOCKING) $(ARGS) pyproject.toml -o requirements.lock
	$(LOCKING) $(ARGS) -c requirements-oldest.in pyproject.toml -o requirements-oldest.lock

clean: ## remove what the other targets made
	rm -rf site dist $(SENDER)/node_modules .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@for venv in $(VENV) $(VENV_OLDEST); do \
		if [ -e $$venv/.made-by-make ]; then echo "rm -rf $$venv"; rm -rf $$venv; fi; \
	done

venv: python
	$(call ready,$(VENV),requirements.lock)

# What the JavaScript sender of the tests needs, pinned by hash. Without npm there is nothing to do: its tests are then
# skipped, and say why; in CI they fail.
node-modules: python
	@set -eu; \
	command -v npm > /dev/null || exit 0; \
	key=$$($(PYTHON) -c '$(KEY)' $(SENDER)/package-lock.json); \
	if [ "$$(cat $(SENDER)/node_modules/.locked 2>/dev/null)" != "$$key" ]; then \
		echo "==> Installing $(SENDER)/package-lock.json (about 15 seconds)"; \
		rm -rf $(SENDER)/node_modules; \
		(cd $(SENDER) && npm ci --loglevel=error); \
		echo "$$key" > $(SENDER)/node_modules/.locked; \
	fi

python:
	@command -v $(PYTHON) > /dev/null \
		|| { echo "error: $(PYTHON) is missing (Debian: apt-get install python3 python3-pip)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $$($(PYTHON) -V) is too old, 3.11 is needed (make PYTHON=/path/to/a/newer/python3)" >&2; exit 1; }
	@$(PYTHON) -c 'import pip; raise SystemExit(tuple(map(int, pip.__version__.split(".")[:2])) < (22, 3))' 2> /dev/null \
		|| { echo "error: $(PYTHON) has no pip 22.3 or newer (Debian: apt-get install python3-pip)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv' 2> /dev/null \
		|| { echo "error: $(PYTHON) has no venv module (Debian: apt-get install libpython3-stdlib)" >&2; exit 1; }
