package mini_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/mini-k8s/mini/"

type pkg struct {
	ImportPath string
	Name       string
	Doc        string
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,GoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// in says whether a package is one of the folders or lies below one.
func in(path string, folders ...string) bool {
	for _, f := range folders {
		if path == module+f || strings.HasPrefix(path, module+f+"/") {
			return true
		}
	}
	return false
}

// TestImports holds the direction of dependencies: see docs/architecture.md.
func TestImports(t *testing.T) {
	parts := []string{"apiserver", "store", "scheduler", "controller", "kubelet", "proxy", "cni", "dns", "cluster"}
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			switch {
			case strings.HasPrefix(i, "k8s.io/kubernetes"):
				t.Errorf("%s imports %s: nothing here is built on k8s.io/kubernetes", p.ImportPath, i)
			case strings.HasPrefix(i, "k8s.io/apiserver/pkg/") && serverStack(i):
				t.Errorf("%s imports %s: the generic server stack is what this project does itself", p.ImportPath, i)
			case in(i, "store") && !in(p.ImportPath, "apiserver", "store", "cmd", "e2e/stored"):
				t.Errorf("%s imports %s: only the API server knows the store", p.ImportPath, i)
			case in(p.ImportPath, "internal") && in(i, parts...):
				t.Errorf("%s imports %s: internal packages know no part", p.ImportPath, i)
			}
			for _, part := range parts {
				if in(i, part) && in(p.ImportPath, parts...) && !in(p.ImportPath, part) && !allowed(p.ImportPath, part) {
					t.Errorf("%s imports %s: the parts know the cluster only through the API client", p.ImportPath, i)
				}
			}
		}
	}
}

// allowed lists the few arrows between parts.
func allowed(from, to string) bool {
	return in(from, "apiserver") && to == "store" || // the API server keeps its objects there
		in(from, "kubelet") && to == "cni" // the kubelet connects its pods
}

func serverStack(path string) bool {
	for _, bad := range []string{"registry", "storage", "server", "endpoints"} {
		rest := strings.TrimPrefix(path, "k8s.io/apiserver/pkg/")
		if rest == bad || strings.HasPrefix(rest, bad+"/") {
			return true
		}
	}
	return false
}

// TestPackageDocs wants every package to say what it is for.
func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package doc", p.ImportPath)
		}
	}
}
