# mini: `make help` lists the targets. A new machine needs git, Go, make, gcc and root; `make deps` installs the rest.

SHELL       := /bin/bash
.DEFAULT_GOAL := build
GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS     := -s -w -X github.com/mini-k8s/mini/internal/version.Mini=$(VERSION)
# grpcnotrace leaves out the pages of requests that nobody serves here, and the templates they are made of.
BUILD       := CGO_ENABLED=0 $(GO) build -modfile=bin/lean.mod -trimpath -buildvcs=false -tags grpcnotrace
DEBS        := iptables libseccomp-dev pkg-config gcc libc6-dev busybox-static zstd curl iproute2 conntrack
HELLO_IMAGE := bin/images/hello.tar
TEST_TIMEOUT ?= 20m
FUZZTIME     ?= 60s
FUZZ         ?= ^Fuzz
FUZZ_PARALLEL ?= $(shell nproc)

include internal/helpers/helpers.mk
-include apiserver/openapi/openapi.mk
include e2e/conformance/conformance.mk
include e2e/cgroup2/cgroup2.mk
include e2e/clients/clients.mk

.PHONY: help build mini deps test unit e2e e2e-crashes lint fuzz bench fmt clean quickstart quickstart-down images

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

deps: ## Install from Debian's packages what building and running need
	@missing=$$(for p in $(DEBS); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'install ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing" $$missing; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; fi

build: deps helpers openapi mini ## Build bin/mini with all that is embedded in it

mini: bin/lean.mod helpers ## Build bin/mini, and of the helpers those whose sources changed
	$(BUILD) -ldflags '$(LDFLAGS)' -o bin/mini ./cmd/mini

# lean.mod is go.mod with stand-ins for modules that would make the binary large, see internal/lean.
bin/lean.mod: go.mod go.sum
	@mkdir -p bin
	cp go.sum bin/lean.sum
	cp go.mod $@ && $(GO) mod edit -replace github.com/google/go-cmp=./internal/lean/go-cmp $@

images: $(HELLO_IMAGE) ## Build the example's image

$(HELLO_IMAGE): $(wildcard examples/hello/*.go) $(wildcard internal/ociarchive/*.go) $(wildcard internal/ociarchive/build/*.go)
	@mkdir -p bin/images
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/images/hello ./examples/hello
	$(GO) run ./internal/ociarchive/build -name docker.io/mini/hello:1 -add bin/images/hello=/hello -entrypoint /hello -o $@

test: build images unit e2e ## Build and run all tests, the end-to-end ones included

unit: ## Unit tests with the race detector
	$(GO) test -race -timeout $(TEST_TIMEOUT) $$($(GO) list ./... | grep -v /e2e)

e2e: ## End-to-end tests on real nodes (needs `make build images`)
	$(GO) test -count=1 -timeout $(TEST_TIMEOUT) -v ./e2e/...

e2e-crashes: build images ## Kill mini at random moments while pods start, COUNT times over
	$(GO) test -tags crashes -run 'TestCrashes$$' -count=$(or $(COUNT),10) -timeout 60m -v ./e2e

lint: ## Formatting, vet, build for arm64, architecture rules
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt would change:" $$out; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/mini
	$(GO) mod tidy -diff

fmt: ## Format the code
	gofmt -w $$(git ls-files '*.go')

fuzz: ## Run every fuzz target for FUZZTIME, one after the other; FUZZ='^FuzzPatch$$' runs some, a crash fails at once
	@set -o pipefail; n=0; packages=$$(git ls-files '*_test.go' | xargs grep -l '^func Fuzz' | xargs -n1 dirname | sort -u | sed 's|^|./|'); \
	while read -r package target; do \
	  n=$$((n + 1)); echo "== $$n: $$target in $$package, $(FUZZTIME)"; \
	  $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s -parallel $(FUZZ_PARALLEL) "$$package" || exit 1; \
	done < <($(GO) test -list '$(FUZZ)' $$packages | awk '/^Fuzz/ { found[++n] = $$1 } /^ok/ { for (i = 1; i <= n; i++) print $$2, found[i]; n = 0 }'); \
	echo "$$n fuzz targets, no crash"; [ $$n -gt 0 ]

bench: build images ## Measure the budget table of docs/performance.md
	$(GO) run ./e2e/bench

quickstart: build images ## Make a cluster of three nodes on this machine and call a Service on it
	examples/quickstart.sh

quickstart-down: ## Remove every trace of the quickstart
	examples/quickstart.sh down

clean: helpers-clean openapi-clean ## Remove what was built
	rm -rf bin
