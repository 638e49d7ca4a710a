package main

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// The kinds of files of an archive, as in st_mode.
const (
	kindDir  = 0o040000
	kindFile = 0o100000
	kindLink = 0o120000
)

// archive writes an initramfs: cpio in the "newc" format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
// Folders come by themselves with what is in them. The first error sticks and is what close returns.
type archive struct {
	w     io.Writer
	err   error
	inode int
	dirs  map[string]bool
}

func newArchive(w io.Writer) *archive { return &archive{w: w, dirs: map[string]bool{".": true}} }

func (a *archive) dir(name string) {
	name = clean(name)
	if a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	a.dirs[name] = true
	a.entry(name, kindDir|0o755, 0, strings.NewReader(""))
}

func (a *archive) file(name string, mode int, size int64, content io.Reader) {
	a.dir(path.Dir(clean(name)))
	a.entry(clean(name), kindFile|mode, size, content)
}

func (a *archive) text(name, content string) {
	a.file(name, 0o644, int64(len(content)), strings.NewReader(content))
}

func (a *archive) link(name, target string) {
	a.dir(path.Dir(clean(name)))
	a.entry(clean(name), kindLink|0o777, int64(len(target)), strings.NewReader(target))
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, strings.NewReader(""))
	return a.err
}

// clean is a path as the archive has it: without the slash in front.
func clean(name string) string {
	if name = path.Clean("/" + name)[1:]; name == "" {
		return "."
	}
	return name
}

func (a *archive) entry(name string, mode int, size int64, content io.Reader) {
	if a.err != nil {
		return
	}
	a.inode++
	if size >= 1<<32 {
		a.err = fmt.Errorf("%s: too large for a cpio archive", name)
		return
	}
	var header strings.Builder
	header.WriteString("070701")
	// inode, mode, uid, gid, links, mtime, size, device (2), device of a node (2), length of the name, checksum
	for _, field := range []int64{int64(a.inode), int64(mode), 0, 0, 1, 0, size, 0, 0, 0, 0, int64(len(name) + 1), 0} {
		fmt.Fprintf(&header, "%08X", field)
	}
	header.WriteString(name + "\x00")
	header.Write(padding(int64(header.Len())))
	if _, a.err = io.WriteString(a.w, header.String()); a.err != nil {
		return
	}
	n, err := io.Copy(a.w, io.LimitReader(content, size))
	if err == nil && n != size {
		err = fmt.Errorf("%s: %d bytes instead of %d", name, n, size)
	}
	if err == nil {
		_, err = a.w.Write(padding(size))
	}
	a.err = err
}

// padding fills up to a multiple of four.
func padding(n int64) []byte { return slices.Repeat([]byte{0}, int(-n&3)) }
