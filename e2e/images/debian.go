package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"strings"

	"github.com/mini-k8s/mini/internal/ociarchive"
)

// usrMerged are the root's folders that are links into /usr, as on every Debian since 12; packages still name them.
var usrMerged = []string{"bin", "sbin", "lib", "lib64"}

// dropped are folders that no test looks into.
var dropped = []string{"/usr/share/", "/usr/lib/x86_64-linux-gnu/gconv/", "/usr/lib/systemd/", "/etc/init.d/", "/etc/default/", "/var/"}

// layer is files by path; of two files with one path the later one counts, as with packages that are installed over others.
type layer map[string]ociarchive.File

func (l layer) add(f ociarchive.File) { l[f.Path] = f }

func (l layer) program(path string, content []byte) {
	l.add(ociarchive.File{Path: path, Mode: 0o755, Content: content})
}

func (l layer) text(path, content string) {
	l.add(ociarchive.File{Path: path, Mode: 0o644, Content: []byte(content)})
}

func (l layer) link(path, target string) { l.add(ociarchive.File{Path: path, Link: target}) }

func (l layer) files() []ociarchive.File {
	var all []ociarchive.File
	for _, f := range l {
		all = append(all, f)
	}
	return all
}

// debian unpacks packages into a layer, as dpkg would without running their scripts.
func debian(debs []string) (layer, error) {
	l := layer{}
	for _, d := range usrMerged {
		l.link("/"+d, "usr/"+d)
	}
	for _, deb := range debs {
		cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("unpack %s: %w: %s", deb, err, strings.TrimSpace(stderr.String()))
		}
		if err := l.unpack(&stdout); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", deb, err)
		}
	}
	return l, nil
}

// unpack adds the files of a package's tar stream. Folders come by themselves with what is in them.
func (l layer) unpack(r io.Reader) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := merged(h.Name)
		if drop(name) {
			continue
		}
		f := ociarchive.File{Path: name, Mode: h.Mode, UID: h.Uid, GID: h.Gid}
		switch h.Typeflag {
		case tar.TypeReg:
			if f.Content, err = io.ReadAll(tr); err != nil {
				return err
			}
		case tar.TypeLink:
			f.Content, f.Mode = l[merged(h.Linkname)].Content, l[merged(h.Linkname)].Mode
		case tar.TypeSymlink:
			f.Link = h.Linkname
		default:
			continue
		}
		l.add(f)
	}
}

// merged is a package's path as it is on a system whose /bin is a link to /usr/bin.
func merged(name string) string {
	name = path.Clean("/" + name)
	top, rest, _ := strings.Cut(name[1:], "/")
	for _, d := range usrMerged {
		if top == d {
			return path.Join("/usr", d, rest)
		}
	}
	return name
}

func drop(name string) bool {
	for _, d := range dropped {
		if strings.HasPrefix(name, d) {
			return true
		}
	}
	return false
}
