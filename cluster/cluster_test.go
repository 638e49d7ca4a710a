package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/mini-k8s/mini/internal/leftovers"
)

func TestParsePublish(t *testing.T) {
	for in, want := range map[string]Publish{
		"8080:30080": {8080, 30080}, "1:65535": {1, 65535},
		"": {}, "80": {}, "80:": {}, ":80": {}, "0:80": {}, "80:65536": {}, "a:b": {}, "1:2:3": {},
	} {
		got, err := ParsePublish(in)
		if got != want || (err == nil) != (want != Publish{}) {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
}

func TestPrepare(t *testing.T) {
	c, err := prepare(Options{Name: "dev", Agents: 2, Binary: "/bin/true", Dir: "/x"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range c.Nodes {
		got = append(got, n.Name+" "+n.IP.String())
	}
	if want := "server 172.31.250.1, agent-1 172.31.250.2, agent-2 172.31.250.3"; strings.Join(got, ", ") != want {
		t.Errorf("nodes %v", got)
	}
	for _, o := range []Options{{Name: ""}, {Name: "-x"}, {Name: "X"}, {Name: "a/b"}, {Name: "ok", Agents: -1}, {Name: "ok", Agents: 101}} {
		if _, err := prepare(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

// TestCrashWhileCreating: whatever a crash leaves of a half-made cluster, it can be found, listed and deleted.
func TestCrashWhileCreating(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := prepare(Options{Name: "claimed", Binary: "/bin/true", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.claim(); err != nil {
		t.Fatal(err)
	}
	if err := c.claim(); !errors.Is(err, ErrExists) {
		t.Errorf("claimed twice: %v", err)
	}
	all, err := List(dir, nil)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d clusters, %v", len(all), err)
	}
	for _, c := range all {
		if err := c.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := Open(dir, "claimed", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("open after delete: %v", err)
	}
}

// TestCreateFails: the error names its cause, and nothing of the cluster is left.
func TestCreateFails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces")
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	for name, o := range map[string]Options{
		"no-image":   {Binary: "/bin/true", Images: []string{"/none/image.tar"}},
		"no-program": {Binary: "/none/mini"},
	} {
		t.Run(name, func(t *testing.T) {
			o.Name, o.Dir, o.Agents = name, t.TempDir(), 1
			if _, err := Create(t.Context(), o); err == nil || !strings.Contains(err.Error(), "/none/") {
				t.Errorf("error %v", err)
			}
			if left, _ := os.ReadDir(o.Dir); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if left := leftovers.MountsBelow(o.Dir); len(left) > 0 {
				t.Errorf("mounts left: %v", left)
			}
		})
	}
}

// TestKubeconfig: a cluster's context comes into the user's file and goes again, and whatever else is there stays.
func TestKubeconfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "config")
	t.Setenv("KUBECONFIG", path)
	c, err := prepare(Options{Name: "dev", Binary: "/bin/true", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	own := api.NewConfig()
	own.Clusters["mini-dev"] = &api.Cluster{Server: "https://127.0.0.1:1"}
	own.AuthInfos["mini-dev"] = &api.AuthInfo{Token: "x"}
	own.Contexts["mini-dev"] = &api.Context{Cluster: "mini-dev", AuthInfo: "mini-dev"}
	if err := clientcmd.WriteToFile(*own, c.Kubeconfig()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.MergeKubeconfig(); err != nil {
		t.Fatal(err)
	}
	if user, err := clientcmd.LoadFromFile(path); err != nil || user.CurrentContext != "mini-dev" || user.Clusters["mini-dev"] == nil {
		t.Fatalf("%+v, %v", user, err)
	}
	if err := c.forgetContext(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a kubeconfig that only we filled stays: %v", err)
	}

	other := api.NewConfig()
	other.Clusters["home"] = &api.Cluster{Server: "https://192.0.2.1:6443"}
	other.Contexts["home"] = &api.Context{Cluster: "home"}
	other.CurrentContext = "home"
	if err := clientcmd.WriteToFile(*other, path); err != nil {
		t.Fatal(err)
	}
	if err := c.forgetContext(); err != nil {
		t.Fatal(err)
	}
	if user, err := clientcmd.LoadFromFile(path); err != nil || user.CurrentContext != "home" || user.Clusters["home"] == nil {
		t.Errorf("somebody else's context was changed: %+v, %v", user, err)
	}
}

// TestNetwork makes the namespaces of two nodes, whose addresses must reach each other, and cuts one off.
func TestNetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces")
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	c, err := prepare(Options{Name: "net", Agents: 1, Binary: "/bin/true", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(t.Context()); err != nil {
			t.Error(err)
		}
		if left := leftovers.MountsBelow(c.dir); len(left) > 0 {
			t.Errorf("mounts left: %v", left)
		}
	})
	if err := c.claim(); err != nil {
		t.Fatal(err)
	}
	if err := c.makeNetwork(); err != nil {
		t.Fatal(err)
	}
	if err := echo(t, c, 30*time.Second); err != nil {
		t.Error(err)
	}
	if err := c.SetLink("agent-1", false); err != nil {
		t.Fatal(err)
	}
	if err := echo(t, c, time.Second); err == nil {
		t.Error("a node that is cut off was reached")
	}
	if err := c.SetLink("agent-1", true); err != nil {
		t.Fatal(err)
	}
	if err := echo(t, c, 30*time.Second); err != nil {
		t.Errorf("after the cable was back: %v", err)
	}
}
