package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mini-k8s/mini/cluster"
)

// Cluster is a running cluster of one test.
type Cluster struct {
	*cluster.Cluster
	Client kubernetes.Interface
	Config *rest.Config // of Client, without a rate limit
	t      testing.TB

	kubectl    string // "" is KubectlPath
	kubeconfig string // "" is the cluster's
}

// Options of a test's cluster.
type Options struct {
	Agents     int
	Routed     bool // every node on a subnet of its own
	ServerArgs []string
	NodeArgs   []string
	Publish    []cluster.Publish
	// Created, if set, is called when the nodes' processes have been started; Dir is then the cluster's.
	Created func(*cluster.Cluster) error
	// Dir holds the cluster; a new one if empty. It is removed with the cluster.
	Dir string
}

// TempDir makes a directory for Options.Dir, for who needs to know it before the cluster is made.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mini-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Start makes a cluster, waits until its nodes are Ready, and removes it when the test ends.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	dir := o.Dir
	if dir == "" {
		dir = TempDir(t)
	}
	t.Setenv("KUBECONFIG", filepath.Join(dir, "user-kubeconfig")) // nobody else's is touched
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	begin := time.Now()
	c, err := cluster.Create(ctx, cluster.Options{
		Name: "e2e-" + strings.TrimPrefix(filepath.Base(dir), "mini-e2e-"), Agents: o.Agents, Images: []string{archive()},
		Dir: dir, Binary: Binary(), Routed: o.Routed, ServerArgs: o.ServerArgs, NodeArgs: o.NodeArgs, Publish: o.Publish,
		Env: []string{"GOTRACEBACK=all"}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &Cluster{Cluster: c, t: t}
	t.Cleanup(func() { s.end(dir) })
	if o.Created != nil {
		if err := o.Created(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitReady(ctx, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes Ready after %.2f s", len(c.Nodes), time.Since(begin).Seconds())
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	s.Config = config
	if s.Client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return s
}

// end leaves what a failure needs, removes the cluster and looks for what is left of it.
func (s *Cluster) end(dir string) {
	if s.t.Failed() {
		s.collect()
	}
	if os.Getenv("MINI_E2E_KEEP") == "1" {
		s.t.Logf("kept: %s", s.Dir())
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Delete(ctx); err != nil {
		s.t.Error(err)
	}
	if left := leftovers(dir, "mini-"+s.Name); len(left) > 0 {
		s.t.Errorf("left behind after the cluster was removed:\n%s", strings.Join(left, "\n"))
	}
	if err := os.RemoveAll(dir); err != nil {
		s.t.Error(err)
	}
}

// leftovers names mounts below dir, cgroups of the name and processes that mention dir.
func leftovers(dir, cgroup string) []string {
	var left []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			left = append(left, "mount: "+strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/" + cgroup, "/sys/fs/cgroup/*/" + cgroup} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			left = append(left, "cgroup: "+f)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		if bytes.Contains(b, []byte(dir)) && !strings.Contains(p, fmt.Sprintf("/%d/", os.Getpid())) {
			left = append(left, "process: "+string(bytes.ReplaceAll(b, []byte{0}, []byte(" "))))
		}
	}
	return left
}

// collect writes what a person needs to find out why the test failed.
func (s *Cluster) collect() {
	out := filepath.Join(root(), "e2e", "out", strings.ReplaceAll(s.t.Name(), "/", "_"))
	_ = os.RemoveAll(out)
	if err := os.MkdirAll(out, 0o755); err != nil {
		s.t.Log(err)
		return
	}
	save := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(out, name), b, 0o644); err != nil {
			s.t.Log(err)
		}
	}
	for _, n := range s.Nodes {
		log, _ := os.ReadFile(s.LogFile(n.Name))
		save(n.Name+".log", log)
		s.t.Logf("the last lines of %s:\n%s", n.Name, tail(log, 30))
		for name, command := range map[string][]string{
			"iptables": {"iptables-save"}, "links": {"ip", "-d", "addr"}, "routes": {"ip", "route", "show", "table", "all"},
			"neighbours": {"ip", "neigh"}, "sockets": {"ss", "-tulnp"},
		} {
			b, err := s.InNode(n.Name, 10*time.Second, command...)
			save(n.Name+"."+name, append(b, errorText(err)...))
		}
	}
	for name, args := range map[string][]string{
		"objects.yaml": {"get", "nodes,pods,services,endpoints,endpointslices,deployments,replicasets,events", "-A", "-o", "yaml"},
		"overview":     {"get", "nodes,pods,services,deployments", "-A", "-o", "wide"},
		"events":       {"get", "events", "-A", "--sort-by=.metadata.creationTimestamp"},
	} {
		b, err := s.TryKubectl(20*time.Second, args...)
		save(name, append(b, errorText(err)...))
		if name != "objects.yaml" {
			s.t.Logf("%s:\n%s", name, tail(b, 60))
		}
	}
	s.t.Logf("logs, objects, rules and links are in %s", out)
}

func errorText(err error) []byte {
	if err == nil {
		return nil
	}
	return []byte("\n" + err.Error() + "\n")
}

func tail(b []byte, lines int) []byte {
	all := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	return bytes.Join(all[max(0, len(all)-lines):], []byte("\n"))
}

func fields(b []byte) []string { return strings.Fields(string(b)) }

// Kubectl runs kubectl on the cluster and returns what it printed; a failure ends the test.
func (s *Cluster) Kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.TryKubectl(time.Minute, args...)
	if err != nil {
		s.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// With is the cluster for a subtest, as another kubectl sees it in a namespace of its own, which it makes.
func (s *Cluster) With(t testing.TB, kubectl, namespace string) *Cluster {
	t.Helper()
	config, err := clientcmd.LoadFromFile(s.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range config.Contexts {
		c.Namespace = namespace
	}
	other := &Cluster{
		Cluster: s.Cluster, Client: s.Client, Config: s.Config, t: t, kubectl: kubectl, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"),
	}
	if err := clientcmd.WriteToFile(*config, other.kubeconfig); err != nil {
		t.Fatal(err)
	}
	other.Kubectl("create", "namespace", namespace)
	return other
}

// Kubeconfig is what kubectl is run with.
func (s *Cluster) Kubeconfig() string {
	if s.kubeconfig != "" {
		return s.kubeconfig
	}
	return s.Cluster.Kubeconfig()
}

// KubectlCommand is kubectl on the cluster, to be started by the caller.
func (s *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	path := s.kubectl
	if path == "" {
		path = KubectlPath()
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig())
	return cmd
}

// TryKubectl runs kubectl for at most d and returns both outputs together.
func (s *Cluster) TryKubectl(d time.Duration, args ...string) ([]byte, error) {
	return s.TryKubectlInput(d, "", args...)
}

// Apply runs kubectl apply on a manifest.
func (s *Cluster) Apply(manifest string) {
	s.t.Helper()
	if out, err := s.TryKubectlInput(time.Minute, manifest, "apply", "-f", "-"); err != nil {
		s.t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// TryKubectlInput is TryKubectl with standard input.
func (s *Cluster) TryKubectlInput(d time.Duration, input string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), d)
	defer cancel()
	cmd := s.KubectlCommand(ctx, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return early.ReplaceAll(out, nil), err
}

// early is what kubectl 1.32 says when the empty message that opens an exec is there before its own streams are; later ones
// make their streams first.
var early = regexp.MustCompile(`(?m)^E\d+ .* websocket\.go:\d+\] Unknown stream id 1, discarding message\n`)

// KubectlPath is $MINI_E2E_KUBECTL, or the machine's, or the one in mini.
func KubectlPath() string {
	if k := os.Getenv("MINI_E2E_KUBECTL"); k != "" {
		return k
	}
	if k, err := exec.LookPath("kubectl"); err == nil {
		return k
	}
	return EmbeddedKubectl()
}

// EmbeddedKubectl is the kubectl that mini holds, as a file.
func EmbeddedKubectl() string { return filepath.Join(root(), "bin", "helpers", "kubectl") }

// InNode runs a command in a node's network for at most d and returns both outputs together.
func (s *Cluster) InNode(node string, d time.Duration, command ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), d)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.Do(node, cmd.Start); err != nil {
		return nil, err
	}
	err := cmd.Wait()
	return out.Bytes(), err
}

// Eventually calls check until it returns nil, at most for d; the last error ends the test.
func (s *Cluster) Eventually(d time.Duration, check func() error) {
	s.t.Helper()
	Eventually(s.t, d, check)
}

// Eventually calls check until it returns nil, at most for d; the last error ends the test. It is for what has no watch:
// answers of the network, files, processes.
func Eventually(t testing.TB, d time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", d, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
