package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// configMapOf makes a ConfigMap of about 1 KB, the size that docs/performance.md measures with.
func configMapOf(name, version string) string {
	if version != "" {
		version = `,"resourceVersion":"` + version + `"`
	}
	return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `"` + version + `},"data":{"k":"` + strings.Repeat("x", 1000) + `"}}`
}

func BenchmarkRequests(b *testing.B) {
	c := start(b)
	const maps = "/api/v1/namespaces/default/configmaps"
	if a := c.do(b, "POST", maps, configMapOf("one", "")); a.code != http.StatusCreated {
		b.Fatal(a)
	}
	n := 0
	b.Run("create", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n++
			if a := c.do(b, "POST", maps, configMapOf(fmt.Sprint("c", n), "")); a.code != http.StatusCreated {
				b.Fatal(a)
			}
		}
	})
	b.Run("create-dry-run", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a := c.do(b, "POST", maps+"?dryRun=All", configMapOf("dry", "")); a.code != http.StatusCreated {
				b.Fatal(a)
			}
		}
	})
	b.Run("update-dry-run", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a := c.do(b, "PUT", maps+"/one?dryRun=All", configMapOf("one", "")); a.code != http.StatusOK {
				b.Fatal(a)
			}
		}
	})
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a := c.do(b, "GET", maps+"/one", ""); a.code != http.StatusOK {
				b.Fatal(a)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a := c.do(b, "GET", maps+"?limit=1000&resourceVersion=0", "", "Accept", "application/vnd.kubernetes.protobuf"); a.code != http.StatusOK {
				b.Fatal(a)
			}
		}
	})
}
