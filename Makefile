# Everything a developer runs. `make` alone lists the targets.
PYTHON ?= python3.11
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help format lint types imports check test coverage bench chaos demo broker wheel ci clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

format: .venv/ready ## put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lint: .venv/ready ## every rule of ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/ready ## mypy, strict
	$(BIN)/mypy

imports: .venv/ready ## which module may import which
	$(BIN)/lint-imports

check: lint types imports ## lint, types and imports

test: .venv/ready ## every test; T=tests/unit for some of them
	$(BIN)/python -m pytest $(T)

coverage: .venv/ready ## every test, and which lines and branches none of them takes
	$(BIN)/python -m pytest --cov $(T)

bench: .venv/ready ## every benchmark, most of an hour; T=--short to see that each runs
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python -m tests.bench $(T)

chaos: .venv/ready ## kill, freeze and rebalance trainers for a quarter of an hour, on both logs
	$(BIN)/python -m tests.fault.chaos --log sqlite --kills 200 --events 100000 --learner tree
	$(BIN)/python -m tests.fault.chaos --log kafka --kills 100 --events 100000
	$(BIN)/python -m tests.fault.chaos --log kafka --client librdkafka --kills 40 --events 40000

demo: .venv/ready ## a model learns, and a scorer follows it
	$(BIN)/stream-update demo

broker: .venv/ready ## a real Kafka broker in the foreground; prints its address
	$(BIN)/python -m tests.broker start

wheel: .venv/ready ## dist/*.whl and dist/*.tar.gz
	$(BIN)/python -m build

ci: ## what a change must pass, from nothing
	.ci/run

clean: ## remove what the tools left
	rm -rf .venv build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
