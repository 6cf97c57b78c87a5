# `make demo` and `make test` do all the set-up on a fresh machine; both can be repeated.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEVELOPING := .venv/.developing
EXAMPLE := examples/deepfake
# A command is started thousands of times: where an environment forbids it, none would keep what it compiled.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo demo-slurm demo-aws test lint unit docs hostile hostile-mutations test-v2 dfdc-replay clean \
	bench-local bench-scores bench-bundle bench-coverage bench-isolation bench-plan bench-aws-calls check-cloud bench-fuzz chaos

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 20

$(INSTALLED): requirements/referee.txt requirements/build.txt $(EXAMPLE)/requirements.txt pyproject.toml scripts/system-packages
	@scripts/system-packages
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing Python packages into .venv (pinned, with hashes)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes \
		-r requirements/referee.txt -r requirements/build.txt -r $(EXAMPLE)/requirements.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEVELOPING): $(INSTALLED) requirements/dev.txt
	@scripts/system-packages --tests
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

demo: $(INSTALLED)  ## the example challenge, end to end, on real video in real containers; leaves demo/
	@scripts/system-packages
	@$(BIN)/python $(EXAMPLE)/demo.py

demo-slurm: $(DEVELOPING)  ## the example on a Slurm cluster of four nodes, as an ordinary user, while a node is lost
	@scripts/system-packages --tests
	@$(BIN)/python $(EXAMPLE)/demo_slurm.py

demo-aws: $(DEVELOPING)  ## the example on a stand-in for AWS Batch, while spot machines are taken back
	@scripts/system-packages --tests
	@$(BIN)/python $(EXAMPLE)/demo_aws.py

chaos: $(DEVELOPING)  ## campaigns on every engine while everything breaks: was anything lost, duplicated or mis-billed?
	@scripts/system-packages --tests
	@$(BIN)/python benchmarks/chaos.py --faults 30

test: $(DEVELOPING)  ## every check: lint, types, architecture, and all the tests
	@scripts/system-packages --tests
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --ignore=tests/hostile
	$(BIN)/python -m pytest -q tests/hostile  # by themselves: some measure what an attack costs its neighbour

lint: $(DEVELOPING)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(DEVELOPING)  ## the quick tests only
	$(BIN)/python -m pytest -q -n auto tests/unit

docs: $(INSTALLED)  ## print docs/verdicts.md and docs/cli.md again from the code
	$(BIN)/python -m referee.policy_document > docs/verdicts.md
	$(BIN)/python -c "from referee.cli.reference import document; print(document(), end='')" > docs/cli.md

bench-local: $(DEVELOPING)  ## 200 trivial containers through Referee against bare podman
	$(BIN)/python benchmarks/bench_local.py

bench-scores: $(DEVELOPING)  ## Read, score and resample 4,200 submissions x 10,000 items
	$(BIN)/python benchmarks/bench_scores.py

bench-bundle: $(DEVELOPING)  ## Write and check the bundle of 4,200 submissions x 10,000 items
	$(BIN)/python benchmarks/bench_bundle.py

bench-coverage: $(DEVELOPING)  ## How often intervals and rank sets hold the truth, on 2,000 boards of each shape
	$(BIN)/python benchmarks/bench_coverage.py

bench-isolation: $(DEVELOPING)  ## What each isolation level costs: the same work bare, at runc and at gVisor, in turns
	$(BIN)/python benchmarks/bench_isolation.py

bench-fuzz: $(DEVELOPING)  ## two million hostile inputs to every reader, guided by coverage
	@test -d .cache/fuzz/packages/atheris || $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes \
		--no-deps --target .cache/fuzz/packages -r requirements/fuzz.txt
	$(BIN)/python benchmarks/fuzz.py

bench-plan: $(DEVELOPING)  ## what the planner promises and keeps, on simulated campaigns
	$(BIN)/python benchmarks/bench_plan.py

bench-aws-calls: $(DEVELOPING)  ## how many calls to AWS a campaign of 4,200 submissions takes, on a stand-in
	$(BIN)/python benchmarks/bench_aws_calls.py

check-cloud: $(DEVELOPING)  ## the stack's template under cfn-lint, and checkov in an environment of its own
	scripts/check-cloud

hostile: $(DEVELOPING)  ## every attack on the sandbox, on every level that is installed
	$(BIN)/python tests/hostile/run.py

hostile-mutations: $(DEVELOPING)  ## switch each defence off in turn, and see which attacks notice
	$(BIN)/python tests/hostile/run.py --mutations

test-v2: $(DEVELOPING)  ## the sandbox on a kernel with cgroup v2 alone, in a QEMU guest
	$(BIN)/python tests/guest/run.py

dfdc-replay: $(INSTALLED)  ## the Deepfake Detection Challenge's figures, and what a plan would have cost
	$(BIN)/python examples/dfdc-replay/replay.py

clean:  ## remove what make made
	rm -rf .venv .cache demo
