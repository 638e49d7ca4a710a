package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"

	"github.com/mini-k8s/mini/internal/netns/netnstest"
)

// asPlugin makes the test binary the CNI plugin.
const asPlugin = "MINI_TEST_CNI_PLUGIN"

// callPlugin runs the plugin as a program in a node's namespace.
func callPlugin(t *testing.T, node, command, id, ns, conf string) (stdout string, err error) {
	t.Helper()
	err = netnsDo(node, func() error {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), asPlugin+"=1", "CNI_COMMAND="+command, "CNI_CONTAINERID="+id, "CNI_NETNS="+ns, "CNI_IFNAME=eth0",
			"CNI_PATH=/", "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME="+id)
		cmd.Stdin = strings.NewReader(conf)
		var out bytes.Buffer
		cmd.Stdout = &out
		err := cmd.Run()
		stdout = out.String()
		return err
	})
	return stdout, err
}

func TestPluginProgram(t *testing.T) {
	a := netnstest.Namespace(t)
	netnstest.Link(t, netnstest.End{NS: a, Name: "uplink", Addr: prefix("192.168.54.1/24")}, netnstest.End{NS: netnstest.Namespace(t), Name: "x"})
	conf := func(dir string) string {
		return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"pods","type":"mini","dataDir":%q,"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}}`, dir)
	}
	if out, err := callPlugin(t, a, "STATUS", "", "", conf(t.TempDir())); err == nil || !strings.Contains(out, `"code": 50`) {
		t.Errorf("STATUS before the node is set up: %v, %s", err, out)
	}
	node := newTestNode(t, a, "a", "192.168.54.1", nodeObject("a", "192.168.54.1", "10.42.0.0/24"))
	good := conf(node.net.cfg.DataDir)
	pod := netnstest.Namespace(t)
	serve(t, pod, "tcp", ":80")
	out, err := callPlugin(t, a, "ADD", "p1", pod, good)
	var res types100.Result
	if err != nil || json.Unmarshal([]byte(out), &res) != nil || len(res.IPs) != 1 || res.IPs[0].Address.String() != "10.42.0.2/24" || res.CNIVersion != "1.1.0" {
		t.Fatalf("ADD: %v, %s", err, out)
	}
	wantCall(t, "hostPort of a pod that the plugin connected", a, "tcp", "192.168.54.1:8080", "192.168.54.1")
	for _, command := range []string{"STATUS", "CHECK"} {
		conf := strings.TrimSuffix(good, "}") + `,"prevResult":` + out + "}"
		if text, err := callPlugin(t, a, command, "p1", pod, conf); err != nil {
			t.Errorf("%s: %v, %s", command, err, text)
		}
	}
	if out, err := callPlugin(t, a, "CHECK", "p2", pod, good); err == nil {
		t.Errorf("CHECK of an unknown container succeeds: %s", out)
	}
	if out, err := callPlugin(t, a, "VERSION", "", "", good); err != nil || !strings.Contains(out, "1.1.0") {
		t.Errorf("VERSION: %v, %s", err, out)
	}
	// The agent's own rounds keep what the plugin did.
	node.sync()
	wantCall(t, "hostPort after a round", a, "tcp", "192.168.54.1:8080", "192.168.54.1")
	gc := strings.TrimSuffix(good, "}") + `,"cni.dev/valid-attachments":[{"containerID":"p1","ifname":"eth0"}]}`
	if out, err := callPlugin(t, a, "GC", "", "", gc); err != nil {
		t.Errorf("GC: %v, %s", err, out)
	}
	wantCall(t, "hostPort after GC", a, "tcp", "192.168.54.1:8080", "192.168.54.1")
	for range 2 {
		if out, err := callPlugin(t, a, "DEL", "p1", pod, good); err != nil {
			t.Errorf("DEL: %v, %s", err, out)
		}
	}
	if s := state(t, a); strings.Contains(s, "8080") || strings.Contains(s, linkName("p1", "eth0")) {
		t.Errorf("DEL left something:\n%s", s)
	}
	for _, bad := range []string{"", "{", `{"cniVersion":"1.1.0","name":"x","type":"mini"}`} {
		if out, err := callPlugin(t, a, "ADD", "p3", pod, bad); err == nil || !strings.Contains(out, "code") {
			t.Errorf("ADD with configuration %q: %v, %s", bad, err, out)
		}
	}
}

// fakePlugin is somebody's plugin: it makes a dummy address and writes down what it was called with.
const fakePlugin = `#!/bin/sh
cat > "$CNI_FAKE_DIR/$CNI_COMMAND.json"
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_ARGS" >> "$CNI_FAKE_DIR/calls"
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
ADD) [ -e "$CNI_FAKE_DIR/fail" ] && { echo '{"code":11,"msg":"come again"}'; exit 1; }
  echo '{"cniVersion":"1.0.0","ips":[{"address":"172.30.0.5/16"}]}' ;;
esac
`

