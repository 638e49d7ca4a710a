package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mini-k8s/mini/internal/ociarchive"
)

const (
	registry = "registry.k8s.io/"
	e2eTest  = registry + "e2e-test-images/"
	pathEnv  = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// programs are what is not in a Debian package.
type programs struct {
	agnhost, nnp, pause, sh []byte
	porter                  string // folder of a certificate and its key, which agnhost's porter and some probes read
}

// standIns lists the images: the references of upstream's test/utils/image/manifest.go at v1.36.3, and what its tests call.
func standIns(system layer, p programs) ([]ociarchive.Image, error) {
	bash, ok := system["/usr/bin/bash-static"]
	if !ok {
		return nil, errors.New("the packages must have bash-static")
	}
	box, ok := system["/usr/bin/busybox"]
	if !ok {
		return nil, errors.New("the packages must have busybox-static")
	}
	applets, err := applets(box.Content)
	if err != nil {
		return nil, err
	}
	delete(system, "/usr/bin/bash-static")
	complete(system, bash.Content, applets)
	base := [][]ociarchive.File{system.files()}

	agnhost, err := agnhostLayer(p)
	if err != nil {
		return nil, err
	}
	agnhostBase := append(base, agnhost.files())
	server := config("/agnhost", "test-webserver")
	return []ociarchive.Image{
		{Names: []string{e2eTest + "agnhost:2.63.0", e2eTest + "agnhost:2.55"}, Base: base, Files: agnhost.files(), Config: config("/agnhost", "pause")},
		// Nothing is ever read from nginx: it has to run and to listen.
		{Names: []string{e2eTest + "nginx:1.15-4"}, Base: base, Files: agnhost.files(), Config: server},
		{Names: []string{e2eTest + "nautilus:1.8"}, Base: agnhostBase, Files: picture("nautilus", "Debian GNU/Linux"), Config: server},
		{Names: []string{e2eTest + "kitten:1.8"}, Base: agnhostBase, Files: picture("kitten", "Alpine Linux"), Config: server},
		{Names: []string{e2eTest + "glibc-dns-testing:2.0.0"}, Base: base, Config: command("/bin/sh")},
		{Names: []string{e2eTest + "busybox:1.37.0-1"}, Files: busybox(box.Content, bash.Content, p.sh, applets), Config: command("sh")},
		{Names: []string{e2eTest + "nonewprivs:1.4"}, Files: []ociarchive.File{
			{Path: "/usr/local/bin/nnp", Mode: 0o6755, Content: p.nnp},
		}, Config: command("nnp")},
		{Names: []string{registry + "pause:3.10.2"}, Files: []ociarchive.File{
			{Path: "/pause", Mode: 0o755, Content: p.pause},
		}, Config: config("/pause")},
	}, nil
}

func config(entrypoint string, args ...string) ocispec.ImageConfig {
	return ocispec.ImageConfig{Entrypoint: []string{entrypoint}, Cmd: args, Env: []string{pathEnv}, WorkingDir: "/"}
}

func command(args ...string) ocispec.ImageConfig {
	return ocispec.ImageConfig{Cmd: args, Env: []string{pathEnv}}
}

// complete makes a system of unpacked packages: a shell, users, /tmp, and busybox's applets where no package brings the
// program. The shell is bash: dash and busybox's own drop environment variables whose names have a dash or a dot, which
// tests read back.
func complete(system layer, bash []byte, applets []string) {
	system.program("/usr/bin/bash", bash)
	system.link("/usr/bin/sh", "bash")
	system.link("/usr/bin/nc", "nc.openbsd") // what the package's scripts would do
	for _, a := range applets {
		_, there := system["/usr/bin/"+a]
		_, sbin := system["/usr/sbin/"+a]
		if !there && !sbin {
			system.link("/usr/bin/"+a, "busybox")
		}
	}
	system.add(ociarchive.File{Path: "/tmp", Mode: 0o1777, Dir: true})
	system.add(ociarchive.File{Path: "/var/tmp", Mode: 0o1777, Dir: true})
	system.add(ociarchive.File{Path: "/root", Mode: 0o700, Dir: true})
	system.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nuser-defined-in-image:x:1000:1000::/:/bin/sh\n")
	system.text("/etc/group", "root:x:0:\nnogroup:x:65534:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n")
	system.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
}

// agnhostLayer is agnhost's program with the files that tests expect beside it.
func agnhostLayer(p programs) (layer, error) {
	l := layer{}
	l.program("/agnhost", p.agnhost)
	l.link("/agnhost-2", "agnhost")
	l.add(ociarchive.File{Path: "/uploads", Mode: 0o755, Dir: true})
	for _, name := range []string{"localhost.crt", "localhost.key"} {
		content, err := os.ReadFile(filepath.Join(p.porter, name))
		if err != nil {
			return nil, err
		}
		l.text("/"+name, string(content))
	}
	return l, nil
}

// picture is what the update demo reads from its images, and the system whose name the image volume's test reads.
func picture(name, system string) []ociarchive.File {
	l := layer{}
	l.text("/data.json", fmt.Sprintf("{\n  \"image\": %q\n}\n", name+".jpg"))
	l.text("/etc/os-release", fmt.Sprintf("NAME=%q\n", system))
	return l.files()
}

// busybox is the small system: one program under the names of all its applets.
func busybox(box, bash, sh []byte, applets []string) []ociarchive.File {
	l := layer{}
	l.program("/bin/busybox", box)
	for _, a := range applets {
		if a != "busybox" { // it is one of its own applets
			l.link("/bin/"+a, "busybox")
		}
	}
	l.program("/bin/bash", bash)
	l.program("/bin/sh", sh)
	l.add(ociarchive.File{Path: "/tmp", Mode: 0o1777, Dir: true})
	l.add(ociarchive.File{Path: "/root", Mode: 0o700, Dir: true})
	l.add(ociarchive.File{Path: "/home", Mode: 0o755, Dir: true})
	l.add(ociarchive.File{Path: "/var/tmp", Mode: 0o1777, Dir: true})
	l.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")
	l.text("/etc/group", "root:x:0:\nnobody:x:65534:\n")
	l.link("/usr/bin", "../bin")
	return l.files()
}

// applets asks a busybox for the names under which it can be called.
func applets(box []byte) ([]string, error) {
	f, err := os.CreateTemp("", "busybox-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(box)
	if err := errors.Join(err, f.Chmod(0o700), f.Close()); err != nil {
		return nil, err
	}
	out, err := exec.Command(f.Name(), "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	return strings.Fields(string(out)), nil
}
