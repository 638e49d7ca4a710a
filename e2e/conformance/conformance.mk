# Upstream's conformance tests against a cluster of mini's: see docs/conformance.md. The nested module e2e/conformance pins
# the versions; everything is built once into bin/conformance and bin/images and again only when the module changes.
#
#   make conformance MILESTONE=M1        make conformance GROUP=G2,G3        make conformance FOCUS='Watchers should'

CONFORMANCE      := e2e/conformance
CONFORMANCE_BIN  := bin/conformance
CONFORMANCE_GO   := -trimpath -ldflags '-s -w'
CONFORMANCE_MOD  := $(CONFORMANCE)/go.mod $(CONFORMANCE)/go.sum
CONFORMANCE_TAR  := bin/images/conformance.tar
CONFORMANCE_ARGS  = $(if $(MILESTONE),-milestone '$(MILESTONE)') $(if $(GROUP),-group '$(GROUP)') $(if $(FOCUS),-focus '$(FOCUS)') \
                    $(if $(PROCS),-procs $(PROCS))
CONFORMANCE_DEBS := e2e/images/packages.txt
CONFORMANCE_PROGRAMS := $(addprefix $(CONFORMANCE_BIN)/,e2e.test ginkgo kubectl run)

# Groups whose tests take seconds, from every part of the house.
CONFORMANCE_SLICE := -group G2,G4,G6,G13,G16,G17,G19,G20,G36,G39,G44,G48,G49,G50,G57,G58 -milestone M1,M2,M3

.PHONY: conformance conformance-build conformance-slice roundtrip
conformance: build conformance-build ## Run conformance tests: MILESTONE=M1, GROUP=G2,G3 or FOCUS=REGEXP; all without
	$(CONFORMANCE_BIN)/run -bin $(CONFORMANCE_BIN) -mini bin/mini -images $(CONFORMANCE_TAR) $(CONFORMANCE_ARGS)

conformance-slice: build conformance-build roundtrip ## Run about a hundred quick conformance tests, and the round trip
	$(CONFORMANCE_BIN)/run -bin $(CONFORMANCE_BIN) -mini bin/mini -images $(CONFORMANCE_TAR) $(CONFORMANCE_SLICE) -out $(CONFORMANCE_BIN)/out/slice

roundtrip: mini-stored $(CONFORMANCE_BIN)/roundtrip.test ## Hold what lies in etcd against upstream's storage codecs, both ways
	$(CONFORMANCE_BIN)/roundtrip.test -test.v -stored $(CONFORMANCE_BIN)/stored

conformance-build: $(CONFORMANCE_PROGRAMS) $(CONFORMANCE_TAR) ## Build the conformance tests and the images they use

$(CONFORMANCE_BIN)/e2e.test: $(CONFORMANCE_MOD) $(wildcard $(CONFORMANCE)/suite/*.go)
	@mkdir -p $(@D)
	cd $(CONFORMANCE) && CGO_ENABLED=0 $(GO) test -c $(CONFORMANCE_GO) -o $(abspath $@) ./suite

$(CONFORMANCE_BIN)/roundtrip.test: $(CONFORMANCE_MOD) $(wildcard $(CONFORMANCE)/roundtrip/*.go)
	@mkdir -p $(@D)
	cd $(CONFORMANCE) && CGO_ENABLED=0 $(GO) test -c $(CONFORMANCE_GO) -o $(abspath $@) ./roundtrip

.PHONY: mini-stored
mini-stored: bin/lean.mod
	@mkdir -p $(CONFORMANCE_BIN)
	$(BUILD) -o $(CONFORMANCE_BIN)/stored ./e2e/stored

$(CONFORMANCE_BIN)/run: $(CONFORMANCE_MOD) $(wildcard $(CONFORMANCE)/run/*.go $(CONFORMANCE)/catalog/*)
	@mkdir -p $(@D)
	cd $(CONFORMANCE) && CGO_ENABLED=0 $(GO) build $(CONFORMANCE_GO) -o $(abspath $@) ./run

$(CONFORMANCE_BIN)/ginkgo:  CONFORMANCE_PKG := github.com/onsi/ginkgo/v2/ginkgo
$(CONFORMANCE_BIN)/kubectl: CONFORMANCE_PKG := k8s.io/kubernetes/cmd/kubectl
$(CONFORMANCE_BIN)/agnhost: CONFORMANCE_PKG := k8s.io/kubernetes/test/images/agnhost
$(CONFORMANCE_BIN)/nnp:     CONFORMANCE_PKG := k8s.io/kubernetes/test/images/nonewprivs
$(addprefix $(CONFORMANCE_BIN)/,ginkgo kubectl agnhost nnp): $(CONFORMANCE_MOD)
	@mkdir -p $(@D)
	cd $(CONFORMANCE) && CGO_ENABLED=0 $(GO) build $(CONFORMANCE_GO) -o $(abspath $@) $(CONFORMANCE_PKG)

$(CONFORMANCE_BIN)/debs/done: $(CONFORMANCE_DEBS)
	rm -rf $(@D) && mkdir -p $(@D)
	download="apt-get -qq -o APT::Sandbox::User=root download $$(grep -v '^#' $< | tr '\n' ' ')"; \
	  cd $(@D) && { $$download || { apt-get update -qq && $$download; }; }
	touch $@

$(CONFORMANCE_BIN)/sh: e2e/images/sh/main.go
	@mkdir -p $(@D)
	CGO_ENABLED=0 $(GO) build $(CONFORMANCE_GO) -o $@ ./e2e/images/sh

$(CONFORMANCE_TAR): $(CONFORMANCE_BIN)/debs/done $(addprefix $(CONFORMANCE_BIN)/,agnhost nnp sh) $(HELPERS_WORK)/pause \
                    $(wildcard e2e/images/*.go internal/ociarchive/*.go)
	@mkdir -p $(@D)
	$(GO) run ./e2e/images -o $@ -agnhost $(CONFORMANCE_BIN)/agnhost -nnp $(CONFORMANCE_BIN)/nnp -pause $(HELPERS_WORK)/pause -sh $(CONFORMANCE_BIN)/sh \
	  -porter "$$(cd $(CONFORMANCE) && $(GO) list -m -f '{{.Dir}}' k8s.io/kubernetes)/test/images/agnhost/porter" \
	  $(CONFORMANCE_BIN)/debs/*.deb
