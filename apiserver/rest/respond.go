package rest

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/klauspost/compress/gzip"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/negotiate"
)

// gzipFrom is the size from which an answer is compressed for clients on other machines; upstream's threshold.
const gzipFrom = 128 << 10

var (
	buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
	zippers = sync.Pool{New: func() any {
		z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is a constant
		}
		return z
	}}
)

// putBuffer gives a buffer back unless it has become so big that keeping it would hurt.
func putBuffer(b *[]byte) {
	if cap(*b) <= 4<<20 {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

// writeAny answers with any API object whose kind is set.
func writeAny(w http.ResponseWriter, r *http.Request, code int, format negotiate.Format, obj runtime.Object) {
	switch format.Media {
	case negotiate.Proto:
		if body, err := codec.EncodeProto(obj); err == nil {
			writeBody(w, r, code, format, body)
			return
		}
		format = negotiate.Format{}
	case negotiate.CBOR:
		if body, err := codec.EncodeCBOR(obj); err == nil {
			writeBody(w, r, code, format, body)
			return
		}
		format = negotiate.Format{}
	}
	body, err := json.Marshal(obj)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeBody(w, r, code, format, append(body, '\n'))
}

// WriteBody answers 200 with a body in protobuf, CBOR or JSON.
func WriteBody(w http.ResponseWriter, r *http.Request, format negotiate.Format, body []byte) {
	writeBody(w, r, http.StatusOK, format, body)
}

// writeBody answers with a body in protobuf, CBOR or JSON; the last is turned into YAML or indented where format says so.
func writeBody(w http.ResponseWriter, r *http.Request, code int, format negotiate.Format, body []byte) {
	switch {
	case format.Media == negotiate.YAML:
		y, err := yaml.JSONToYAML(body)
		if err != nil {
			WriteError(w, r, apierrors.NewInternalError(err))
			return
		}
		body = y
	case format.Pretty && format.Media == negotiate.JSON:
		var indented bytes.Buffer
		if err := json.Indent(&indented, body, "", "  "); err == nil {
			body = indented.Bytes()
		}
	}
	h := w.Header()
	h["Content-Type"] = []string{format.ContentType()}
	if len(body) >= gzipFrom && negotiate.Gzip(r) && !sameMachine(r) {
		writeGzip(w, code, body)
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(code)
	w.Write(body) //nolint:errcheck // the client is gone, and nothing is left to tell it
}

func writeGzip(w http.ResponseWriter, code int, body []byte) {
	h := w.Header()
	h.Set("Content-Encoding", "gzip")
	h.Add("Vary", "Accept-Encoding")
	w.WriteHeader(code)
	z := zippers.Get().(*gzip.Writer)
	defer zippers.Put(z)
	z.Reset(w)
	z.Write(body) //nolint:errcheck // the client is gone, and nothing is left to tell it
	z.Close()     //nolint:errcheck // as above
}

// sameMachine tells whether compressing would only cost: the bytes never leave the machine.
func sameMachine(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr == "" // in-process
	}
	ip := net.ParseIP(host)
	if ip == nil || ip.IsLoopback() {
		return ip != nil
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return local.IP.Equal(ip)
	}
	return false
}
