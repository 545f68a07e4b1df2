# Fairlead's commands. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PY := .venv/bin/python
MODELS := build/models
FUZZ_SECONDS ?= 300
MINUTES ?= 60
PURE := domain dialects kits api
# More at once than two cores need: half of a system test is waiting. A module stays with one tester, so what its tests
# share is started once; the longest begin first (tests/support/order.py).
TESTS := $(PY) -m pytest -n 4 --dist loadfile --no-loadscope-reorder
# The slow ones share little, and one module of them takes minutes.
SLOW := $(PY) -m pytest -n 3 --dist worksteal
RELEASES := $(wildcard examples/*/release*.yaml examples/*/release*.json)

# Modules are compiled once, not in each of the hundreds of processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test lint types style unit system slow coverage clients rollouts fuzz bench soak streams lock docs proto clean setup setup-dev examples fmt

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:
	@scripts/setup.sh run

setup-dev:
	@scripts/setup.sh dev

examples: setup ## Build the example models, if they are missing
	@$(PY) examples/build.py --out $(MODELS)

run: examples ## Set up, build the examples, serve them on 127.0.0.1:8080 until Ctrl-C
	@exec .venv/bin/fairlead up $(RELEASES) --home .fairlead --models $(MODELS) --pin sentiment=v2

test: setup-dev lint ## Every check and test that needs no container engine, but for the slow suites
	@$(PY) examples/build.py --out $(MODELS)
	@$(TESTS) -m "not slow"

lint: setup-dev ## Style, types, layers, sizes, dependencies, spelling
	@$(MAKE) --no-print-directory -j 2 types style

types:
	@$(PY) -m mypy src/fairlead examples bench soak

style:
	@$(PY) -m ruff check --output-format concise .
	@$(PY) -m ruff format --check --quiet .
	@.venv/bin/lint-imports
	@.venv/bin/deptry src
	@.venv/bin/codespell

unit: setup-dev ## Only the fast tests
	@$(TESTS) tests/unit tests/architecture -m "not slow"

system: setup-dev ## Only the tests that start real processes
	@$(PY) -m pytest tests/contract tests/system

slow: setup-dev ## The tests that would make `make test` too long
	@$(SLOW) -m slow
	@$(SLOW) tests/unit tests/contract -m "hypothesis and not slow" --hypothesis-profile thorough --timeout 600

coverage: setup-dev ## How much of the packages without side effects the tests reach: 100 % of each is the bar
	@$(TESTS) tests/unit tests/contract -m "not slow" -q -p no:randomly --timeout=60 --cov=fairlead --cov-branch --cov-report=
	@missed=0; for package in $(PURE); do echo "== $$package"; $(PY) -m coverage report --include="src/fairlead/$$package/*" --fail-under=100 || missed=1; done; exit $$missed

clients: setup-dev ## Clients nobody here wrote ask us: tritonclient, and KServe from an environment of its own
	@scripts/kserve.sh
	@$(PY) -m pytest tests/system/test_oip_clients.py tests/system/test_kserve_client.py

rollouts: setup-dev ## Planted bad revisions and a good one rolled out under load; figures in build/rollouts.md
	@mkdir -p build; ROLLOUT_REPORT=$(CURDIR)/build/rollouts.md $(PY) -m pytest tests/system/test_rollout.py -q
	@cat build/rollouts.md

fuzz: setup-dev ## Attack every port for FUZZ_SECONDS (300), then Schemathesis; report in build/fuzz
	@$(PY) examples/build.py --out $(MODELS)
	@PYTHONPATH=tests:. $(PY) -m support.fuzz --seconds $(FUZZ_SECONDS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

bench: setup-dev ## Side by side with the servers people use instead (needs wrk, h2load); SUITES=small,grpc, QUICK=1
	@$(PY) bench/run.py $(if $(SUITES),--suites $(SUITES)) $(if $(QUICK),--quick) $(BENCH)

soak: setup-dev ## 500 revisions under constant load (about 20 minutes); SOAK=--churn: models come and go (30)
	@$(PY) soak/run.py $(SOAK)

streams: setup-dev ## Streams of speech with listeners who leave, for MINUTES (60): nothing lost, stuck or grown
	@$(PY) soak/streams.py --minutes $(MINUTES)

fmt: setup-dev ## Put the code into shape
	@$(PY) -m ruff check --fix --quiet . ; $(PY) -m ruff format --quiet .

docs: setup-dev ## Generate the reference pages
	@$(PY) scripts/reference.py

proto: setup-dev ## Renew the descriptors of the messages we write: proto/ by protoc, and what Envoy is told
	@$(PY) scripts/proto.py
	@$(PY) scripts/xds.py

lock: ## Renew the lock files (needs uv)
	@scripts/lock.sh

clean: ## Remove what was built, the virtual environment and the local store
	@scripts/clean.sh
