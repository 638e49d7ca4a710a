package apiserver_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestTooMuch sends over HTTP/1.1 and HTTP/2 what is too much: each is refused with its own code, and the server goes on.
func TestTooMuch(t *testing.T) {
	c := start(t)
	const (
		tooLarge  = "Request entity too large: limit is 3145728"
		revisions = "/apis/apps/v1/namespaces/default/controllerrevisions"
		tooDeep   = "exceeded max depth of 512"
	)
	json := func(n int) string { return `{"metadata":{"name":"big"},"data":{"k":"` + strings.Repeat("x", n) + `"}}` }
	nested := `{"metadata":{"name":"deep"},"x":` + strings.Repeat("[", 600) + strings.Repeat("]", 600) + "}"
	for _, step := range []struct {
		name, method, path, media string
		body                      string
		headers                   int // of 100 KB
		code                      int
		want                      string
	}{
		{name: "long_url", method: "GET", path: maps + "?labelSelector=a+in+(" + strings.Repeat("x", 130<<10) + ")", code: 414, want: "the URL is too long: limit is 131072"},
		{name: "long_path", method: "GET", path: "/" + strings.Repeat("x", 130<<10), code: 414, want: `"code":414`},
		{name: "url", method: "GET", path: maps + "?labelSelector=a+in+(" + strings.Repeat("x,", 40<<10) + "x)", code: 200, want: "ConfigMapList"},
		{name: "headers", method: "GET", path: maps, headers: 12, code: 431},
		{name: "some_headers", method: "GET", path: maps, headers: 8, code: 200},
		{name: "json", method: "POST", path: maps, media: "application/json", body: json(3 << 20), code: 413, want: tooLarge},
		{name: "yaml", method: "POST", path: maps, media: yamlType, body: json(3 << 20), code: 413, want: tooLarge},
		{name: "protobuf", method: "POST", path: maps, media: protoType, body: "k8s\x00" + strings.Repeat("x", 3<<20), code: 413, want: tooLarge},
		{name: "cbor", method: "POST", path: maps, media: cborType, body: "\xd9\xd9\xf7\x5a\x00\x30\x00\x00" + strings.Repeat("x", 3<<20), code: 413, want: tooLarge},
		{name: "patch", method: "PATCH", path: maps + "/kube-root-ca.crt", media: "application/merge-patch+json", body: json(3 << 20), code: 413, want: tooLarge},
		{name: "apply", method: "PATCH", path: maps + "/a?fieldManager=m", media: "application/apply-patch+yaml", body: json(3 << 20), code: 413, want: tooLarge},
		{name: "delete", method: "DELETE", path: maps + "/a", media: "application/json", body: json(3 << 20), code: 413, want: tooLarge},
		{name: "object", method: "POST", path: revisions, media: "application/json", body: json(2 << 20), code: 413, want: "larger than the store accepts"},
		{name: "deep_json", method: "POST", path: maps, media: "application/json", body: nested, code: 400, want: tooDeep},
		{name: "deep_yaml", method: "POST", path: maps, media: yamlType, body: nested, code: 400, want: tooDeep},
		{name: "deep_apply", method: "PATCH", path: maps + "/deep?fieldManager=m", media: "application/apply-patch+yaml", body: nested, code: 400, want: tooDeep},
		{name: "deep_cbor", method: "POST", path: maps, media: cborType, body: strings.Repeat("\x81", 600) + "\x00", code: 400, want: tooDeep},
		{name: "deep_cbor_apply", method: "PATCH", path: maps + "/deep?fieldManager=m", media: "application/apply-patch+cbor", body: strings.Repeat("\x81", 600) + "\x00", code: 400, want: tooDeep},
		{name: "operations", method: "PATCH", path: maps + "/deep", media: "application/json-patch+json", body: "[" + strings.Repeat(`{"op":"add","path":"/data","value":{}},`, 10000) + `{"op":"add","path":"/data","value":{}}]`,
			code: 413, want: "The allowed maximum operations in a JSON patch is 10000, got 10001"},
	} {
		for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
			for _, chunked := range []bool{false, true} {
				if len(step.body) > 0 && step.name != "json" && (chunked || proto == "HTTP/2.0") || chunked && step.body == "" {
					continue
				}
				t.Run(fmt.Sprintf("%s_%s_%v", step.name, proto[5:], chunked), func(t *testing.T) {
					transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: proto == "HTTP/2.0", DisableKeepAlives: true}
					if proto == "HTTP/1.1" {
						transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
					}
					defer transport.CloseIdleConnections()
					var body io.Reader = strings.NewReader(step.body)
					if chunked {
						body = io.MultiReader(body)
					}
					r, err := http.NewRequestWithContext(t.Context(), step.method, c.URL+step.path, body)
					if err != nil {
						t.Fatal(err)
					}
					r.Header.Set("Authorization", "Bearer admin")
					r.Header.Set("Content-Type", step.media)
					for i := range step.headers {
						r.Header.Set(fmt.Sprint("X-Filler-", i), strings.Repeat("x", 100<<10))
					}
					answer, err := transport.RoundTrip(r)
					if step.code == 431 && proto == "HTTP/2.0" && err != nil {
						return // net/http ends the connection when headers go far beyond its limit
					}
					if err != nil {
						t.Fatal(err)
					}
					defer answer.Body.Close() //nolint:errcheck // it was only read
					text, err := io.ReadAll(answer.Body)
					if err != nil && step.code != 431 {
						t.Fatal(err)
					}
					if answer.Proto != proto || answer.StatusCode != step.code || !strings.Contains(string(text), step.want) {
						t.Errorf("%s %d %.300s, want %d %s", answer.Proto, answer.StatusCode, text, step.code, step.want)
					}
				})
			}
		}
	}
	if got := c.do(t, "GET", "/readyz", ""); got.code != 200 {
		t.Errorf("afterwards: %+v", got)
	}
}
