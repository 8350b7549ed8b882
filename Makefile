# `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup browser prometheus haproxy compiler images demo test envoy check format proto calibration sensitivity reports bench clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## a virtual environment with everything, in .venv

# torch first and by itself: as a CPU build where pip finds one (see README), it saves 3 GB.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet 'torch==2.13.0' || $(BIN)/python -m pip install --quiet torch
	$(BIN)/python -m pip install --quiet -e '.[train,serve,dev]'
	@touch $@

browser: ## Chromium, for the tests of pages (Debian, as root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium

prometheus: ## Prometheus and promtool, for the tests of what operators see (Debian, as root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus

haproxy: ## HAProxy, for the tests of replicas (Debian, as root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends haproxy

compiler: ## gcc and nghttp2, for the tests with a client in C (Debian, as root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev libnghttp2-dev

images: setup ## the Dockerfile's steps on a bare Debian (as root; needs debootstrap; minutes)
	$(BIN)/python -m tests.containers.images

demo: setup ## train 3s5z from scratch, export, serve, win over gRPC (about 12 minutes)
	$(BIN)/python -m training.demo

test: setup check ## the whole suite: linters, types, tests
	$(BIN)/python -m pytest -q -n auto --dist worksteal

envoy: setup ## the service's tests, all of them behind Envoy
	TEST_FRONT=envoy $(BIN)/python -m pytest -q -n auto tests/serving

check: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: setup ## regenerate serving/pb from proto/
	$(BIN)/python -m tests.serving.generate

calibration: setup ## the simulator beside the real game's published numbers
	$(BIN)/python -m benchmarks.calibration

sensitivity: setup ## the same with the simulator's mechanisms switched one by one
	$(BIN)/python -m benchmarks.sensitivity

reports: setup ## the reports on the runs in experiments/results
	for name in $$(ls experiments/reports); do \
		$(BIN)/python -m training.report experiments/results --experiment experiments/$$name.yaml \
			--out experiments/reports/$$name --reference experiments/reference-icml2018.yaml || exit 1; \
	done

bench: setup ## simulator, learner and service speed (the last needs wrk and h2load)
	$(BIN)/python -m benchmarks.simulator
	$(BIN)/python -m benchmarks.learner
	$(BIN)/python -m benchmarks.serving

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache
