# Every target does its own set-up in .venv. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help demo test prove lint types bench chaos soak image image-test up down clean

BIN := .venv/bin
BENCHMARKS = $(filter-out benchmarks/bench_%.py,$(wildcard benchmarks/*.py))

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: ## Two synthetic patients through the whole node: C-STORE in, SR and SEG out (ARGS="--input DIR" takes your CT)
	@deploy/install.sh
	@$(BIN)/fvlm-node demo $(ARGS)

test: ## Lint, types and tests; installs Debian packages for the real peers (sudo if not root)
	@deploy/install.sh test
	@$(MAKE) --no-print-directory lint
	@$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not image and not proof" $(ARGS); tests=$$?; wait $$types && exit $$tests

prove: ## The campaigns at full length: 200 random `kill -9`, 20,000 hostile inputs, orders of events, soak of 5 minutes
	@deploy/install.sh test
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m proof $(ARGS)

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

image: ## The container image localhost/fvlm-node:cpu (TARGET=cuda, orthanc), by Docker, or by buildah where there is none
	@deploy/install.sh
	@command -v docker >/dev/null || deploy/image.sh base
	@deploy/image.sh wheels $(filter cpu cuda,$(TARGET))
	@deploy/image.sh build $(or $(TARGET),cpu)

image-test: ## Builds the image and runs it without a Docker engine: a phantom in, SR and SEG out
	@deploy/install.sh test
	@$(BIN)/python -m pytest -m image tests/deploy $(ARGS)

up: ## The whole node in containers (needs Docker): deploy/compose.yaml, and a phantom sent through it
	@deploy/secrets.sh
	@docker compose --file deploy/compose.yaml up --build --detach --wait
	@docker compose --file deploy/compose.yaml run --rm phantom
	@docker compose --file deploy/compose.yaml logs --no-log-prefix console | grep password || true
	@echo "Results: http://127.0.0.1:8042  Console: http://127.0.0.1:8112"

down: ## Ends what `make up` started; what was received and read stays
	@docker compose --file deploy/compose.yaml down

clean: ## Removes what the targets above made, and .venv
	@deploy/image.sh clean
	rm -rf .venv demo-output .test-data .mypy_cache .ruff_cache .pytest_cache .hypothesis
