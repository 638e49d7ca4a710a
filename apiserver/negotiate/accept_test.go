package negotiate

import (
	"net/http/httptest"
	"testing"
)

func TestPick(t *testing.T) {
	objects := func(f Format) bool { return f.As == "" }
	tables := func(f Format) bool { return f.As == "" || f.As == "Table" && f.Group == "meta.k8s.io" && f.Ver == "v1" }
	jsonOnly := func(f Format) bool { return f.As == "" && f.Media == JSON }
	for _, c := range []struct {
		accept string
		serves func(Format) bool
		want   Format
		ok     bool
	}{
		{"", objects, Format{}, true},
		{"*/*", objects, Format{}, true},
		{"application/*", objects, Format{}, true},
		{"application/json", objects, Format{}, true},
		{"application/yaml", objects, Format{Media: YAML}, true},
		{"application/vnd.kubernetes.protobuf", objects, Format{Media: Proto}, true},
		{"application/vnd.kubernetes.protobuf,application/json", jsonOnly, Format{}, true},
		{"application/vnd.kubernetes.protobuf", jsonOnly, Format{}, false},
		{"application/cbor,application/json", objects, Format{Media: CBOR}, true},
		{"application/json;q=0.9,application/cbor;q=1", objects, Format{Media: CBOR}, true},
		{"application/cbor;as=Table;v=v1;g=meta.k8s.io,application/cbor", tables, Format{Media: CBOR, As: "Table", Ver: "v1", Group: "meta.k8s.io"}, true},
		{"application/cbor-seq", objects, Format{}, false},
		{"application/msgpack,application/json", objects, Format{}, true},
		{"application/json;q=0.1, application/yaml;q=0.9", objects, Format{Media: YAML}, true},
		{"application/json;q=0", objects, Format{}, false},
		{"text/html", objects, Format{}, false},
		{"text/html,application/xhtml+xml,*/*;q=0.8", objects, Format{}, true},
		{"application/json;as=Table;v=v1;g=meta.k8s.io,application/json", tables, Format{As: "Table", Ver: "v1", Group: "meta.k8s.io"}, true},
		{"application/json;as=Table;g=meta.k8s.io;v=v1,application/json", objects, Format{}, true},
		{"application/json;as=Table;v=v1;g=meta.k8s.io", objects, Format{}, false},
		{"application/json;stream=watch", objects, Format{}, true},
		{"application/json;stream=other", objects, Format{}, false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		if c.accept != "" {
			r.Header.Set("Accept", c.accept)
		}
		got, ok := Pick(r, c.serves)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%q: %+v %v, want %+v %v", c.accept, got, ok, c.want, c.ok)
		}
	}
}

func TestPretty(t *testing.T) {
	for _, c := range []struct {
		query, agent string
		want         bool
	}{
		{"", "kubectl/v1.32", false}, {"", "curl/7", true}, {"", "Mozilla/5.0 (X11)", true},
		{"?pretty=false", "curl/7", false}, {"?pretty=true", "kubectl", true}, {"?pretty", "kubectl", true}, {"?pretty=0", "", false},
	} {
		r := httptest.NewRequest("GET", "/"+c.query, nil)
		r.Header.Set("User-Agent", c.agent)
		if f, _ := Pick(r, func(Format) bool { return true }); f.Pretty != c.want {
			t.Errorf("%q %q: %v", c.query, c.agent, f.Pretty)
		}
	}
}

func FuzzPick(f *testing.F) {
	f.Add("application/json;as=Table;v=v1;g=meta.k8s.io, */*;q=0.5")
	f.Add(`application/yaml;q="1"`)
	f.Fuzz(func(t *testing.T, accept string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Accept"] = []string{accept}
		got, ok := Pick(r, func(f Format) bool { return f.As == "" && f.Media != Proto })
		if ok && (got.As != "" || got.Media == Proto) {
			t.Fatalf("%q picked %+v, which is not served", accept, got)
		}
	})
}
