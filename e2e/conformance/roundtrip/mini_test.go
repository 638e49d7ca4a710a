package roundtrip

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var program = flag.String("stored", "", "command e2e/stored of the main module; it is built where this is empty")

// object is one line of command e2e/stored.
type object struct {
	Group      string          `json:"group"`
	Version    string          `json:"version"`
	Kind       string          `json:"kind"`
	Resource   string          `json:"resource"`
	Namespaced bool            `json:"namespaced"`
	Key        string          `json:"key"`
	Stored     []byte          `json:"stored"`
	JSON       json.RawMessage `json:"json,omitempty"`
	Error      string          `json:"error,omitempty"`
}

func (o *object) id() string { return o.Group + "_" + o.Version + "_" + o.Resource }

// mini runs the command.
type mini struct{ path string }

func newMini(t *testing.T) *mini {
	t.Helper()
	if *program != "" {
		return &mini{*program}
	}
	path := filepath.Join(t.TempDir(), "stored")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", path, "./e2e/stored")
	build.Dir = filepath.Join("..", "..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building e2e/stored: %v\n%s", err, out)
	}
	return &mini{path}
}

// examples returns n objects of every kind.
func (m *mini) examples(t *testing.T, n int) []*object {
	t.Helper()
	return m.run(t, nil, "examples", "-n", fmt.Sprint(n))
}

// decode returns what mini reads from the bytes of objects, in their order.
func (m *mini) decode(t *testing.T, objects []*object) []*object {
	t.Helper()
	var in bytes.Buffer
	for _, o := range objects {
		if err := json.NewEncoder(&in).Encode(o); err != nil {
			t.Fatal(err)
		}
	}
	out := m.run(t, &in, "decode")
	if len(out) != len(objects) {
		t.Fatalf("mini answered for %d of %d objects", len(out), len(objects))
	}
	return out
}

func (m *mini) run(t *testing.T, in io.Reader, args ...string) []*object {
	t.Helper()
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(t.Context(), m.path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v: %v\n%s", m.path, args, err, &complaint)
	}
	var all []*object
	for d := json.NewDecoder(&out); ; {
		o := &object{}
		if err := d.Decode(o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
}
