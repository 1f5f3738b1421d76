# The commands of this repository, for people and for CI: `make` lists them.
#
# Every recipe says in plain words what it does, makes sure of the tools it takes (scripts/need installs
# what is missing), and leaves the work to cargo, npm and node. Works with GNU make 3.81 and newer.

SHELL := bash
.DEFAULT_GOAL := help
# Each target runs a tool that uses all cores by itself.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Extra arguments for `make run`, `make test-rust`, `make e2e`, `make bench`, `make chaos`, `make attack`, `make logs` and
# `make down`.
ARGS ?=
# How many replicas `make run` starts.
REPLICAS ?= 2
# More options of `docker buildx build`, for `make image` and `make up`.
IMAGE_FLAGS ?=
# How long `make chaos` breaks things.
CHAOS_SECONDS ?= 120
# How long each attack of `make attack` lasts.
ATTACK_SECONDS ?= 30
# How long `make fuzz` gives each of its targets.
FUZZ_SECONDS ?= 20

# rustup's folder, for a shell that was open before Rust came.
export PATH := $(PATH):$(HOME)/.cargo/bin

# CI builds what the lock file says; a person who edits Cargo.toml gets it updated.
LOCKED := $(if $(CI),--locked)

# Python leaves no compiled files beside the sources.
export PYTHONDONTWRITEBYTECODE := 1

# Colours only where make writes to a terminal (make itself says so), and NO_COLOR is respected.
ifneq ($(and $(MAKE_TERMOUT),$(if $(NO_COLOR),,yes)),)
  BOLD := $(shell printf '\033[1m')
  BLUE := $(shell printf '\033[36m')
  PLAIN := $(shell printf '\033[0m')
endif
comma := ,
say = @printf '%s\n' '$(BOLD)==> $(1)$(PLAIN)'

# Most of the time a test waits for something to happen: more of them than cores run at once.
export RUST_TEST_THREADS ?= 6

# Every file of ours; not asked from git, so that it works in an unpacked archive too.
files = find . \( -name .git -o -name .run -o -name target -o -name node_modules -o -name dist \) -prune -o -type f $(1) -print

.PHONY: help run build release web test test-rust e2e api-fuzz fuzz check-deploy lint fmt advisories bench overhead chaos attack openapi clean \
	check-fmt check-shell check-yaml check-links check-rules check-deps check-clippy test-web test-chaos test-attack run-e2e run-clients run-api-fuzz \
	image up down logs migrate check-compose check-image check-stack version check-version sbom chart checksums

help: ## List the targets
	@printf '%s\n\n' '$(BOLD)apptlock$(PLAIN): make TARGET [VARIABLE=value]'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  $(BLUE)%-14s$(PLAIN) %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n%s\n' 'Variables:'
	@printf '  $(BLUE)%-14s$(PLAIN) %s\n' \
		ARGS 'extra arguments for run, test-rust, e2e, bench, chaos, attack, logs and down' \
		ATTACK_SECONDS 'how long each attack of `make attack` lasts (30)' \
		FUZZ_SECONDS 'how long `make fuzz` gives each target (20)' \
		REPLICAS 'how many replicas `make run` starts (2)' \
		CHAOS_SECONDS 'how long `make chaos` breaks things (120)' \
		VERSION 'what `make version` writes everywhere' \
		DATABASE_URL '`make run` uses this PostgreSQL instead of one of its own' \
		REDIS_URL '`make run` uses this Redis instead of one of its own'

run: ## Build and start everything on this machine, with throw-away data under .run/
	@scripts/need rust cc ps node $(if $(DATABASE_URL),,postgres) $(if $(REDIS_URL),,redis)
	@$(MAKE) build
	$(call say,Starting apptlock with $(REPLICAS) replicas; Ctrl-C stops it)
	@exec target/debug/apptlock dev --replicas $(REPLICAS) $(ARGS)

build: web ## Build the binary for development: target/debug/apptlock
	@scripts/need rust cc
	$(call say,Building apptlock; the first time takes minutes)
	@cargo build $(LOCKED) --bin apptlock