func TestConflist(t *testing.T) {
	netnstest.NeedRoot(t)
	dir := t.TempDir()
	t.Setenv("CNI_FAKE_DIR", dir)
	node := netnstest.Namespace(t)
	netnstest.Link(t, netnstest.End{NS: node, Name: "uplink", Addr: prefix("192.168.55.1/24")}, netnstest.End{NS: netnstest.Namespace(t), Name: "x"})
	n := newTestNode(t, node, "a", "192.168.55.1", nodeObject("a", "192.168.55.1", "10.42.0.0/24"))
	cfg := n.net.cfg
	write := func(path, text string, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	calls := func() string {
		data, _ := os.ReadFile(filepath.Join(dir, "calls"))
		_ = os.Remove(filepath.Join(dir, "calls"))
		return string(data)
	}
	before, _ := n.pod("ours")
	write(filepath.Join(cfg.BinDir, "fake"), fakePlugin, 0o755)
	write(filepath.Join(cfg.ConfDir, "10-fake.conflist"), `{"cniVersion":"1.0.0","name":"fake","plugins":[{"type":"fake","capabilities":{"portMappings":true}}]}`, 0o644)
	ctx := context.Background()
	pod := Pod{SandboxID: "theirs", Namespace: "ns", Name: "web", UID: "u", NetNS: netnstest.Namespace(t), Ports: []PortMapping{{HostPort: 80, ContainerPort: 8080, Protocol: "TCP"}}}
	for range 2 {
		res, err := n.net.Add(ctx, pod)
		if err != nil || len(res.IPs) != 1 || res.IPs[0] != addr("172.30.0.5") {
			t.Fatalf("Add: %v %v", res, err)
		}
	}
	if c := calls(); strings.Count(c, "ADD theirs") != 1 || !strings.Contains(c, "K8S_POD_NAME=web") || !strings.Contains(c, "K8S_POD_NAMESPACE=ns") {
		t.Errorf("calls: %s", c)
	}
	if conf, _ := os.ReadFile(filepath.Join(dir, "ADD.json")); !strings.Contains(string(conf), `"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp"}]`) {
		t.Errorf("configuration: %s", conf)
	}
	// A failing plugin is undone.
	write(filepath.Join(dir, "fail"), "", 0o644)
	calls()
	failing := pod
	failing.SandboxID = "failing"
	if _, err := n.net.Add(ctx, failing); err == nil || !strings.Contains(err.Error(), "come again") {
		t.Errorf("Add with a failing plugin: %v", err)
	}
	if c := calls(); !strings.Contains(c, "DEL failing") {
		t.Errorf("a failed ADD is not undone: %s", c)
	}
	// A pod that our own network connected is still ours to disconnect, and theirs goes by the configuration it came with.
	netnstest.Do(t, node, func() error {
		if err := n.net.Del(ctx, Pod{SandboxID: "ours", NetNS: before}); err != nil {
			return err
		}
		if _, err := netlink.LinkByName(linkName("ours", "eth0")); !isLinkNotFound(err) {
			t.Errorf("our pod's link: %v", err)
		}
		return nil
	})
	if err := os.Remove(filepath.Join(cfg.ConfDir, "10-fake.conflist")); err != nil {
		t.Fatal(err)
	}
	if err := n.net.Prune(ctx, []string{"theirs"}); err != nil {
		t.Error(err)
	}
	if c := calls(); c != "" {
		t.Errorf("Prune of a live sandbox calls %s", c)
	}
	netnstest.Do(t, node, func() error { return n.net.Prune(ctx, nil) })
	if c := calls(); !strings.Contains(c, "DEL theirs") {
		t.Errorf("Prune calls %s", c)
	}
	// Our own plugin in somebody's conflist runs in this process.
	write(filepath.Join(cfg.ConfDir, "10-mini.conflist"), `{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"mini"}]}`, 0o644)
	ns := netnstest.Namespace(t)
	netnstest.Do(t, node, func() error {
		res, err := n.net.Add(ctx, Pod{SandboxID: "inproc", NetNS: ns})
		if err != nil || !prefix("10.42.0.0/24").Contains(res.IPs[0]) {
			t.Errorf("Add by our plugin in a conflist: %v %v", res, err)
		}
		return n.net.Del(ctx, Pod{SandboxID: "inproc", NetNS: ns})
	})
	if l, _ := n.net.attach.leases.read(); len(l.Items) != 0 {
		t.Errorf("leases left: %+v", l.Items)
	}
	write(filepath.Join(cfg.ConfDir, "00-broken.conflist"), `{"cniVersion":`, 0o644)
	if _, err := n.net.Add(ctx, pod); err == nil || !strings.Contains(err.Error(), "00-broken.conflist") {
		t.Errorf("a broken conflist: %v", err)
	}
}

// FuzzConf feeds the plugin configurations.
func FuzzConf(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"pods","type":"mini","dataDir":"/nowhere"}`), "ADD")
	f.Add([]byte(`{"runtimeConfig":{"portMappings":[{"hostPort":-1}]}}`), "DEL")
	exec := pluginExec{PluginDecoder: &version.PluginDecoder{}, plugin: plugin{dataDir: f.TempDir()}}
	f.Fuzz(func(t *testing.T, conf []byte, command string) {
		if strings.Contains(string(conf), "dataDir") && !strings.Contains(string(conf), "/nowhere") {
			return // do not let it choose where to write
		}
		if command == "ADD" {
			if _, err := exec.ExecPlugin(context.Background(), inProcess, conf, []string{"CNI_COMMAND=ADD"}); err == nil {
				t.Error("ADD succeeds on a node that is not set up")
			}
			return
		}
		if command == "VERSION" {
			if _, err := exec.ExecPlugin(context.Background(), inProcess, conf, []string{"CNI_COMMAND=VERSION"}); err != nil {
				t.Error(err)
			}
		}
	})
}
