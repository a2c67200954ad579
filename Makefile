# Every target does its own set-up in .venv. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help demo test lint types bench chaos soak clean

BIN := .venv/bin
BENCHMARKS = $(filter-out benchmarks/bench_%.py,$(wildcard benchmarks/*.py))

help: ## This list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: ## Two synthetic patients through the whole node: C-STORE in, SR and SEG out (ARGS="--input DIR" takes your CT)
	@deploy/install.sh
	@$(BIN)/fvlm-node demo $(ARGS)

test: ## Lint, types and all tests; installs Debian packages for the real peers (sudo if not root)
	@deploy/install.sh test
	@$(MAKE) --no-print-directory lint
	@$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS); tests=$$?; wait $$types && exit $$tests

lint: ## ruff: style and format errors
	@deploy/install.sh test
	@$(BIN)/ruff check .

types: ## mypy, strict, on our packages
	@deploy/install.sh test
	@$(BIN)/mypy

bench: ## Benchmarks against the real peers; NAME=… runs one
	@deploy/install.sh test
	@$(if $(NAME)$(BENCHMARKS),,echo "There is no benchmark yet: benchmarks/ holds none" >&2; exit 1)
	@for file in $(or $(NAME:%=benchmarks/%.py),$(BENCHMARKS)); do $(BIN)/python $$file || exit 1; done

chaos: ## A thousand random `kill -9` of a node at work (CHAOS_KILLS=1000 CHAOS_SEED=1)
	@deploy/install.sh test
	@$(BIN)/python tests/chaos/kills.py

soak: ## Two hours of load; memory, handles and threads must stay flat (SOAK_MINUTES=120), report in runs/soak.json
	@deploy/install.sh test
	@$(BIN)/python tests/chaos/soak.py

clean: ## Removes what the targets above made, and .venv
	rm -rf .venv demo-output .test-data .mypy_cache .ruff_cache .pytest_cache .hypothesis