release: web ## Build the optimised binary: target/release/apptlock
	@scripts/need rust cc
	$(call say,Building the optimised apptlock; this takes minutes)
	@cargo build $(LOCKED) --release --bin apptlock

web: web/dist ## Build the web pages, where their sources are newer than web/dist
	@:

# A folder's time changes with its entries, so the folders are sources too: a deleted file counts.
WEB_SOURCES := $(shell find web -mindepth 1 \( -path web/node_modules -o -path web/dist \) -prune -o -print 2>/dev/null)

web/dist: $(WEB_SOURCES) web/node_modules/.package-lock.json
	$(call say,Building the web pages)
	@cd web && npm run build
	@touch $@

# npm writes this file at the end of an installation, which makes it a good stamp.
%/node_modules/.package-lock.json: %/package-lock.json
	@scripts/need node
	$(call say,Installing the npm packages of $*)
	@cd $* && npm ci --no-audit --no-fund
	@touch $@

test: ## Run every test: pages, Rust, a short chaos, a short attack, the chart, end to end, foreign clients, the API at random
	@scripts/need rust cc ps node postgres redis haproxy nginx pgbouncer faketime openssl python prometheus chromium
	@failed=; \
	for step in test-web test-rust test-chaos test-attack check-deploy run-e2e run-clients run-api-fuzz; do \
		$(MAKE) $$step ARGS= || failed="$$failed $$step"; \
	done; \
	if [ -n "$$failed" ]; then printf '%s\n' "$(BOLD)==> Failed:$$failed$(PLAIN)"; exit 1; fi

test-rust: web ## Run the Rust tests (ARGS="--test it acquire" for some of them)
	@scripts/need rust cc postgres redis haproxy nginx pgbouncer faketime openssl prometheus
	$(call say,Building and running the Rust tests; the first time takes minutes)
	@cargo test $(LOCKED) --workspace --no-fail-fast $(ARGS)
	$(if $(ARGS),,$(call say,Running the tests that measure time one at a time; about two minutes))
	$(if $(ARGS),,@RUST_TEST_THREADS=1 cargo test $(LOCKED) --workspace --test it -- --ignored)

# All binaries with all tests: what `cargo test` has built, and so it builds one binary more. Alone that one
# would compile the dependencies a second time, with the features that only the tests do not ask for.
test-chaos: web
	@scripts/need rust cc postgres redis
	$(call say,Breaking things for 20 s while workers contend)
	@cargo build $(LOCKED) --workspace --bins --tests
	@target/debug/apptlock-load chaos --seconds 20 --binary target/debug/apptlock

# After test-chaos, which builds the binaries. A debug build is slower: what is borne is more than in `make attack`.
test-attack:
	@scripts/need postgres redis openssl
	$(call say,Attacking a replica for 6 s in each of six ways)
	@ulimit -n $$(ulimit -Hn) && target/debug/apptlock-load attack --seconds 6 --p99 1000 --binary target/debug/apptlock

test-web: web
	$(call say,Running the tests of the web pages)
	@cd web && npm test --if-present

e2e: build run-e2e ## Run the end-to-end tests against target/debug/apptlock

# Apart from e2e, because `cargo test` has just built the same binary: building it once more by itself
# would compile the dependencies a second time, with the features that only the tests do not ask for.
run-e2e: tests/e2e/node_modules/.package-lock.json
	@scripts/need node postgres redis haproxy
	$(call say,Running the end-to-end tests)
	@cd tests/e2e && node --test --test-reporter=spec $(ARGS)

# A virtual environment for the clients that are written in Python: these very versions, by their sums.
CLIENT_TOOLS := target/client-tools
$(CLIENT_TOOLS)/installed: tests/e2e/clients/requirements.txt
	@scripts/need python
	$(call say,Installing the clients that are written in Python)
	@rm -rf $(CLIENT_TOOLS) && python3 -m venv $(CLIENT_TOOLS)
	@$(CLIENT_TOOLS)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Apart from run-e2e because they are slower, and take a browser. Against target/debug/apptlock, as run-e2e.
