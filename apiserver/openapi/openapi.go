package openapi

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/munnerz/goautoneg"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

//go:generate go run ./generate -out gen
//go:embed all:gen
var embedded embed.FS

// Index is what the generator writes beside the documents, as index.json.
type Index struct {
	V2 string            `json:"v2"` // hash of the v2 document
	V3 map[string]string `json:"v3"` // hash by path: "api/v1", "apis/apps/v1"
	// The JSON of v2, and of CustomFile, are three pieces of gzip; these are the places where the first two end: after the
	// last definition, and after the last path.
	V2Ends     [2]int `json:"v2Ends"`
	CustomEnds [2]int `json:"customEnds"`
}

// CustomFile is the path of what all version 3 documents of custom resources have in common.
const CustomFile = "custom"

// IndexFile is the name of the file that holds the Index.
const IndexFile = "index.json"

// File is the name of a document's file: path is "v2" or "v3/apis/apps/v1".
func File(path string) string {
	return strings.ReplaceAll(path, "/", "_") + ".json.gz"
}

const (
	jsonType = "application/json"
	v2Proto  = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	v3Proto  = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
	// The names by which clients before 1.27 ask for the same.
	v2ProtoOld = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	v3ProtoOld = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
)

// Handler answers below /openapi/.
type Handler struct {
	files documents
	index Index
	err   error // why there are no documents

	mu     sync.Mutex
	custom *custom
}

// NewHandler serves the embedded documents.
func NewHandler() *Handler {
	files, err := fs.Sub(embedded, "gen")
	if err != nil {
		return &Handler{err: err}
	}
	return newHandler(files)
}

func newHandler(files fs.FS) *Handler {
	h := &Handler{files: documents{files: files}, custom: &custom{}}
	data, err := fs.ReadFile(files, IndexFile)
	if err == nil {
		err = json.Unmarshal(data, &h.index)
	}
	h.err = err
	h.custom.v2Hash = h.index.V2
	return h
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(strings.TrimPrefix(r.URL.Path, "/openapi/"), "/")
	if h.err != nil {
		writeStatus(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable,
			"this mini was built without its OpenAPI documents: run `make openapi` before building it")
		return
	}
	h.mu.Lock()
	custom := h.custom
	h.mu.Unlock()
	if path == "v3" {
		h.serveIndex(w, r, custom)
		return
	}
	hash, known := custom.v2Hash, path == "v2"
	if document, ok := strings.CutPrefix(path, "v3/"); ok {
		if hash, known = h.index.V3[document]; known {
			custom = nil
		} else {
			hash, known = custom.hashes[document]
		}
	}
	if !known {
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
		return
	}
	if asked := r.URL.Query().Get("hash"); asked != "" {
		if asked != hash {
			http.Redirect(w, r, documentURL(path, hash), http.StatusMovedPermanently)
			return
		}
		// The URL names the content: it never changes.
		w.Header().Set("Cache-Control", "public, immutable, max-age=31536000")
	}
	h.serveDocument(w, r, custom, path, hash)
}

func documentURL(path, hash string) string { return "/openapi/" + path + "?hash=" + hash }

func (h *Handler) serveIndex(w http.ResponseWriter, r *http.Request, custom *custom) {
	type link struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := make(map[string]link, len(h.index.V3))
	for _, documents := range []map[string]string{h.index.V3, custom.hashes} {
		for document, hash := range documents {
			paths[document] = link{documentURL("v3/"+document, hash)}
		}
	}
	body, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		writeStatus(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())
		return
	}
	w.Header().Set("Content-Type", jsonType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// serveDocument answers with an embedded document, or with one that custom resources are in.
func (h *Handler) serveDocument(w http.ResponseWriter, r *http.Request, custom *custom, path, hash string) {
	encoding, contentType := "json", jsonType
	offers, proto, old := []string{jsonType, v3Proto, v3ProtoOld}, v3Proto, v3ProtoOld
	if path == "v2" {
		offers, proto, old = []string{jsonType, v2Proto, v2ProtoOld}, v2Proto, v2ProtoOld
	}
	if accept := r.Header.Get("Accept"); accept != "" {
		switch goautoneg.Negotiate(accept, offers) {
		case proto, old:
			encoding, contentType = "pb", proto
		case "":
			writeStatus(w, http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only the following media types are accepted: "+strings.Join(offers, ", "))
			return
		}
	}
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Etag", `"`+hash+`"`)
	header.Set("Vary", "Accept, Accept-Encoding")
	if strings.Contains(r.Header.Get("If-None-Match"), `"`+hash+`"`) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	var body io.Reader
	if custom != nil && len(custom.all) > 0 {
		pieces, err := custom.document(&h.files, &h.index, path, encoding)
		if err != nil {
			writeStatus(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "the OpenAPI document of custom resources cannot be made: "+err.Error())
			return
		}
		readers := make([]io.Reader, len(pieces))
		for i, p := range pieces {
			readers[i] = bytes.NewReader(p)
		}
		body = io.MultiReader(readers...)
	} else {
		file, err := h.files.read(path, encoding)
		if err != nil {
			writeStatus(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "an OpenAPI document of this binary cannot be served: "+err.Error())
			return
		}
		body = bytes.NewReader(file)
	}
	var err error
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		header.Set("Content-Encoding", "gzip")
	} else if body, err = gzip.NewReader(body); err != nil {
		writeStatus(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "an OpenAPI document in this binary is damaged: "+err.Error())
		return
	}
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, body) // the client went away, or it has it
	}
}

func writeStatus(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	body, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
	if err != nil {
		code = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(code)
	_, _ = w.Write(body)
}
