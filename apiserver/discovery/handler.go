package discovery

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/registry"
)

// Handler serves discovery; the zero value knows nothing until Set.
type Handler struct {
	// Write answers with a body of JSON in the format that was negotiated, and NotFound for a path nobody serves; the server
	// brings them so that all answers look the same.
	Write    func(w http.ResponseWriter, r *http.Request, f negotiate.Format, body []byte)
	NotFound http.HandlerFunc

	current atomic.Pointer[documents] // nil while they have to be made

	mu      sync.Mutex
	address string
	fixed   []registry.Resource
	more    []registry.Resource
	groups  map[string]*group // what the last documents were made of
}

// Set replaces what is served. address is the server's own, host and port.
func (h *Handler) Set(rows []registry.Resource, address string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fixed, h.address = rows, address
	return h.buildLocked()
}

// Extend replaces what is served after the rows of Set. The documents are made when somebody asks for one.
func (h *Handler) Extend(rows []registry.Resource) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.more = rows
	h.current.Store(nil)
}

func (h *Handler) buildLocked() error {
	d, groups, err := build(slices.Concat(h.fixed, h.more), h.address, h.groups)
	if err == nil {
		h.groups = groups
		h.current.Store(d)
	}
	return err
}

// documents are those of the newest rows.
func (h *Handler) documents() (*documents, error) {
	if d := h.current.Load(); d != nil {
		return d, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.current.Load(); d != nil {
		return d, nil
	}
	err := h.buildLocked()
	return h.current.Load(), err
}

// ServeHTTP answers GET on /api, /apis and the paths of groups and versions, with or without a final slash.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	d, err := h.documents()
	if err != nil { // a kind whose names are no JSON
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	doc, ok := d.paths[path]
	if !ok {
		h.NotFound(w, r)
		return
	}
	aggregated, both := d.aggregated[path]
	f, ok := negotiate.Pick(r, func(f negotiate.Format) bool {
		return f.As == "" || both && f.Media != negotiate.CBOR && f.As == "APIGroupDiscoveryList" && f.Group == "apidiscovery.k8s.io" && (f.Ver == "v2" || f.Ver == "v2beta1")
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
	switch f.Media {
	case negotiate.Proto:
		body = doc.proto
	case negotiate.CBOR:
		if body, err = codec.CBORFromJSON(doc.json); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	h.Write(w, r, f, body)
}
