# make demo   train, package and serve a small model       make test   all checks and tests
# Both set up .venv first, once: stamps under .make/ say what was installed for which pyproject.toml.

PYTHON ?= python3
BIN := .venv/bin
CODE := frontend worker archiver handlers model_store
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check bench bench-peers contract-oracle chaos fuzz audit protos clean distclean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## */\t/' | expand -t 18

demo: .make/demo ## Train, package, serve and ask a small digit classifier
	@$(BIN)/python examples/digits/demo.py

# These look at what is seen within seconds, so they have the machine for themselves.
ALONE := tests/chaos $(addprefix tests/process/test_,exit_reasons.py lost_workers.py overload.py)
test: check ## Everything in 'check', then all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ALONE:%=--ignore=%)
	$(BIN)/python -m pytest $(ALONE)

check: .make/test ## Format, lint, types and import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(CODE)
	$(BIN)/python -m pytest --quiet tests/test_layers.py

bench: .make/test ## Measure throughput and latency on this machine
	@test -f benchmarks/run.py || { echo "benchmarks/run.py is not there: nothing to measure." >&2; exit 1; }
	@$(BIN)/python benchmarks/run.py

PEERS_OPTIONS ?=
bench-peers: .make/test ## Measure flambeau beside other servers (PEERS_OPTIONS='--help')
	@$(BIN)/python benchmarks/bench_peers.py $(PEERS_OPTIONS)

ORACLE_VENV ?= .make/oracle
contract-oracle: .make/test ## Ask the real TorchServe what the contract says of it (needs Java)
	@$(BIN)/python tests/contract/oracle.py --venv $(ORACLE_VENV)
	@$(BIN)/python tests/compat/oracle.py --venv $(ORACLE_VENV)

CHAOS_REQUESTS ?= 200000
CHAOS_SEED ?= $(shell $(PYTHON) -c 'import random; print(random.SystemRandom().randrange(10**6))')
chaos: .make/test ## Kill, stop, starve and confuse a server that is asked CHAOS_REQUESTS times
	@$(BIN)/python tests/chaos/run.py --requests $(CHAOS_REQUESTS) --seed $(CHAOS_SEED)

FUZZ_SECONDS ?= 30
fuzz: .make/test ## Throw bytes at the parsers and requests at the APIs, FUZZ_SECONDS for each
	@$(BIN)/python tests/fuzz/fuzz.py --seconds $(FUZZ_SECONDS)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP_INSTALL) atheris || \
		echo "atheris cannot be had for this Python: nothing is led by coverage"
	@! $(BIN)/python -c 'import atheris' 2>/dev/null || \
		$(BIN)/python tests/fuzz/fuzz.py --atheris --seconds $(FUZZ_SECONDS)
	@test -x .make/schemathesis/bin/schemathesis || { $(PYTHON) -m venv .make/schemathesis && \
		.make/schemathesis/bin/pip install --quiet --disable-pip-version-check 'schemathesis>=4'; }
	@$(BIN)/python tests/fuzz/api.py .make/schemathesis/bin/schemathesis --seconds $(FUZZ_SECONDS)

AUDIT := .make/audit/bin
audit: .make/test ## Look for known holes in what is installed, and list it (sbom.json)
	@test -x $(AUDIT)/pip-audit || { $(PYTHON) -m venv .make/audit && \
		$(AUDIT)/pip install --quiet --disable-pip-version-check pip-audit cyclonedx-bom; }
	@$(AUDIT)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		-o sbom.json $(BIN)/python
	@$(AUDIT)/pip-audit --skip-editable --progress-spinner off \
		--path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

PROTOS := frontend/grpc/protos
protos: .make/test ## Compile the gRPC services' definitions after a change
	@$(BIN)/python -m grpc_tools.protoc -I $(PROTOS) \
		-I "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		--include_imports --descriptor_set_out=$(PROTOS)/services.binpb \
		inference.proto management.proto open_inference.proto

clean: ## Remove what was built or written, but keep .venv
	rm -rf build dist demo sbom.json .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv as well
	rm -rf .venv .make *.egg-info

# A new environment is newer than the stamps, so everything is installed into it again.
.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "flambeau needs Python 3.10 or later; '$(PYTHON)' is not one." >&2; \
		echo "Name another, for instance: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@echo "Making a Python environment in .venv"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# torch and torchvision fit only as a pair, hence always from one resolution: never install one alone.
.make/demo: pyproject.toml .venv/pyvenv.cfg
	@echo "Installing torch and flambeau into .venv: about two minutes the first time"
	@$(PIP_INSTALL) -e '.[demo,vision,fast]'
	@mkdir -p .make && touch $@

.make/test: pyproject.toml .venv/pyvenv.cfg
	@echo "Installing torch, flambeau and the test tools into .venv: about two minutes the first time"
	@$(PIP_INSTALL) -e '.[test]'
	@mkdir -p .make && touch .make/demo $@
