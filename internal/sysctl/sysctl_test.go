package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/mini-k8s/mini/internal/netns/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func TestRecord(t *testing.T) {
	netnstest.NeedRoot(t)
	const name = "net/ipv4/conf/all/rp_filter"
	if err := Write(name, "0"); err != nil {
		t.Fatal(err)
	}
	r := Record(filepath.Join(t.TempDir(), "below", "sysctls.json"))
	if err := r.Restore(); err != nil {
		t.Errorf("Restore of nothing: %v", err)
	}
	// The first value counts, however often it is changed.
	for _, v := range []string{"0", "1", "2"} {
		if err := r.Set(name, v); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(name); got != v || err != nil {
			t.Errorf("%s is %s, %v; want %s", name, got, err, v)
		}
	}
	if err := r.Restore(); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(name); got != "0" || err != nil {
		t.Errorf("after Restore: %s, %v", got, err)
	}
	if _, err := os.Stat(string(r)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record stayed: %v", err)
	}
	if err := r.Set("net/no/such", "1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unknown parameter: %v", err)
	}
}
