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

# These run without the race detector, which makes them five times slower: between
# two steps of the model everything stands still, and the hour of faults is about
# what is left, beside many tests that run the same code with it.
MODEL := ^TestNoInterleavingLosesASeller$$
PLAIN := ^(TestNoInterleavingLosesASeller|TestAnHourOfFaultsLeavesNothingBehind)$$

# Not used to find mutants, because they search for minutes.
LONG   := ^(TestNoInterleavingLosesASeller|TestAnHourOfFaultsLeavesNothingBehind|TestEveryAnswerIsTheRightSellersOrAnError)$$
MUTATE  = cd tools && $(TESTENV) go run ./mutate -skip '$(LONG)'

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test soak build lint fmt fuzz bench mutate docs clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: caddy ## Run the sample shop, the plugin and a stand-in for Mercado Pago on this machine
	@./caddy mercadopago demo --dir .demo

test: e2e/node_modules/.installed ## Run all tests with the race detector, in a browser and with the official SDK too
	@rm -rf '$(SCRATCH)'
	$(TESTENV) go test -race -timeout 20m -skip '$(PLAIN)' ./...
	$(TESTENV) go test -run '$(PLAIN)' ./tokensource/
	cd tools && $(TESTENV) go test ./...
	cd e2e && $(TESTENV) go test -race -timeout 20m -count=1 ./...

soak: setup ## Search for hours: random INTERLEAVINGS (1000000), REQUESTS (10000000), all faults, KILLS (10000) on each store, and mutants for MUTATE_FOR (2h)
	MODEL_CHECKS=$$(( $(or $(INTERLEAVINGS),1000000) / 5 )) go test -timeout 0 -count 1 -v -run '$(MODEL)' ./tokensource/
	REQUESTS=$(or $(REQUESTS),10000000) $(TESTENV) go test -timeout 0 -count 1 -v -run '^TestEveryAnswerIsTheRightSellersOrAnError$$' .
	cd e2e && FAULTS=all $(TESTENV) go test -timeout 0 -count 1 -run '^TestNoFaultLosesASeller$$' .
	cd e2e && SELLERS=50000 $(TESTENV) go test -timeout 0 -count 1 -v -run '^TestThreeInstancesOnOneDatabase' .
	cd e2e && KILLS=$(or $(KILLS),10000) KILL_FOR=$(KILL_FOR) $(TESTENV) go test -timeout 0 -count 1 -v -run '^TestNoSellerIsLostToKills$$' .
	$(MUTATE) -package ./... -for $(or $(MUTATE_FOR),2h)

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

fuzz: ## Run every fuzz target for FUZZTIME (30s) each
	@tools/fuzz

bench: setup ## Measure what the plugin costs, and write docs/benchmarks.md (BENCH=quick: a look, into artifacts)
	cd bench && go run . --scale $(or $(BENCH),full)

.PHONY: microbench
microbench:
	@mkdir -p artifacts
	go test -run '^$$' -bench . -benchmem -count 6 ./... | tee artifacts/bench.txt
	@$(TOOL) benchstat artifacts/bench.txt

docs: ## Write the table of faults to docs/reliability.md
	cd e2e && go test -count 1 -run '^TestTheTableOfFaultsIsTheOneThatIsTested$$' . -docs

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
