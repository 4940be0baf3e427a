# `make demo` and `make test` are all that a newcomer needs.

MODULE := github.com/caddy-mercadopago/caddy-mercadopago
TOOL   := go tool -modfile=$(CURDIR)/tools/go.mod

# All that goes into the binary, templates and style sheets included.
SOURCES = $(shell find . \( -path './.*' -o -path ./e2e -o -path ./bench -o -path ./docs -o -path ./tools -o -path ./artifacts -o -name testdata \) \
	-prune -o -type f ! -name '*_test.go' \( -name '*.go' -o -path './*/*' \) -print) \
	go.mod go.sum Caddyfile.example

# Caddy keeps its data below these: tests leave nothing in the home folder. GOENV
# is told because Go looks for its own settings below XDG_CONFIG_HOME too.
SCRATCH := $(CURDIR)/artifacts/home
TESTENV  = GOENV='$(shell go env GOENV)' XDG_DATA_HOME='$(SCRATCH)/data' XDG_CONFIG_HOME='$(SCRATCH)/config'

# Searches play a share of all that could happen, which the commit selects.
SEARCHES := TestNoInterleavingLosesASeller|TestAnHourOfFaultsLeavesNothingBehind

# These run without the race detector, which makes them five times slower: in the model
# everything stands still between two steps, and the others pass a year or an hour in
# which the same few steps are taken again and again. Other tests run the same code
# with it. The model's store is used by tests alone.
PLAIN := $(SEARCHES)|TestAYearWithoutTrafficLeavesEverySellerALivingToken
PLAIN := $(PLAIN)|TestAMovedAccountServesUntilItsTokenEndsAndIsNotRefreshed
PLAIN := ^($(PLAIN)|TestTheModelsStoreKeepsEveryPromiseOfAStore)$$

# Which share. A failure repeats with the same one.
TEST_SEED ?= $(shell git rev-parse --short=12 HEAD)
export TEST_SEED

# These take a minute or more, so make check and make mutate do without them.
LONG := ^($(SEARCHES)|TestEveryAnswerIsTheRightSellersOrAnError|TestAHundredReloadsUnderFaultsLeaveNothingBehind)$$

MUTATE = cd tools && CRASHES=all $(TESTENV) go run ./mutate -skip '$(LONG)'

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check soak build lint fmt bench mutate docs clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: caddy ## Run the sample shop, the plugin and a stand-in for Mercado Pago on this machine
	@./caddy mercadopago demo --dir .demo

test: e2e/node_modules/.installed ## Run all tests with the race detector, in a browser and with the official SDKs too
	@rm -rf '$(SCRATCH)'
	@printf 'Repeat a failure of this run with TEST_SEED=%s\n' "$$TEST_SEED"
	@$(MAKE) --no-print-directory -j3 test-packages test-plain test-e2e

# The packages that take longest are named first, so that they start first.
.PHONY: test-packages test-plain test-e2e
test-packages:
	$(TESTENV) go test -race -timeout 30m -skip '$(PLAIN)' ./tokensource . ./...
	cd tools && $(TESTENV) go test ./...

test-plain:
	$(TESTENV) go test -timeout 30m -run '$(PLAIN)' ./tokensource/

test-e2e:
	cd e2e && $(TESTENV) go test -race -timeout 30m -count 1 ./...

check: ## Run what tells most in a minute: no browser, no searches, no race detector
	$(TESTENV) go test -timeout 10m -skip '$(LONG)' ./...

soak: e2e/node_modules/.installed ## Search FOR=1h: interleavings, requests, kills, faults, fuzzing (ONLY=pattern), then try mutants for MUTATE_FOR=15m; the next soak continues
	cd tools && $(TESTENV) go run ./soak -for '$(or $(FOR),1h)' -only '$(ONLY)'
	$(if $(ONLY),,$(MUTATE) -package ./... -for $(or $(MUTATE_FOR),15m))

build: caddy ## Build ./caddy: Caddy with this plugin

# The version of Caddy is go.mod's; @v0.0.0 keeps Go from asking a proxy for a
# module that stands right here.
caddy: $(SOURCES)
	$(TOOL) xcaddy build "$$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)" \
		--with $(MODULE)@v0.0.0=. --output ./caddy

lint: ## Run the linters and check formatting and go.mod
	go mod tidy -diff
	$(TOOL) golangci-lint run
	cd e2e && $(TOOL) golangci-lint run --config ../.golangci.yml
	cd bench && $(TOOL) golangci-lint run --config ../.golangci.yml
	cd tools && $(TOOL) golangci-lint run --config ../.golangci.yml

fmt: ## Format the code
	$(TOOL) golangci-lint fmt

bench: setup ## Measure what the plugin costs, and write docs/benchmarks.md (BENCH=quick: a look, into artifacts)
	cd bench && go run . --scale $(or $(BENCH),full)

.PHONY: microbench
microbench:
	@mkdir -p artifacts
	go test -run '^$$' -bench . -benchmem -count 6 ./... | tee artifacts/bench.txt
	@$(TOOL) benchstat artifacts/bench.txt

docs: ## Write the generated parts of docs/reliability.md: the table of faults, and the totals of make soak
	cd e2e && go test -count 1 -run '^TestTheTableOfFaultsIsTheOneThatIsTested$$' . -docs
	cd tools && go run ./soak -docs

# With both, only what changed since SINCE in PACKAGE.
mutate: ## Change each condition in PACKAGE (./oauth), or those changed since SINCE (HEAD, or HEAD~1 if all is committed), and list those no test checks
	$(MUTATE) $(if $(PACKAGE),-package '$(PACKAGE)') $(if $(SINCE),-since '$(SINCE)') $(MUTATEFLAGS)

clean: ## Remove what these targets made
	rm -rf caddy .demo artifacts e2e/node_modules

.PHONY: setup
setup:
	@tools/setup

# No lock file: the one package we use has an exact version and no dependencies.
e2e/node_modules/.installed: e2e/package.json | setup
	cd e2e && npm install --no-package-lock --ignore-scripts --no-audit --no-fund
	@touch $@
