# The OpenAPI documents are made anew when the API types' version, the rows or the generator have changed.
OPENAPI_DOCS := apiserver/openapi/gen/index.json

.PHONY: openapi
openapi: $(OPENAPI_DOCS) ## Make the OpenAPI documents that mini embeds

$(OPENAPI_DOCS): go.mod $(wildcard apiserver/openapi/generate/*.go) $(shell find apiserver/registry -name '*.go' -not -name '*_test.go')
	$(GO) run ./apiserver/openapi/generate -out apiserver/openapi/gen
