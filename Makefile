# Commands of this repository, for people and for CI: `make` lists them.
#
# Each recipe prints what it does, checks for the tools it needs (scripts/need installs missing ones), and leaves the
# work to cargo, npm and node. Works with GNU make 3.81 and newer.

SHELL := bash
.DEFAULT_GOAL := help
# Targets run one at a time: each runs a tool that uses all cores.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Extra arguments for `make run`, `make test-rust`, `make e2e`, `make bench`, `make chaos`, `make attack`, `make logs` and
# `make down`.
ARGS ?=
# Number of replicas of `make run`.
REPLICAS ?= 2
# Extra options of `docker buildx build`, for `make image` and `make up`.
IMAGE_FLAGS ?=
# Duration of `make chaos`.
CHAOS_SECONDS ?= 120
# Duration of each attack of `make attack`.
ATTACK_SECONDS ?= 30
# Duration of each target of `make fuzz`.
FUZZ_SECONDS ?= 20

# rustup's folder, for a shell that was opened before Rust was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin

# CI builds from the lock file; for a person who edits Cargo.toml it is updated.
LOCKED := $(if $(CI),--locked)

# Python leaves no compiled files beside the sources.
export PYTHONDONTWRITEBYTECODE := 1

# Colours only on a terminal (as make reports it), and not if NO_COLOR is set.
ifneq ($(and $(MAKE_TERMOUT),$(if $(NO_COLOR),,yes)),)
  BOLD := $(shell printf '\033[1m')
  BLUE := $(shell printf '\033[36m')
  PLAIN := $(shell printf '\033[0m')
endif
comma := ,
say = @printf '%s\n' '$(BOLD)==> $(1)$(PLAIN)'

# Tests mostly wait, so more of them run at once than there are cores.
export RUST_TEST_THREADS ?= 6

# All files of the repository; without git, so that it works in an unpacked archive too.
files = find . \( -name .git -o -name .run -o -name target -o -name node_modules -o -name dist \) -prune -o -type f $(1) -print

.PHONY: help run build release web test test-rust e2e api-fuzz fuzz check-deploy lint fmt advisories bench overhead chaos attack openapi clean \
	check-fmt check-shell check-yaml check-links check-rules check-deps check-clippy test-web test-chaos test-attack run-e2e run-clients run-api-fuzz beside \
	image up down logs migrate check-compose check-image check-stack version check-version sbom chart checksums

help: ## List the targets
	@printf '%s\n\n' '$(BOLD)apptlock$(PLAIN): make TARGET [VARIABLE=value]'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  $(BLUE)%-14s$(PLAIN) %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n%s\n' 'Variables:'
	@printf '  $(BLUE)%-14s$(PLAIN) %s\n' \
		ARGS 'extra arguments for run, test-rust, e2e, bench, chaos, attack, logs and down' \
		ATTACK_SECONDS 'duration of each attack of `make attack` (30)' \
		FUZZ_SECONDS 'duration of each target of `make fuzz` (20)' \
		REPLICAS 'number of replicas of `make run` (2)' \
		CHAOS_SECONDS 'duration of `make chaos` (120)' \
		VERSION 'new version for `make version`' \
		DATABASE_URL 'existing PostgreSQL for `make run`, instead of a temporary one' \
		REDIS_URL 'existing Redis for `make run`, instead of a temporary one'

# Cargo says nothing about the time that the first build takes, so it is announced before the build starts.
run: ## Build and start everything on this machine, with temporary data under .run/
	@[ -x target/debug/apptlock ] || printf '%s\n' \
		'The first build takes about 2 minutes on a quiet 2-core machine, up to 15 on a slow one, and about 2 GB of disk.' \
		'Steps: 1. tools, 2. web pages, 3. apptlock (most of the time), 4. start. Later starts take seconds.' \
		'Then open the printed addresses, one per replica, in two browser windows to try the demo.'
	$(call say,Step 1 of 4: checking the tools)
	@scripts/need rust cc ps node $(if $(DATABASE_URL),,postgres) $(if $(REDIS_URL),,redis)
	$(call say,Step 2 of 4: web pages)
	@$(MAKE) web
	$(call say,Step 3 of 4: apptlock)
	@$(MAKE) build
	$(call say,Step 4 of 4: starting apptlock with $(REPLICAS) replicas; Ctrl-C stops it)
	@exec target/debug/apptlock dev --replicas $(REPLICAS) $(ARGS)

build: web ## Build the binary for development: target/debug/apptlock
	@scripts/need rust cc
	$(call say,Building apptlock; the first build takes minutes)
	@cargo build $(LOCKED) --bin apptlock

