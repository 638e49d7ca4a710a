# The programs that a node runs beside mini, built from the versions in go.mod, compressed and embedded (package helpers).
# Each is rebuilt when go.mod, go.sum or its own sources change. runc needs gcc, pkg-config and libseccomp-dev.

HELPERS_DIR   := internal/helpers
HELPERS_BIN   := $(HELPERS_DIR)/bin
HELPERS_WORK  := bin/helpers
HELPERS_NAMES := containerd-shim-runc-v2 runc shim pause logger kubectl
HELPERS_GO    := -trimpath -buildvcs=false
HELPERS_C     := -O2 -static -nostdlib -ffreestanding -fno-tree-loop-distribute-patterns -fno-stack-protector -fno-asynchronous-unwind-tables -fno-pie \
                 -no-pie -Wall -Wextra -Werror -s -Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro \
                 -Wl,-z,noexecstack
HELPERS_MOD    = $(shell go list -m -f '{{.Version}}' $(1))

.PHONY: helpers helpers-clean
helpers: $(HELPERS_NAMES:%=$(HELPERS_BIN)/%.zst) ## Build the embedded helpers: shims, runc, pause, logger, kubectl

helpers-clean:
	rm -rf $(HELPERS_WORK) $(HELPERS_BIN)/*.zst $(HELPERS_BIN)/*.sum

# Beside NAME.zst stands NAME.sum: SHA-256 and size of the file as it will be unpacked. One thread, because the split into
# blocks must not depend on the number of cores; a window of 8 MB, because the decoder holds that much.
$(HELPERS_BIN)/%.zst: $(HELPERS_WORK)/%
	echo "$$(sha256sum < $< | cut -d ' ' -f 1) $$(stat -c %s $<)" > $(@:.zst=.sum)
	zstd -q -f -T1 --ultra -22 --long=23 $< -o $@

$(HELPERS_WORK)/containerd-shim-runc-v2: go.mod go.sum
	@mkdir -p $(HELPERS_WORK)
	CGO_ENABLED=0 go build $(HELPERS_GO) -tags no_grpc \
	  -ldflags '-s -w -X github.com/containerd/containerd/v2/version.Version=$(call HELPERS_MOD,github.com/containerd/containerd/v2)' \
	  -o $@ github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2

$(HELPERS_WORK)/runc: go.mod go.sum
	@mkdir -p $(HELPERS_WORK)
	@pkg-config --exists libseccomp || { echo "runc needs gcc, pkg-config and libseccomp-dev (apt-get install gcc pkg-config libseccomp-dev)" >&2; exit 1; }
	CGO_ENABLED=1 go build $(HELPERS_GO) -tags 'seccomp netgo osusergo urfave_cli_no_docs' \
	  -ldflags '-s -w -linkmode external -extldflags "-static"' -o $@ github.com/opencontainers/runc

$(HELPERS_WORK)/kubectl: go.mod go.sum $(HELPERS_DIR)/kubectl/main.go
	@mkdir -p $(HELPERS_WORK)
	CGO_ENABLED=0 go build $(HELPERS_GO) \
	  -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(patsubst v0.%,v1.%,$(call HELPERS_MOD,k8s.io/kubectl))' \
	  -o $@ ./$(HELPERS_DIR)/kubectl

$(HELPERS_WORK)/pause $(HELPERS_WORK)/logger $(HELPERS_WORK)/shim: $(HELPERS_WORK)/%: $(HELPERS_DIR)/c/%.c $(HELPERS_DIR)/c/sys.h $(HELPERS_DIR)/helpers.mk
	@mkdir -p $(HELPERS_WORK)
	gcc $(HELPERS_C) -o $@ $<
