package main

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// unpack reads an archive as the kernel does: name, mode and content of each entry.
func unpack(t *testing.T, b []byte) []string {
	t.Helper()
	var got []string
	for at := 0; ; {
		field := func(i int) int {
			n, err := strconv.ParseUint(string(b[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		if magic := string(b[at : at+6]); magic != "070701" {
			t.Fatalf("entry at %d begins with %q", at, magic)
		}
		mode, size, length := field(1), field(6), field(11)
		name := string(b[at+110 : at+110+length-1])
		at = (at + 110 + length + 3) &^ 3
		content := string(b[at : at+size])
		if at = (at + size + 3) &^ 3; name == "TRAILER!!!" {
			if at != len(b) {
				t.Errorf("%d bytes after the end", len(b)-at)
			}
			return got
		}
		got = append(got, name+" "+strconv.FormatInt(int64(mode), 8)+" "+content)
	}
}

func TestArchive(t *testing.T) {
	var b bytes.Buffer
	a := newArchive(&b)
	a.file("/init", 0o755, 5, strings.NewReader("abcde"))
	a.text("etc/x/hosts", "a")
	a.link("/etc/x/sh", "busybox")
	a.dir("/etc")
	a.dir("/")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"init 100755 abcde", "etc 40755 ", "etc/x 40755 ", "etc/x/hosts 100644 a", "etc/x/sh 120777 busybox"}
	if d := cmp.Diff(want, unpack(t, b.Bytes())); d != "" {
		t.Error(d)
	}
}

func TestArchiveErrors(t *testing.T) {
	var b bytes.Buffer
	a := newArchive(&b)
	a.file("short", 0o644, 5, strings.NewReader("abc"))
	a.text("after", "x")
	if err := a.close(); err == nil || !strings.Contains(err.Error(), "short: 3 bytes instead of 5") {
		t.Errorf("a file that is too short: %v", err)
	}
	a = newArchive(full{})
	a.text("x", "y")
	if err := a.close(); !errors.Is(err, errFull) {
		t.Errorf("a full disk: %v", err)
	}
}

var errFull = errors.New("full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
