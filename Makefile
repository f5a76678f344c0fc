# Everything that is done with this repository; CI runs `make check` and nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
SAMPLE ?= $(firstword $(wildcard samples/pmtu-black-hole/client.pcap*))

# apt is used where it can be (root, and a system that has it); elsewhere a line says what is missing.
APT := DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=0 -o Acquire::http::Timeout=20
CAN_APT := [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(VENV)/.check ## Make the virtual environment with everything that development needs

.PHONY: demo
demo: $(VENV)/.run ## Install pcapdiag and let it explain a capture of a stalled agent
	@[ -n "$(SAMPLE)" ] || { echo "make demo: no capture matches samples/pmtu-black-hole/client.pcap*; give one: make demo SAMPLE=FILE" >&2; exit 1; }
	@echo "$(BIN)/pcapdiag analyze $(SAMPLE)"; echo
	@$(BIN)/pcapdiag analyze $(SAMPLE)

.PHONY: test
test: $(VENV)/.test tshark ## Run the tests (PYTEST_ARGS="-k name" for some of them)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: check
check: $(VENV)/.check ## Run all that CI runs: formatting, lint, types, contracts, tests
	$(BIN)/ruff format --check .
	@$(MAKE) lint types contracts test

.PHONY: format
format: $(VENV)/.check ## Rewrite the code in the one format, and repair what lint can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: lint
lint: $(VENV)/.check ## Look for mistakes and bad habits (ruff)
	$(BIN)/ruff check .

.PHONY: types
types: $(VENV)/.check ## Check the types (mypy --strict)
	$(BIN)/mypy

.PHONY: contracts
contracts: $(VENV)/.check ## Check that data flows one way (import-linter)
	$(BIN)/lint-imports

.PHONY: bench
bench: $(VENV)/.test bench-tools ## Measure time and memory beside tshark and tcptrace (BENCH_ARGS=--marginal, --big, FILE)
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

.PHONY: agreement
agreement: $(VENV)/.test tshark ## Compare TCP analysis with tshark packet by packet; rewrites the tables of docs/agreement.md
	$(BIN)/python -m tests.agreement --write

.PHONY: golden
golden: $(VENV)/.test ## Rewrite the expected reports and the README's output; read the diff before it is committed
	$(BIN)/python -m pytest tests/test_samples.py tests/test_readme.py --golden

.PHONY: samples
samples: $(VENV)/.lab ## Record the sample captures anew (needs root: it makes network namespaces)
	$(BIN)/python -m samples.lab --out samples

.PHONY: docs
docs: $(VENV)/.run ## Write docs/columns.md and docs/detectors.md from the code
	$(BIN)/python docs/generate.py

.PHONY: clean
clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .bench
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets above stand on; a stamp file saves a second installation -------------------------------------------------------

.PHONY: tshark
tshark:
	@command -v tshark >/dev/null && exit 0; \
	if $(CAN_APT); then \
	  echo "tshark is missing: installing it with apt"; \
	  { $(APT) update -qq && $(APT) install -y -qq --no-install-recommends tshark; } >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "tshark is not installed: the tests that compare with it will be skipped"

.PHONY: bench-tools
bench-tools:
	@missing=; \
	for tool in h2load:nghttp2-client nghttpd:nghttp2-server tcptrace:tcptrace tshark:tshark tcpdump:tcpdump ethtool:ethtool \
	    ip:iproute2 nft:nftables sysctl:procps; do \
	  command -v $${tool%:*} >/dev/null || missing="$$missing $${tool#*:}"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	if $(CAN_APT); then \
	  echo "installing with apt:$$missing"; \
	  { $(APT) update -qq && $(APT) install -y -qq --no-install-recommends $$missing; } >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "not installed:$$missing; what needs it will be skipped"

$(VENV)/bin/python:
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	[ -n "$${found:-}" ] || { echo "pcapdiag needs Python 3.11 or newer on the PATH" >&2; exit 1; }; \
	if ! $$found -c 'import ensurepip, venv' 2>/dev/null && $(CAN_APT); then \
	  echo "$$found cannot make virtual environments: installing python3-venv with apt"; \
	  $(APT) update -qq >/dev/null && $(APT) install -y -qq --no-install-recommends python3-venv >/dev/null || true; \
	fi; \
	$$found -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$$found cannot make virtual environments; install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }; \
	$$found -m venv $(VENV)

define install
	@echo "installing pcapdiag$(1)"
	@$(PIP) install --editable '.$(1)'
	@touch $@
endef

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	$(call install)
$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(call install,[test])
	@touch $(VENV)/.run
$(VENV)/.check: pyproject.toml | $(VENV)/bin/python
	$(call install,[test$(comma)check$(comma)lab])
	@touch $(VENV)/.run $(VENV)/.test
$(VENV)/.lab: pyproject.toml | $(VENV)/bin/python
	$(call install,[test$(comma)lab])
	@touch $(VENV)/.run $(VENV)/.test

comma := ,
