package scenario

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/internal/ociarchive"
)

// Image is the test image; Image2 is the same under another name, for roll-outs. Their program is e2e/testserver, and
// busybox's shell and tools are beside it.
const (
	Image  = "docker.io/mini/e2e:1"
	Image2 = "docker.io/mini/e2e:2"
)

// ranges are what the tests' clusters use: nodes, pods and Services.
var ranges = []string{"172.31.250.0/24", "10.42.0.0/16", "10.43.0.0/16"}

// root is the repository's root.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Binary is the mini that is tested.
func Binary() string { return filepath.Join(root(), "bin", "mini") }

func archive() string { return filepath.Join(root(), "bin", "images", "e2e.tar") }

// Main runs a package's tests: func TestMain(m *testing.M) { os.Exit(scenario.Main(m)) }.
func Main(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("the end-to-end tests make network namespaces and containers: run them as root")
		return 1
	}
	if _, err := os.Stat(Binary()); err != nil {
		fmt.Println("bin/mini is not there: run `make build` first")
		return 1
	}
	if err := buildImage(); err != nil {
		fmt.Println("build the test image:", err)
		return 1
	}
	defer closeRanges()()
	return m.Run()
}

// closeRanges adds blackhole routes for the tests' ranges and returns what takes them away.
func closeRanges() func() {
	var made []*netlink.Route
	for _, r := range ranges {
		_, dst, err := net.ParseCIDR(r)
		if err != nil {
			panic(err) // a constant of this file
		}
		route := &netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE}
		if err := netlink.RouteAdd(route); err == nil {
			made = append(made, route)
		} else if !errors.Is(err, os.ErrExist) {
			fmt.Printf("no blackhole route for %s: %v\n", r, err)
		}
	}
	return func() {
		for _, r := range made {
			if err := netlink.RouteDel(r); err != nil {
				fmt.Printf("blackhole route %s stays: %v\n", r.Dst, err)
			}
		}
	}
}

// buildImage builds the test image from e2e/testserver and Debian's busybox-static.
func buildImage() error {
	program := filepath.Join(root(), "bin", "images", "testserver")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./e2e/testserver")
	build.Dir, build.Env = root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	server, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	files, err := busybox()
	if err != nil {
		return err
	}
	files = append(files, ociarchive.File{Path: "/testserver", Mode: 0o755, Content: server},
		ociarchive.File{Path: "/tmp", Mode: 0o1777, Dir: true},
		ociarchive.File{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n")},
		ociarchive.File{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:\nuser:x:1000:\n")})
	out, err := os.Create(archive())
	if err != nil {
		return err
	}
	return errors.Join(ociarchive.Write(out, ociarchive.Image{
		Names: []string{Image, Image2}, Files: files,
		Config: ocispec.ImageConfig{Entrypoint: []string{"/testserver"}, Env: []string{"PATH=/bin:/usr/bin"}, WorkingDir: "/"},
	}), out.Close())
}

// busybox is the static busybox with a link for every applet.
func busybox() ([]ociarchive.File, error) {
	content, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("%w; `make deps` installs busybox-static", err)
	}
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	files := []ociarchive.File{{Path: "/bin/busybox", Mode: 0o755, Content: content}}
	for _, applet := range fields(list) {
		if applet != "busybox" {
			files = append(files, ociarchive.File{Path: "/bin/" + applet, Link: "busybox"})
		}
	}
	return files, nil
}