release: web ## Build the release binary: target/release/apptlock
	@scripts/need rust cc
	$(call say,Building apptlock with optimisations; this takes minutes)
	@cargo build $(LOCKED) --release --bin apptlock

web: web/dist ## Build the web pages, if their sources are newer than web/dist
	@:

# Folders are sources too: their time changes when a file is deleted.
WEB_SOURCES := $(shell find web -mindepth 1 \( -path web/node_modules -o -path web/dist \) -prune -o -print 2>/dev/null)

web/dist: $(WEB_SOURCES) web/node_modules/.package-lock.json
	$(call say,Building the web pages)
	@cd web && npm run build
	@touch $@

# npm writes this file at the end of an installation, so it serves as the stamp.
%/node_modules/.package-lock.json: %/package-lock.json
	@scripts/need node
	$(call say,Installing the npm packages of $*)
	@cd $* && npm ci --no-audit --no-fund
	@touch $@

test: ## Run all tests: pages, Rust, short chaos, short attack, chart, end to end, third-party clients, API fuzzing
	@scripts/need rust cc ps node postgres redis haproxy nginx pgbouncer faketime openssl python prometheus chromium
	@failed=; \
	for step in test-web test-rust test-chaos test-attack check-deploy run-e2e run-clients run-api-fuzz; do \
		$(MAKE) $$step ARGS= || failed="$$failed $$step"; \
	done; \
	if [ -n "$$failed" ]; then printf '%s\n' "$(BOLD)==> Failed:$$failed$(PLAIN)"; exit 1; fi

test-rust: web ## Run the Rust tests (ARGS="--test it acquire" for some of them)
	@scripts/need rust cc postgres redis haproxy nginx pgbouncer faketime openssl prometheus
	$(call say,Building and running the Rust tests; the first build takes minutes)
	@cargo test $(LOCKED) --workspace --no-fail-fast $(ARGS)
	$(if $(ARGS),,$(call say,Running the tests that measure time one at a time; about two minutes))
	$(if $(ARGS),,@RUST_TEST_THREADS=1 cargo test $(LOCKED) --workspace --test it -- --ignored)

# All binaries with all tests, as `cargo test` has just built them: building one binary alone would compile the
# dependencies a second time, with other features.
test-chaos: web
	@scripts/need rust cc postgres redis
	$(call say,Injecting faults for 20 s while workers contend)
	@cargo build $(LOCKED) --workspace --bins --tests
	@target/debug/apptlock-load chaos --seconds 20 --binary target/debug/apptlock

# After test-chaos, which builds the binaries. A debug build is slower, so the tolerated latency is above that of
# `make attack`.
test-attack:
	@scripts/need postgres redis openssl
	$(call say,Attacking a replica in six ways$(comma) 6 s each)
	@ulimit -n $$(ulimit -Hn) && target/debug/apptlock-load attack --seconds 6 --p99 1000 --calm-times 40 --binary target/debug/apptlock

# The other release's binary, built from that commit.
beside: ## Run a replica of another release (REF=commit) beside this one: each sees what the other does
	@test -n "$(REF)" || { echo "REF is missing: make beside REF=v0.1.0" >&2; exit 2; }
	@scripts/need rust cc postgres redis
	$(call say,Building the release of $(REF) and this one)
	@rm -rf target/beside && git clone -q . target/beside && git -C target/beside checkout -q $(REF)
	@mkdir -p target/beside/web/dist && cd target/beside && CARGO_TARGET_DIR=../beside-target cargo build $(LOCKED) --bin apptlock
	@APPTLOCK_BESIDE=$(CURDIR)/target/beside-target/debug/apptlock cargo test $(LOCKED) --test it -- beside::

test-web: web
	$(call say,Running the tests of the web pages)
	@cd web && npm test --if-present

e2e: build run-e2e ## Run the end-to-end tests against target/debug/apptlock

# Separate from e2e, because `cargo test` has just built the same binary: building it alone would compile the
# dependencies a second time, with other features.
run-e2e: tests/e2e/node_modules/.package-lock.json
	@scripts/need node postgres redis haproxy
	$(call say,Running the end-to-end tests)
	@cd tests/e2e && node --test --test-reporter=spec $(ARGS)

# A virtual environment for the Python clients, with pinned versions and checksums.
CLIENT_TOOLS := target/client-tools
$(CLIENT_TOOLS)/installed: tests/e2e/clients/requirements.txt
	@scripts/need python
	$(call say,Installing the Python clients)
	@rm -rf $(CLIENT_TOOLS) && python3 -m venv $(CLIENT_TOOLS)
	@$(CLIENT_TOOLS)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Separate from run-e2e because they are slower and need a browser. Against target/debug/apptlock, like run-e2e.
