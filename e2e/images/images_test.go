package main

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/mini-k8s/mini/internal/ociarchive"
)

func TestMerged(t *testing.T) {
	for in, want := range map[string]string{
		"./bin/ls":                     "/usr/bin/ls",
		"./lib64/ld-linux-x86-64.so.2": "/usr/lib64/ld-linux-x86-64.so.2",
		"./usr/bin/dig":                "/usr/bin/dig",
		"./lib":                        "/usr/lib",
		"./library/x":                  "/library/x",
		"./etc/passwd":                 "/etc/passwd",
	} {
		if got := merged(in); got != want {
			t.Errorf("merged(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestUnpack(t *testing.T) {
	var stream bytes.Buffer
	tw := tar.NewWriter(&stream)
	for _, h := range []*tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/prog", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 4, Uid: 1, Gid: 2},
		{Name: "./usr/bin/alias", Typeflag: tar.TypeLink, Linkname: "./bin/prog"},
		{Name: "./usr/bin/soft", Typeflag: tar.TypeSymlink, Linkname: "prog"},
		{Name: "./usr/share/doc/prog", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			tw.Write([]byte("text"))
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	l := layer{}
	if err := l.unpack(&stream); err != nil {
		t.Fatal(err)
	}
	prog, alias := l["/usr/bin/prog"], l["/usr/bin/alias"]
	if prog.Mode != 0o4755 || prog.UID != 1 || prog.GID != 2 || string(prog.Content) != "text" {
		t.Errorf("program: %+v", prog)
	}
	if string(alias.Content) != "text" || alias.Mode != prog.Mode {
		t.Errorf("a hard link has to be the same file: %+v", alias)
	}
	if l["/usr/bin/soft"].Link != "prog" || len(l) != 3 {
		t.Errorf("got %d files, want the program under three names only: %v", len(l), l)
	}
}

// TestStandIns needs the busybox of Debian, as the build does.
func TestStandIns(t *testing.T) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox on this machine: make deps")
	}
	box, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range []string{"localhost.crt", "localhost.key"} {
		if err := os.WriteFile(dir+"/"+f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	system := layer{}
	system.program("/usr/bin/bash-static", []byte("bash"))
	system.program("/usr/bin/busybox", box)
	system.program("/usr/bin/wget", []byte("the real one"))
	images, err := standIns(system, programs{agnhost: []byte("a"), nnp: []byte("n"), pause: []byte("p"), sh: []byte("s"), porter: dir})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(system["/usr/bin/wget"].Content); got != "the real one" {
		t.Errorf("busybox stands where a package brings the program: %q", got)
	}
	var archive bytes.Buffer
	if err := ociarchive.Write(&archive, images...); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, img := range images {
		names = append(names, img.Names...)
	}
	if !slices.Contains(names, "registry.k8s.io/e2e-test-images/agnhost:2.63.0") {
		t.Errorf("no agnhost among %q", names)
	}
}
