# What `make` does; README.md says more. Every target first brings .venv up to date, which takes no time when it is.
#
#   make install       .venv with ROS 2, the flight core and the quantum extra, and the compiled messages
#   make install-all   the same with every extra and the development tools (torch is large)
#   make messages      compile msg/ and srv/ again into an existing .venv
#   make swarm         fly; ARGS="--drones 5" and the like are passed on to `chimera swarm`
#   make test          all tests; ARGS="test/unit -k replay" and the like are passed on to pytest
#   make check-liboqs  tests of the second crypto provider and of swarms that use it; OQS_INSTALL_PATH=where the library is
#   make check         format, lint, types, import rules, structure
#   make format        put the source into the format that `make check` wants
#   make bench         benchmarks; ARGS="--quick" and the like are passed on to `chimera bench`
#   make verify        longer checks: more examples per property, fuzzers (FUZZ_SECONDS each), the Spin model
#   make clean         remove .venv and everything built
#
# Variables: PYTHON (the interpreter .venv is made with), VENV (where), ARGS, FUZZ_SECONDS, OQS_INSTALL_PATH.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
FUZZ_SECONDS ?= 60

bin := $(VENV)/bin
setup := $(PYTHON) tools/install.py --venv $(VENV)

.PHONY: help install install-all install-dev messages swarm test check-liboqs check format bench verify clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   \(make\)/\1/p' Makefile

install:
	@$(setup) --extras quantum

install-all:
	@$(setup) --extras all

# What tests and checks need: not torch, which nothing here tests.
install-dev:
	@$(setup) --extras quantum,dev

messages:
	@$(setup) --only-messages

swarm: install
	@$(bin)/chimera swarm $(ARGS)

test: install-dev
	$(bin)/python -m pytest $(ARGS)

# Nothing is skipped here: without the library this fails. test/README.md says how to build it.
check-liboqs: install-dev
	CHIMERA_TEST_LIBOQS=required OQS_INSTALL_PATH="$(OQS_INSTALL_PATH)" \
	  $(bin)/python -m pytest test/unit/test_crypto_providers.py test/sim/test_crypto_swarm.py $(ARGS)

check: install-dev
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy
	$(bin)/lint-imports --no-logo
	$(bin)/python tools/check_structure.py

format: install-dev
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

bench: install-dev
	@$(bin)/chimera bench $(ARGS)

# Each part shows its progress; what is missing (atheris, spin, gcc) is named with the command that brings it.
verify: install-dev
	$(bin)/python tools/verify_model.py
	@$(setup) --extras quantum,dev,fuzz
	$(bin)/python tools/fuzz.py --seconds $(FUZZ_SECONDS)
	HYPOTHESIS_PROFILE=verify $(bin)/python -m pytest $(ARGS)

clean:
	rm -rf $(VENV) build install log dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
