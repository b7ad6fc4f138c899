# One word per deed. Everything that is not here yet comes with a later issue.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint tools build image up down e2e e2e-up e2e-down bench gen docs kind-up clients gen-clients

CARGO ?= cargo
BIN := $(or $(CARGO_TARGET_DIR),target)/debug
# Folder of manifests that `make up` applies too: make up EXTRA=dir
EXTRA ?=
# Where `make e2e` runs: node, one of its own; kind or current, the cluster of the current context
CLUSTER ?= node
# How the programs in the images are compiled: release, or dev, which `make build` has compiled already
PROFILE ?= release
# Integration tests mostly wait for programs, so more of them run at once than there are cores
TEST_THREADS ?= $(shell cores=$$(nproc); echo $$((cores > 6 ? cores : 6)))

help: ## this list
	@awk -F ': .*## |:.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: tools build ## the first half hour, played with stock kubectl against a real API server
	@$(BIN)/e2e-demo

test: lint tools build ## lint, unit, property and integration tests
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --workspace --locked

lint: ## format, clippy, dependencies, workflows, shell scripts
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy -p sallyport-e2e --test node --test clients --locked -- -D warnings
	tool=$$(e2e/tools/build.sh cargo-deny); "$${tool#*=}" check bans licenses sources
	tool=$$(e2e/tools/build.sh actionlint); "$${tool#*=}" -shellcheck= -pyflakes=
	@for script in $$(git ls-files '*.sh' .ci/run); do bash -n "$$script"; done
	@if command -v shellcheck >/dev/null; then shellcheck -S warning $$(git ls-files '*.sh' .ci/run); fi

tools: ## the control plane's programs: found, or built once into the cache
	@e2e/tools/build.sh >/dev/null

build: ## operator, proxy, kubectl-sallyport and the harness's own programs
	$(CARGO) build --workspace --bins --locked

image: ## the three images as OCI archives in target/image, without Docker
	$(CARGO) build --workspace --bins --locked --profile $(PROFILE)
	@programs=$(or $(CARGO_TARGET_DIR),target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE)); \
	  $$programs/e2e-image --programs $$programs archives --out target/image

up: tools build ## leave control plane, operator and two proxies running; target/up/env tells where
	@$(BIN)/e2e-up up $(if $(EXTRA),--extra $(EXTRA))

down: ## end what `make up` left
	@if [ -x $(BIN)/e2e-up ]; then $(BIN)/e2e-up down; else echo nothing was up; fi

e2e: build ## the scenarios as installed: a node with pods, the images, helm install; every client; CLUSTER=kind|current for another cluster
	SALLYPORT_E2E_CLUSTER=$(CLUSTER) $(CARGO) test --workspace --locked --test node -- --test-threads=1 --nocapture $(if $(filter-out node,$(CLUSTER)),--skip ground::)
	@[ $(CLUSTER) = node ] || exit 0; \
	  for try in $$(seq 30); do if $(BIN)/e2e-node leftovers >/dev/null; then echo "nothing is left of the node"; exit 0; fi; sleep 1; done; \
	  $(BIN)/e2e-node leftovers
	$(if $(filter node,$(CLUSTER)),@$(MAKE) --no-print-directory clients)

e2e-up: build ## leave a node with Sallyport installed and an agent's pod running; target/e2e/env tells where
	@$(BIN)/e2e-installed up

e2e-down: ## end what `make e2e-up` left
	@if [ -x $(BIN)/e2e-installed ]; then $(BIN)/e2e-installed down; else echo nothing was up; fi

gen: ## renew the generated files
	$(CARGO) run -q -p sallyport-crds --example generate

docs: ## the book in target/book, where mdbook is installed (cargo install mdbook); its links are checked by make test
	@if command -v mdbook >/dev/null; then mdbook build docs; else echo "mdbook is not installed: cargo install mdbook"; exit 1; fi

clients: tools build ## every client through the gate: kubectl 1.29 to 1.36, client-go, Python, kube-rs, Java, helm (ONLY=name runs a part)
	@e2e/clients/build.sh >/dev/null
	$(CARGO) test --workspace --locked --test clients -- $(ONLY)

gen-clients: ## the same, and write what was seen into docs/clients.md
	SALLYPORT_WRITE_DOCS=1 $(MAKE) --no-print-directory clients

bench: tools ## the masker's benches, requests through the gate against requests past it, crowds and slow lorises
	$(CARGO) bench --workspace
	$(CARGO) build --release --bins -p sallyport-operator -p sallyport-proxy -p sallyport-e2e
	@$(CARGO) run -q --release -p sallyport-e2e --bin e2e-bench
	@$(CARGO) run -q --release -p sallyport-e2e --bin e2e-transport

kind-up: ## a local kind cluster, for people who have Docker
	kind create cluster --name sallyport --config kind-config.yaml --wait 120s
