package discovery

import (
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/registry"
)

// Handler serves discovery; the zero value knows nothing until Set.
type Handler struct {
	// Write answers with a body of JSON in the format that was negotiated, and NotFound for a path nobody serves; the server
	// brings them so that all answers look the same.
	Write    func(w http.ResponseWriter, r *http.Request, f negotiate.Format, body []byte)
	NotFound http.HandlerFunc

	current atomic.Pointer[documents]
}

// Set replaces what is served. address is the server's own, host and port.
func (h *Handler) Set(rows []registry.Resource, address string) error {
	d, err := build(rows, address)
	if err == nil {
		h.current.Store(d)
	}
	return err
}

// ServeHTTP answers GET on /api, /apis and the paths of groups and versions, with or without a final slash.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := h.current.Load()
	path := strings.TrimSuffix(r.URL.Path, "/")
	if d == nil {
		h.NotFound(w, r)
		return
	}
	doc, ok := d.paths[path]
	if !ok {
		h.NotFound(w, r)
		return
	}
	aggregated, both := d.aggregated[path]
	f, ok := negotiate.Pick(r, func(f negotiate.Format) bool {
		return f.As == "" || both && f.As == "APIGroupDiscoveryList" && f.Group == "apidiscovery.k8s.io" && (f.Ver == "v2" || f.Ver == "v2beta1")
	})
	if !ok {
		f = negotiate.Format{}
	}
	if f.As != "" {
		doc = aggregated.v2
		if f.Ver == "v2beta1" {
			doc = aggregated.v2beta1
		}
		w.Header().Set("ETag", doc.etag)
		w.Header().Set("Vary", "Accept")
		if r.Header.Get("If-None-Match") == doc.etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	body := doc.json
	if f.Media == negotiate.Proto {
		body = doc.proto
	}
	h.Write(w, r, f, body)
}
