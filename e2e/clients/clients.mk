# Clients of other people, from their registries, against mini. Not a part of `make test`: they need npm.

CLIENT_NODE := e2e/clients/node

.PHONY: clients
clients: build $(CLIENT_NODE)/node_modules ## Run the npm registry's @kubernetes/client-node, unmodified, against a cluster
	$(GO) vet -tags clients ./e2e/clients
	$(GO) test -tags clients -count=1 -timeout 10m -v ./e2e/clients

$(CLIENT_NODE)/node_modules: $(CLIENT_NODE)/package.json $(CLIENT_NODE)/package-lock.json
	@command -v npm >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends nodejs npm; }
	cd $(CLIENT_NODE) && npm ci --no-audit --no-fund
	@touch $@
