package openapi

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

func packed(text string) *fstest.MapFile {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(text))
	_ = z.Close()
	return &fstest.MapFile{Data: b.Bytes()}
}

const (
	v2JSON = `{"swagger":"2.0","info":{"title":"two","version":""},"paths":{}}`
	v3JSON = `{"openapi":"3.0.0","info":{"title":"three","version":""},"paths":{}}`
)

func testHandler() *Handler {
	return newHandler(fstest.MapFS{
		IndexFile:               {Data: []byte(`{"v2":"AA","v3":{"api/v1":"BB","apis/apps/v1":"CC"}}`)},
		File("v2"):              packed(v2JSON),
		File("v3/api/v1"):       packed(v3JSON),
		File("v3/apis/apps/v1"): packed(`{}`),
	})
}

func get(h http.Handler, url string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, url, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestServe(t *testing.T) {
	h := testHandler()
	for _, test := range []struct {
		name, url, accept string
		code              int
		contentType, body string
	}{
		{"v2_json", "/openapi/v2", "", 200, jsonType, v2JSON},
		{"v2_client_go", "/openapi/v2", v2ProtoOld, 200, v2Proto, "\n\x032.0\x12\x05\n\x03two"},
		{"v2_prefers_first", "/openapi/v2", v2Proto + "," + jsonType, 200, v2Proto, "\n\x032.0\x12\x05\n\x03two"},
		{"v2_unknown_type", "/openapi/v2", "text/html", 406, jsonType, ""},
		{"index", "/openapi/v3", "application/json", 200, jsonType, `"api/v1":{"serverRelativeURL":"/openapi/v3/api/v1?hash=BB"}`},
		{"v3_json", "/openapi/v3/api/v1", "application/json", 200, jsonType, v3JSON},
		{"v3_any", "/openapi/v3/api/v1", "*/*", 200, jsonType, v3JSON},
		{"v3_proto", "/openapi/v3/api/v1?hash=BB", v3ProtoOld, 200, v3Proto, "\n\x053.0.0\x12\x07\n\x05three"},
		{"v3_unknown", "/openapi/v3/apis/nope/v1", "", 404, jsonType, `"reason":"NotFound"`},
		{"v1", "/openapi/v1", "", 404, jsonType, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := get(h, test.url, "Accept", test.accept)
			if w.Code != test.code || w.Header().Get("Content-Type") != test.contentType || !strings.Contains(w.Body.String(), test.body) {
				t.Errorf("got %d %s %s", w.Code, w.Header().Get("Content-Type"), w.Body)
			}
		})
	}
}

func TestCompressed(t *testing.T) {
	w := get(testHandler(), "/openapi/v2", "Accept-Encoding", "gzip")
	if w.Header().Get("Content-Encoding") != "gzip" {
		t.Fatalf("headers %v", w.Header())
	}
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(z); err != nil || string(body) != v2JSON {
		t.Errorf("%s %v", body, err)
	}
}

func TestCaching(t *testing.T) {
	h := testHandler()
	w := get(h, "/openapi/v3/api/v1?hash=BB")
	if !strings.Contains(w.Header().Get("Cache-Control"), "immutable") || w.Header().Get("Etag") != `"BB"` {
		t.Errorf("headers %v", w.Header())
	}
	if w := get(h, "/openapi/v3/api/v1", "If-None-Match", `"BB"`); w.Code != http.StatusNotModified {
		t.Errorf("known content is sent again: %d", w.Code)
	}
	if w := get(h, "/openapi/v3/api/v1?hash=OLD"); w.Code != http.StatusMovedPermanently || w.Header().Get("Location") != "/openapi/v3/api/v1?hash=BB" {
		t.Errorf("an old hash: %d %v", w.Code, w.Header())
	}
}

func TestWithoutDocuments(t *testing.T) {
	w := get(newHandler(fstest.MapFS{}), "/openapi/v3")
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "make openapi") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}