run-clients: tests/e2e/node_modules/.package-lock.json $(CLIENT_TOOLS)/installed ## Run the tests with foreign clients and a browser
	@scripts/need node postgres redis haproxy nginx openssl python chromium
	$(call say,Running the tests with foreign clients and a browser)
	@cd tests/e2e && node --test --test-reporter=spec clients/*.mjs

api-fuzz: build run-api-fuzz ## Ask the API at random what its OpenAPI document allows, and what it does not

# A virtual environment of its own, and these very versions: a check that changes by itself is none.
API_FUZZ_TOOLS := target/api-fuzz-tools
$(API_FUZZ_TOOLS)/installed: tests/api-fuzz/requirements.txt
	@scripts/need python
	$(call say,Installing what the API is fuzzed with)
	@rm -rf $(API_FUZZ_TOOLS) && python3 -m venv $(API_FUZZ_TOOLS)
	@$(API_FUZZ_TOOLS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Apart from api-fuzz for the same reason as run-e2e.
run-api-fuzz: $(API_FUZZ_TOOLS)/installed
	@scripts/need postgres redis
	$(call say,Asking the API at random)
	@$(API_FUZZ_TOOLS)/bin/python tests/api-fuzz/run.py

# Checkov, the schemas of Kubernetes, Helm 3 and 4, kubectl and the schemas of custom resources: these very versions.
# The settings that the chart may set are asked of target/debug/apptlock where it is built, else of docs/SETTINGS.md.
DEPLOY_TOOLS := target/deploy-tools
$(DEPLOY_TOOLS)/installed: tests/deploy/requirements.txt
	@scripts/need python
	$(call say,Installing what the chart is checked with)
	@rm -rf $(DEPLOY_TOOLS) && python3 -m venv $(DEPLOY_TOOLS)
	@$(DEPLOY_TOOLS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

check-deploy: $(DEPLOY_TOOLS)/installed tests/deploy/node_modules/.package-lock.json ## Check the chart and the manifests: lint, schemas, sense, refusals
	@scripts/need node
	$(call say,Making sure that each check of the chart can fail)
	@cd tests/deploy && ../../$(DEPLOY_TOOLS)/bin/python -m unittest --quiet test_checks test_tables test_upgrades
	$(call say,Checking the chart and the manifests)
	@$(DEPLOY_TOOLS)/bin/python tests/deploy/run.py $(ARGS)

# libFuzzer's instrumentation is an unstable option of rustc; RUSTC_BOOTSTRAP lets a stable one take it.
fuzz: ## Throw mutated bytes at every parser, FUZZ_SECONDS each; not a part of `make test`
	@scripts/need rust cc cargo-fuzz
	$(call say,Building the fuzz targets; the first time takes minutes)
	@cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz build --sanitizer none
	@cd fuzz && for target in $$(cargo fuzz list); do \
		printf '%s\n' "$(BOLD)==> $$target, $(FUZZ_SECONDS) s$(PLAIN)"; \
		mkdir -p corpus/$$target; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $$target corpus/$$target seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=5 -print_final_stats=1 -verbosity=0 || exit 1; \
	done

lint: ## Check everything that needs no server: format, shell, YAML, links, alerts, image, versions, dependencies, clippy
	@scripts/need rust cc node python prometheus shellcheck yamllint cargo-deny
	@$(MAKE) check-fmt check-shell check-yaml check-links check-version check-compose check-rules check-deps check-clippy

check-fmt:
	$(call say,Checking the format of the Rust code)
	@cargo fmt --all --check

check-shell:
	$(call say,Checking the shell scripts)
	@$(call files,-exec awk 'FNR == 1 && /^#!.*(bash|dash|\/sh)/ { ours = 1 } { exit } END { exit !ours }' {} \;) \
		| tr '\n' '\0' | xargs -0 shellcheck

check-yaml:
	$(call say,Checking the YAML files)
	@$(call files,\( -name '*.yml' -o -name '*.yaml' \)) | tr '\n' '\0' | xargs -0 yamllint --strict

check-links:
	@scripts/need python
	$(call say,Checking the links of the documents)
	@scripts/check-links

# promtool is part of Prometheus. check.py asks what promtool does not: do rules, dashboard, metrics and runbook fit?
check-rules:
	@scripts/need python prometheus
	$(call say,Checking and testing the alert rules$(comma) and the dashboard)
	@promtool check rules --lint=all --lint-fatal helm/apptlock/files/rules.yaml
	@promtool test rules tests/alerts/*.test.yaml
	@python3 tests/alerts/check.py

check-version:
	$(call say,Checking that every file names the same version)
	@scripts/version check

# Neither takes an engine: hadolint reads the Dockerfiles, and the specification's own schema is held against
# docker-compose.yml, because Debian's Compose is not the one that people have. What a schema cannot say is in compose.py.
COMPOSE_TOOLS := target/compose-tools
check-compose: $(COMPOSE_TOOLS)/installed ## Check the Dockerfile and docker-compose.yml, without Docker
	$(call say,Checking the Dockerfiles and docker-compose.yml)
	@$(COMPOSE_TOOLS)/bin/hadolint --config .hadolint.yaml Dockerfile tests/image/local/Dockerfile
	@$(COMPOSE_TOOLS)/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	@$(COMPOSE_TOOLS)/bin/python tests/image/compose.py
	@if docker compose version >/dev/null 2>&1; then docker compose --profile observability config --quiet; fi

$(COMPOSE_TOOLS)/installed: tests/image/requirements.txt
	@scripts/need python
	$(call say,Installing what the Dockerfile and docker-compose.yml are checked with)
	@rm -rf $(COMPOSE_TOOLS) && python3 -m venv $(COMPOSE_TOOLS)
	@$(COMPOSE_TOOLS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

check-deps:
	$(call say,Checking licences and sources of the dependencies)
	@cargo deny $(LOCKED) check --hide-inclusion-graph bans licenses sources

check-clippy: web
	$(call say,Checking the Rust code with clippy; the first time takes minutes)
	@cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings

fmt: ## Format the Rust code
	$(call say,Formatting the Rust code)
	@cargo fmt --all

advisories: ## Check the dependencies for known vulnerabilities (needs the network)
	@scripts/need rust cc cargo-deny
	$(call say,Fetching the advisory database and checking against it)
	@cargo deny check advisories

bench: release ## Measure throughput and latency with the load generator
	@scripts/need rust cc postgres redis
	$(call say,Building and running the load generator)
	@cargo run $(LOCKED) --release -p apptlock-load -- bench $(ARGS)

overhead: release ## Measure what metrics and traces cost under a load of cursors; at most 5 %
	@scripts/need rust cc postgres redis
	$(call say,Building the load generator and comparing a stack that is watched with one that is not)
	@cargo run $(LOCKED) --release -p apptlock-load -- overhead $(ARGS)

chaos: release ## Kill, pause and cut while workers contend, then check every record (CHAOS_SECONDS=120)
	@scripts/need rust cc postgres redis
	$(call say,Building the load generator and breaking things for $(CHAOS_SECONDS) s)
	@cargo run $(LOCKED) --release -p apptlock-load -- chaos --seconds $(CHAOS_SECONDS) $(ARGS)

# Attackers and users open thousands of connections, each a file.
attack: release ## Attack a replica while a well-behaved user measures itself, and print the table (ATTACK_SECONDS=30)
	@scripts/need rust cc postgres redis openssl
	$(call say,Building the load generator and attacking a replica for $(ATTACK_SECONDS) s in each of six ways)
	@ulimit -n $$(ulimit -Hn) && cargo run $(LOCKED) --release -p apptlock-load -- attack --seconds $(ATTACK_SECONDS) $(ARGS)

# What `make up` builds says which commit it is of.
export APPTLOCK_REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

# What this machine trusts is handed to the build, which may be behind a proxy with an authority of its own; it stays
# out of the image.
AUTHORITIES := $(wildcard /etc/ssl/certs/ca-certificates.crt)
image: ## Build the container image apptlock:local (IMAGE_FLAGS="..." for `docker buildx build`)
	@scripts/need docker
	$(call say,Building the image; the first time takes minutes)
	@docker buildx build $(if $(AUTHORITIES),--secret id=ca$(comma)src=$(AUTHORITIES)) $(IMAGE_FLAGS) \
		--build-arg VERSION=$$(scripts/version) --build-arg REVISION=$(APPTLOCK_REVISION) --tag apptlock:local .

up: image ## Build the image and start the stack of docker-compose.yml on 127.0.0.1:3000
	$(call say,Starting the stack)
	@docker compose up --detach --wait
	@printf '%s\n' 'It answers on http://127.0.0.1:$(or $(APPTLOCK_PORT),3000). `make logs` follows it, `make down` stops it.'

down: ## Stop the stack of docker-compose.yml (ARGS=--volumes forgets its data)
	@scripts/need docker
	$(call say,Stopping the stack)
	@docker compose --profile observability down $(ARGS)

logs: ## Follow what the stack's containers say (ARGS=balancer for one of them)
	@scripts/need docker
	@docker compose --profile observability logs --follow --tail 100 $(ARGS) || [ $$? = 130 ]

migrate: ## Bring the schema of the stack's database up to date
	@scripts/need docker
	$(call say,Bringing the schema up to date)
	@docker compose run --rm migrate

check-image: ## Build the image, look into it, run it and stop it (with a Docker of its own where none answers)
	@scripts/need rust curl
	$(call say,Building the image and running it)
	@tests/image/check-image

check-stack: ## Bring docker-compose.yml up for real, and walk docs/TOUR.md through its balancer
	@scripts/need rust curl node python
	$(call say,Bringing up the stack of docker-compose.yml)
	@tests/image/check-stack

version: ## Write the version into every file that names it (VERSION=1.2.3), or print it
	@scripts/version $(if $(VERSION),set $(VERSION))

DIST := target/dist
RELEASE_TOOLS := target/release-tools
SBOM = $(DIST)/apptlock-$$(scripts/version).cdx.json
sbom: $(RELEASE_TOOLS)/installed ## Write the software bill of materials into target/dist
	@scripts/need rust python
	$(call say,Writing the software bill of materials)
	@mkdir -p $(DIST)
	@scripts/sbom >$(SBOM)
	@$(RELEASE_TOOLS)/bin/python tests/release/check_sbom.py $(SBOM)

$(RELEASE_TOOLS)/installed: tests/release/requirements.txt
	@scripts/need python
	$(call say,Installing what the bill of materials is checked with)
	@rm -rf $(RELEASE_TOOLS) && python3 -m venv $(RELEASE_TOOLS)
	@$(RELEASE_TOOLS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# With the Helm 4 that check-deploy unpacks; HELM4 names another one.
chart: $(DEPLOY_TOOLS)/installed tests/deploy/node_modules/.package-lock.json ## Pack the Helm chart into target/dist
	$(call say,Packing the chart)
	@mkdir -p $(DIST)
	@"$$($(DEPLOY_TOOLS)/bin/python tests/deploy/common.py HELM4)" package --destination $(DIST) helm/apptlock

checksums: release sbom ## Pack the binary and the bill of materials into target/dist, with their checksums
	@scripts/need rust
	$(call say,Packing the release and summing its files)
	@scripts/checksums

openapi: build ## Print the OpenAPI document
	@target/debug/apptlock openapi

clean: ## Remove everything that was built, installed or written here
	$(call say,Removing build output$(comma) npm packages and the data under .run/)
	@rm -rf target fuzz/target fuzz/corpus fuzz/artifacts web/dist web/node_modules tests/e2e/node_modules tests/deploy/node_modules .run