run-clients: tests/e2e/node_modules/.package-lock.json $(CLIENT_TOOLS)/installed ## Run the tests with third-party clients and a browser
	@scripts/need node postgres redis haproxy nginx openssl python chromium
	$(call say,Running the tests with third-party clients and a browser)
	@cd tests/e2e && node --test --test-reporter=spec clients/*.mjs

api-fuzz: build run-api-fuzz ## Fuzz the REST API with valid and invalid requests derived from its OpenAPI document

# A virtual environment with pinned versions: a check must not change by itself.
API_FUZZ_TOOLS := target/api-fuzz-tools
$(API_FUZZ_TOOLS)/installed: tests/api-fuzz/requirements.txt
	@scripts/need python
	$(call say,Installing the API fuzzer)
	@rm -rf $(API_FUZZ_TOOLS) && python3 -m venv $(API_FUZZ_TOOLS)
	@$(API_FUZZ_TOOLS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Separate from api-fuzz for the same reason as run-e2e.
run-api-fuzz: $(API_FUZZ_TOOLS)/installed
	@scripts/need postgres redis
	$(call say,Fuzzing the REST API)
	@$(API_FUZZ_TOOLS)/bin/python tests/api-fuzz/run.py

# Checkov, Kubernetes schemas, Helm 3 and 4, kubectl and schemas of custom resources, in pinned versions. The known
# settings are read from target/debug/apptlock if it is built, otherwise from docs/SETTINGS.md.
DEPLOY_TOOLS := target/deploy-tools
$(DEPLOY_TOOLS)/installed: tests/deploy/requirements.txt
	@scripts/need python
	$(call say,Installing the tools that check the chart)
	@rm -rf $(DEPLOY_TOOLS) && python3 -m venv $(DEPLOY_TOOLS)
	@$(DEPLOY_TOOLS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

check-deploy: $(DEPLOY_TOOLS)/installed tests/deploy/node_modules/.package-lock.json ## Check the chart and the manifests: lint, schemas, consistency, rejected values
	@scripts/need node
	$(call say,Testing the checks of the chart)
	@cd tests/deploy && ../../$(DEPLOY_TOOLS)/bin/python -m unittest --quiet test_checks test_tables test_upgrades
	$(call say,Checking the chart and the manifests)
	@$(DEPLOY_TOOLS)/bin/python tests/deploy/run.py $(ARGS)

# libFuzzer's instrumentation is an unstable option of rustc; RUSTC_BOOTSTRAP enables it in a stable one.
fuzz: ## Fuzz every parser for FUZZ_SECONDS each; not part of `make test`
	@scripts/need rust cc cargo-fuzz
	$(call say,Building the fuzz targets; the first build takes minutes)
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

# promtool is part of Prometheus. check.py checks the rest: consistency of rules, dashboard, metrics and runbook.
check-rules:
	@scripts/need python prometheus
	$(call say,Checking and testing the alert rules$(comma) and the dashboard)
	@promtool check rules --lint=all --lint-fatal helm/apptlock/files/rules.yaml
	@promtool test rules tests/alerts/*.test.yaml
	@python3 tests/alerts/check.py

check-version:
	$(call say,Checking that all files have the same version)
	@scripts/version check

# Without Docker: hadolint checks the Dockerfiles, and docker-compose.yml is validated against the specification's schema,
# because Debian's Compose is not the usual one. compose.py checks what a schema cannot.
COMPOSE_TOOLS := target/compose-tools
check-compose: $(COMPOSE_TOOLS)/installed ## Check the Dockerfile and docker-compose.yml, without Docker
	$(call say,Checking the Dockerfiles and docker-compose.yml)
	@$(COMPOSE_TOOLS)/bin/hadolint --config .hadolint.yaml Dockerfile tests/image/local/Dockerfile
	@$(COMPOSE_TOOLS)/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	@$(COMPOSE_TOOLS)/bin/python tests/image/compose.py
	@if docker compose version >/dev/null 2>&1; then docker compose --profile observability config --quiet; fi

$(COMPOSE_TOOLS)/installed: tests/image/requirements.txt
	@scripts/need python
	$(call say,Installing the tools that check the Dockerfiles and docker-compose.yml)
	@rm -rf $(COMPOSE_TOOLS) && python3 -m venv $(COMPOSE_TOOLS)
	@$(COMPOSE_TOOLS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

check-deps:
	$(call say,Checking licences and sources of the dependencies)
	@cargo deny $(LOCKED) check --hide-inclusion-graph bans licenses sources

check-clippy: web
	$(call say,Checking the Rust code with clippy; the first build takes minutes)
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

overhead: release ## Measure the CPU overhead of metrics and traces under cursor load; at most 5 %
	@scripts/need rust cc postgres redis
	$(call say,Building the load generator and comparing a monitored stack with an unmonitored one)
	@cargo run $(LOCKED) --release -p apptlock-load -- overhead $(ARGS)

chaos: release ## Kill, pause and disconnect processes while workers contend, then check every record (CHAOS_SECONDS=120)
	@scripts/need rust cc postgres redis
	$(call say,Building the load generator and injecting faults for $(CHAOS_SECONDS) s)
	@cargo run $(LOCKED) --release -p apptlock-load -- chaos --seconds $(CHAOS_SECONDS) $(ARGS)

# Attackers and users open thousands of connections, each with a file descriptor.
attack: release ## Attack a replica, measure a well-behaved user meanwhile, and print a table (ATTACK_SECONDS=30)
	@scripts/need rust cc postgres redis openssl
	$(call say,Building the load generator and attacking a replica in six ways$(comma) $(ATTACK_SECONDS) s each)
	@ulimit -n $$(ulimit -Hn) && cargo run $(LOCKED) --release -p apptlock-load -- attack --seconds $(ATTACK_SECONDS) $(ARGS)

# The commit of an image that `make up` builds.
export APPTLOCK_REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

# The build gets this machine's certificate authorities, in case it is behind a proxy with its own; they stay out of the
# image.
AUTHORITIES := $(wildcard /etc/ssl/certs/ca-certificates.crt)
image: ## Build the container image apptlock:local (IMAGE_FLAGS="..." for `docker buildx build`)
	@scripts/need docker
	$(call say,Building the image; the first build takes minutes)
	@docker buildx build $(if $(AUTHORITIES),--secret id=ca$(comma)src=$(AUTHORITIES)) $(IMAGE_FLAGS) \
		--build-arg VERSION=$$(scripts/version) --build-arg REVISION=$(APPTLOCK_REVISION) --tag apptlock:local .

up: image ## Build the image and start the stack of docker-compose.yml on 127.0.0.1:3000
	$(call say,Starting the stack)
	@docker compose up --detach --wait
	@printf '%s\n' 'Ready at http://127.0.0.1:$(or $(APPTLOCK_PORT),3000). Logs: `make logs`. Stop: `make down`.'

down: ## Stop the stack of docker-compose.yml (ARGS=--volumes deletes its data)
	@scripts/need docker
	$(call say,Stopping the stack)
	@docker compose --profile observability down $(ARGS)

logs: ## Follow the logs of the stack's containers (ARGS=balancer for one of them)
	@scripts/need docker
	@docker compose --profile observability logs --follow --tail 100 $(ARGS) || [ $$? = 130 ]

migrate: ## Migrate the database of the stack
	@scripts/need docker
	$(call say,Migrating the database)
	@docker compose run --rm migrate

check-image: ## Build, inspect, run and stop the image (with a temporary Docker engine if there is none)
	@scripts/need rust curl
	$(call say,Building the image and running it)
	@tests/image/check-image

check-stack: ## Start docker-compose.yml, and run docs/TOUR.md through its load balancer
	@scripts/need rust curl node python
	$(call say,Starting the stack of docker-compose.yml)
	@tests/image/check-stack

version: ## Set the version in all files (VERSION=1.2.3), or print it
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
	$(call say,Installing the tools that check the bill of materials)
	@rm -rf $(RELEASE_TOOLS) && python3 -m venv $(RELEASE_TOOLS)
	@$(RELEASE_TOOLS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# With the Helm 4 of check-deploy, or HELM4.
chart: $(DEPLOY_TOOLS)/installed tests/deploy/node_modules/.package-lock.json ## Package the Helm chart into target/dist
	$(call say,Packaging the chart)
	@mkdir -p $(DIST)
	@"$$($(DEPLOY_TOOLS)/bin/python tests/deploy/common.py HELM4)" package --destination $(DIST) helm/apptlock

checksums: release sbom ## Package the binary and the bill of materials into target/dist, with checksums
	@scripts/need rust
	$(call say,Packaging the release and its checksums)
	@scripts/checksums

openapi: build ## Print the OpenAPI document
	@target/debug/apptlock openapi

clean: ## Remove all build output, installed packages and temporary data
	$(call say,Removing build output$(comma) npm packages and the data under .run/)
	@rm -rf target fuzz/target fuzz/corpus fuzz/artifacts web/dist web/node_modules tests/e2e/node_modules tests/deploy/node_modules .run
