// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/mini-k8s/mini/internal/netns"
)

func ptr[T any](v T) *T { return &v }

// TestWhatAContainerSees runs one container after the other in one sandbox and looks at what it prints.
func TestWhatAContainerSees(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	n.importImage("example.test/web:1", func(c *imagespec.ImageConfig) { c.User, c.WorkingDir = "web", "/tmp" })
	pod := testPod("sees")
	s := n.run(pod)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		script string
		change func(*ContainerConfig)
		want   string
		code   int32
	}{
		"root": {script: "id -u; id -g; id -G; pwd", want: "0\n0\n0\n/\n"},
		"users-of-the-image": {script: "id -u; id -g; id -G; pwd", want: "101\n102\n102 103\n/tmp\n",
			change: func(c *ContainerConfig) { c.Image = "example.test/web:1" }},
		"run-as": {script: "id -u; id -g; id -G", want: "7\n8\n8 5 6\n", change: func(c *ContainerConfig) {
			c.Pod = c.Pod.DeepCopy()
			c.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(7)), RunAsGroup: ptr(int64(9)), SupplementalGroups: []int64{5}, FSGroup: ptr(int64(6))}
			c.Container.SecurityContext = &corev1.SecurityContext{RunAsGroup: ptr(int64(8))}
		}},
		"strict-groups": {script: "id -u; id -G", want: "101\n102\n", change: func(c *ContainerConfig) {
			c.Pod = c.Pod.DeepCopy()
			c.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(101)), SupplementalGroupsPolicy: ptr(corev1.SupplementalGroupsPolicyStrict)}
		}},
		"exit-code":   {script: "exit 42", code: 42},
		"killed":      {script: "kill -9 $$; sleep 1; exit 3", code: 3}, // process 1 cannot kill itself
		"environment": {script: "env", want: "FROM=pod\n", change: func(c *ContainerConfig) { c.Command[2] = "env | grep FROM" }},
		"working-dir": {script: "pwd", want: "/etc\n", change: func(c *ContainerConfig) { c.Container.WorkingDir = "/etc" }},
		"read-only-root": {script: "touch /x || exit 5", code: 5, change: func(c *ContainerConfig) {
			c.Container.SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr(true)}
		}},
		"no-privileges": {script: "grep NoNewPrivs /proc/self/status", want: "NoNewPrivs:\t1\n", change: func(c *ContainerConfig) {
			c.Container.SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false)}
		}},
		"no-capabilities": {script: "grep CapEff /proc/self/status", want: "CapEff:\t0000000000000400\n", change: func(c *ContainerConfig) {
			c.Container.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}}}
		}},
		"capabilities": {script: "grep CapEff /proc/self/status", want: "CapEff:\t00000000a80425fb\n"},
		"unprivileged": {script: "mount -t tmpfs x /tmp 2>/dev/null || exit 6", code: 6},
		"privileged":   {script: "mount -t tmpfs x /tmp && ls /dev/null", want: "/dev/null\n", change: func(c *ContainerConfig) { c.Container.SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)} }},
		"seccomp": {script: "grep Seccomp: /proc/self/status", want: "Seccomp:\t2\n", change: func(c *ContainerConfig) {
			c.Container.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
		}},
		"no-seccomp": {script: "grep Seccomp: /proc/self/status", want: "Seccomp:\t0\n"},
		"masked":     {script: "cat /proc/kcore /proc/timer_list | dd bs=1 count=1 2>/dev/null; touch /proc/sys/kernel/x 2>/dev/null || exit 9", code: 9},
		"own-pids":   {script: "echo $$", want: "1\n"},
		"hostname":   {script: "hostname; echo $HOSTNAME", want: "sees\nsees\n"},
		"oom-score":  {script: "cat /proc/self/oom_score_adj", want: "1000\n"},
		"shm":        {script: "stat -f -c %T /dev/shm; echo hi > /dev/shm/kept", want: "tmpfs\n"},
		"mount": {script: "cat /data/file; echo x > /data/file || exit 8", want: "from the host\n", code: 8, change: func(c *ContainerConfig) {
			c.Mounts = []Mount{{HostPath: host, ContainerPath: "/data", ReadOnly: true}}
		}},
		"mount-in-mount": {script: "cat /data/sub/file", want: "from the host\n", change: func(c *ContainerConfig) {
			c.Mounts = []Mount{{HostPath: host, ContainerPath: "/data/sub"}, {HostPath: t.TempDir(), ContainerPath: "/data"}}
		}},
		"cpu-and-memory": {script: "cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes", want: "256\n50000\n33554432\n", change: func(c *ContainerConfig) {
			c.Container.Resources = corev1.ResourceRequirements{
				Requests: corev1.ResourceList{"cpu": resource.MustParse("250m")},
				Limits:   corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("32Mi")}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := n.script(s, pod, name, tc.script)
			if tc.change != nil {
				tc.change(&cfg)
			}
			if name == "cpu-and-memory" && n.host.Unified {
				t.Skip("reads files of cgroup v1")
			}
			text, c := n.output(s, pod, cfg)
			if !strings.HasPrefix(text, tc.want) || tc.want == "" && c.ExitCode == 0 || c.ExitCode != tc.code {
				t.Errorf("exit %d, output %q (%s)", c.ExitCode, text, c.Message)
			}
			if strings.HasPrefix(tc.script, "id -u; id -g; id -G") {
				groups := strings.Trim(fmt.Sprint(c.User.SupplementalGroups), "[]")
				if said := fmt.Sprintf("%d\n%d\n%s\n", c.User.UID, c.User.GID, groups); !strings.HasPrefix(text, said) {
					t.Errorf("reported as %q, is %q", said, text)
				}
			}
		})
	}
	// What one container left in shared memory the next one sees.
	if text, _ := n.output(s, pod, n.script(s, pod, "shm-again", "cat /dev/shm/kept")); text != "hi\n" {
		t.Errorf("shared memory: %q", text)
	}
}

func TestPodsNamespaces(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	ns := func(name string) string {
		link, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return link + "\n"
	}
	const show = "for i in net ipc uts pid; do echo $(ls -l /proc/self/ns/$i | grep -o '[a-z]*:\\[.*'); done"
	run := func(name string, change func(*corev1.PodSpec)) []string {
		pod := testPod(name)
		change(&pod.Spec)
		s := n.run(pod)
		if (s.NetNS == "") != pod.Spec.HostNetwork || (len(s.IPs) == 0) != pod.Spec.HostNetwork {
			t.Errorf("%s: sandbox %+v", name, s)
		}
		text, c := n.output(s, pod, n.script(s, pod, "main", show))
		lines := strings.SplitAfter(text, "\n")
		if len(lines) != 5 {
			t.Fatalf("%s: %d %q %s", name, c.ExitCode, text, c.Message)
		}
		return lines
	}
	host := []string{ns("net"), ns("ipc"), ns("uts"), ns("pid")}
	for name, tc := range map[string]struct {
		change func(*corev1.PodSpec)
		host   [4]bool // net, ipc, uts, pid are the host's
	}{
		"own":         {func(*corev1.PodSpec) {}, [4]bool{}},
		"hostnetwork": {func(s *corev1.PodSpec) { s.HostNetwork = true }, [4]bool{true, false, true, false}},
		"hostipc":     {func(s *corev1.PodSpec) { s.HostIPC = true }, [4]bool{false, true, false, false}},
		"hostpid":     {func(s *corev1.PodSpec) { s.HostPID = true }, [4]bool{false, false, false, true}},
	} {
		got := run(name, tc.change)
		for i, want := range tc.host {
			if (got[i] == host[i]) != want {
				t.Errorf("%s: %s, the host has %s", name, got[i], host[i])
			}
		}
	}
	pod := testPod("shared")
	pod.Spec.ShareProcessNamespace = ptr(true)
	s := n.run(pod)
	a := n.launch(n.script(s, pod, "a", "sleep 61 & sleep 60"))
	if text, _ := n.output(s, pod, n.script(s, pod, "b", "ps | grep -c 'sleep 6[01]'; ps | grep -c /[p]ause")); text != "2\n1\n" {
		// One sleep is a's shell's child, the other replaced the shell or is its child too.
		t.Errorf("processes of the pod: %q", text)
	}
	// The whole container ends with its first process, though another would live on in the pod's PID namespace.
	if err := n.StopContainer(t.Context(), a, 0); err != nil {
		t.Fatal(err)
	}
	if text, _ := n.output(s, pod, n.script(s, pod, "c", "ps | grep -c 'sleep 6[01]'")); text != "0\n" {
		t.Errorf("processes left: %q", text)
	}
}

func TestOOMKilled(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	pod := testPod("oom")
	s := n.run(pod)
	cfg := n.script(s, pod, "main", "exec dd if=/dev/zero of=/dev/null bs=64M count=1")
	cfg.Container.Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("16Mi")}
	if _, c := n.output(s, pod, cfg); !c.OOMKilled || c.ExitCode != 137 {
		t.Errorf("container %+v", c)
	}
}

func TestCannotStart(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	pod := testPod("cannot")
	s := n.run(pod)
	for name, tc := range map[string]struct {
		change func(*ContainerConfig)
		want   string
		code   int32
		create bool
	}{
		"no-such-program": {change: func(c *ContainerConfig) { c.Command = []string{"/nothing"} }, want: "no such file or directory", code: 127},
		"not-in-path":     {change: func(c *ContainerConfig) { c.Command = []string{"nothing"} }, want: "executable file not found", code: 127},
		"not-executable":  {change: func(c *ContainerConfig) { c.Command = []string{"/etc/passwd"} }, want: "permission denied", code: 126},
		"no-such-mount":   {change: func(c *ContainerConfig) { c.Mounts = []Mount{{HostPath: "/nowhere/at/all", ContainerPath: "/x"}} }, want: "no such file", code: 127},
		"no-image":        {change: func(c *ContainerConfig) { c.Image = "example.test/none:1" }, want: "image not found", create: true},
		"no-user":         {change: func(c *ContainerConfig) { c.Image = "example.test/ghost:1" }, want: "unable to find user ghost", create: true},
		"bad-profile": {change: func(c *ContainerConfig) {
			c.Container.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("../../x")}}
		}, want: "not below", create: true},
		"bad-capability": {change: func(c *ContainerConfig) {
			c.Container.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"FLY"}}}
		}, want: "FLY", create: true},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "no-user" {
				n.importImage("example.test/ghost:1", func(c *imagespec.ImageConfig) { c.User = "ghost" })
			}
			cfg := n.script(s, pod, name, "")
			tc.change(&cfg)
			made, err := n.CreateContainer(t.Context(), cfg)
			if !tc.create {
				if err != nil {
					t.Fatal(err)
				}
				err = n.StartContainer(t.Context(), made.ID)
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v does not say %q", err, tc.want)
			}
			if tc.create {
				return
			}
			if c := n.status(made.ID); c.State != Exited || c.ExitCode != tc.code || !strings.Contains(c.Message, tc.want) {
				t.Errorf("container %+v", c)
			}
			if err := n.StartContainer(t.Context(), made.ID); !errors.Is(err, ErrNotRunning) {
				t.Errorf("second start: %v", err)
			}
		})
	}
	if _, err := n.CreateContainer(t.Context(), n.script(Sandbox{ID: "none"}, pod, "x", "")); !errors.Is(err, ErrNotFound) {
		t.Errorf("create without a sandbox: %v", err)
	}
}

func TestSandboxUndone(t *testing.T) {
	n := newNode(t)
	n.network.failAdd = errors.New("no addresses left")
	_, err := n.RunSandbox(t.Context(), SandboxConfig{Pod: testPod("undone"), CgroupParent: n.cgroup})
	if !errors.Is(err, n.network.failAdd) {
		t.Fatal(err)
	}
	n.network.failAdd = nil
	if _, err := n.RunSandbox(t.Context(), SandboxConfig{Pod: testPod("undone"), CgroupParent: n.cgroup, Sysctls: map[string]string{"net.no.such": "1"}}); err == nil || !strings.Contains(err.Error(), "net.no.such") {
		t.Errorf("an unknown sysctl: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // a caller that has given up gets no sandbox, and nothing of one stays
	if _, err := n.RunSandbox(ctx, SandboxConfig{Pod: testPod("undone"), CgroupParent: n.cgroup}); err == nil {
		t.Error("a sandbox for a caller that is gone")
	}
	sandboxes, _, err := n.List(t.Context())
	if err != nil || len(sandboxes) != 0 || n.network.connected() != 0 {
		t.Errorf("left: %v, %v, %v", sandboxes, n.network.live, err)
	}
	for _, left := range n.leftovers() {
		t.Errorf("left behind: %s", left)
	}
	// A network that cannot let go is asked again.
	s := n.run(testPod("stuck"))
	n.network.failDel = errors.New("busy")
	if err := n.RemoveSandbox(t.Context(), s.ID); !errors.Is(err, n.network.failDel) {
		t.Errorf("remove: %v", err)
	}
	n.network.failDel = nil
	if err := n.RemoveSandbox(t.Context(), s.ID); err != nil {
		t.Errorf("remove again: %v", err)
	}
}

func TestSysctls(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	pod := testPod("sysctls")
	s, err := n.RunSandbox(t.Context(), SandboxConfig{Pod: pod, CgroupParent: n.cgroup, Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "81"}})
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := n.output(s, pod, n.script(s, pod, "main", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")); text != "81\n" {
		t.Errorf("sysctl %q", text)
	}
}

func TestTerminal(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	pod := testPod("tty")
	s := n.run(pod)
	cfg := n.script(s, pod, "main", "stty -echo; tty; while read line; do echo got $line; [ $line = end ] && exit 4; done")
	cfg.Container.TTY, cfg.Container.Stdin = true, true
	events := n.Events(t.Context())
	id := n.launch(cfg)
	var out bytes.Buffer
	sizes := make(chan TerminalSize, 1)
	sizes <- TerminalSize{Width: 91, Height: 33}
	code, err := n.Exec(t.Context(), id, []string{"sh", "-c", "while [ \"$(stty size 2>&1)\" != '33 91' ]; do sleep 0.01; done; tty; echo $TERM"},
		Streams{Stdin: strings.NewReader(""), Stdout: &out, TTY: true, Resize: sizes})
	if err != nil || code != 0 || !strings.HasPrefix(out.String(), "/dev/pts/") || !strings.Contains(out.String(), "xterm") {
		t.Errorf("exec: %d %v %q", code, err, out.String())
	}
	// Two clients see the same; one types.
	var wg sync.WaitGroup
	got := make([]transcript, 2)
	r, w := io.Pipe()
	for i := range got {
		streams := Streams{Stdout: &got[i], TTY: true}
		if i == 0 {
			streams.Stdin = r
		}
		wg.Go(func() {
			if err := n.Attach(t.Context(), id, streams); err != nil {
				t.Error(err)
			}
		})
	}
	// That a client is there shows when it sees something.
	for deadline := time.Now().Add(30 * time.Second); got[0].String() == "" || got[1].String() == ""; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the clients saw %q and %q", got[0].String(), got[1].String())
		}
		io.WriteString(w, "there?\n")
	}
	io.WriteString(w, "hello\n")
	io.WriteString(w, "end\n")
	wg.Wait()
	w.Close()
	for i := range got {
		if text := got[i].String(); !strings.Contains(text, "got hello") || !strings.Contains(text, "got end") {
			t.Errorf("client %d saw %q", i, text)
		}
	}
	if e := n.ended(events, id); e.ExitCode != 4 {
		t.Errorf("exit %+v", e)
	}
	if text := readLog(t, cfg.LogPath); !strings.Contains(text, "got hello") || !strings.Contains(text, "/dev/pts/0") {
		t.Errorf("log %q", text)
	}
}

// transcript is what a client has seen so far.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func TestStdinOnce(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	pod := testPod("stdin")
	s := n.run(pod)
	cfg := n.script(s, pod, "main", "cat; echo done >&2; exit 5")
	cfg.Container.Stdin, cfg.Container.StdinOnce = true, true
	events := n.Events(t.Context())
	id := n.launch(cfg)
	var stdout, stderr bytes.Buffer
	err := n.Attach(t.Context(), id, Streams{Stdin: strings.NewReader("typed\n"), Stdout: &stdout, Stderr: &stderr})
	if err != nil || stdout.String() != "typed\n" || stderr.String() != "done\n" {
		t.Errorf("attach: %v %q %q", err, stdout.String(), stderr.String())
	}
	if e := n.ended(events, id); e.ExitCode != 5 {
		t.Errorf("exit %+v", e)
	}
	if text := readLog(t, cfg.LogPath); text != "typed\ndone\n" {
		t.Errorf("log %q", text)
	}
}

func TestExec(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	pod := testPod("exec")
	s := n.run(pod)
	id := n.launch(n.script(s, pod, "main", "sleep 60"))
	var out, errs bytes.Buffer
	code, err := n.Exec(t.Context(), id, []string{"sh", "-c", "echo out; echo err >&2; exit 9"}, Streams{Stdout: &out, Stderr: &errs})
	if err != nil || code != 9 || out.String() != "out\n" || errs.String() != "err\n" {
		t.Errorf("exec: %d %v %q %q", code, err, out.String(), errs.String())
	}
	if _, err := n.Exec(t.Context(), id, []string{"nothing"}, Streams{}); err == nil || !strings.Contains(err.Error(), "executable file not found") {
		t.Errorf("exec of nothing: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := n.Exec(ctx, id, []string{"sleep", "50"}, Streams{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("exec beyond its time: %v after %v", err, time.Since(start))
	}
	out.Reset()
	if code, err := n.Exec(t.Context(), id, []string{"ps"}, Streams{Stdout: &out}); err != nil || code != 0 || strings.Contains(out.String(), "sleep 50") {
		t.Errorf("left running: %d %v %q", code, err, out.String())
	}
	if err := n.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Exec(t.Context(), id, []string{"true"}, Streams{}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("exec in what has ended: %v", err)
	}
	if err := n.Attach(t.Context(), id, Streams{}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("attach to what has ended: %v", err)
	}
}

func TestPortForward(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	pod := testPod("forward")
	s := n.run(pod)
	if err := netns.Do(s.NetNS, loopbackUp); err != nil {
		t.Fatal(err)
	}
	id := n.launch(n.script(s, pod, "main", "nc -l -p 8080 -e /bin/cat"))
	for n.listening(id, ":1F90") == false {
		time.Sleep(5 * time.Millisecond)
	}
	client, server := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- n.PortForward(t.Context(), s.ID, 8080, server) }()
	if _, err := io.WriteString(client, "through\n"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "through\n" {
		t.Errorf("answer %q, %v", got, err)
	}
	client.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	client, server = net.Pipe()
	defer client.Close()
	if err := n.PortForward(t.Context(), s.ID, 9, server); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("port-forward to nothing: %v", err)
	}
}

func (n *node) listening(id, port string) bool {
	var out bytes.Buffer
	if _, err := n.Exec(n.t.Context(), id, []string{"cat", "/proc/net/tcp", "/proc/net/tcp6"}, Streams{Stdout: &out}); err != nil {
		n.t.Fatal(err)
	}
	return strings.Contains(out.String(), port)
}

func TestUpdateResources(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	if n.host.Unified {
		t.Skip("reads files of cgroup v1")
	}
	pod := testPod("resize")
	s := n.run(pod)
	id := n.launch(n.script(s, pod, "main", "sleep 60"))
	err := n.UpdateResources(t.Context(), id, corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("2")}, Limits: corev1.ResourceList{"memory": resource.MustParse("48Mi")}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := n.Exec(t.Context(), id, []string{"cat", "/sys/fs/cgroup/cpu/cpu.shares", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}, Streams{Stdout: &out}); err != nil || out.String() != "2048\n50331648\n" {
		t.Errorf("after resize: %v %q", err, out.String())
	}
}

// TestTwoNodes runs two nodes in one process, one of them in a folder too long for a socket's path.
func TestTwoNodes(t *testing.T) {
	a := newNode(t)
	a.importImage(testImage, nil)
	base, err := os.MkdirTemp("", "mini-rt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	b := &node{t: t, dir: filepath.Join(base, strings.Repeat("long/", 30)), cgroup: "/" + filepath.Base(base), network: &fakeNetwork{}}
	t.Cleanup(func() { os.Remove(b.sockets) })
	t.Cleanup(b.destroy)
	b.start()
	if len(b.sockets) > 42 {
		t.Errorf("sockets lie in %s", b.sockets)
	}
	if images, err := b.ListImages(t.Context()); err != nil || len(images) != 0 {
		t.Errorf("images of a new node: %v, %v", images, err)
	}
	b.importImage(testImage, nil)
	for _, n := range []*node{a, b} {
		pod := testPod("same-name")
		s := n.run(pod)
		if text, c := n.output(s, pod, n.script(s, pod, "main", "echo here")); text != "here\n" {
			t.Errorf("output %q %+v", text, c)
		}
		sandboxes, containers, err := n.List(t.Context())
		if err != nil || len(sandboxes) != 1 || len(containers) != 1 {
			t.Errorf("listed %v %v %v", sandboxes, containers, err)
		}
	}
}

// TestManyAtOnce runs pods side by side and then takes them all away.
func TestManyAtOnce(t *testing.T) {
	n := newNode(t)
	n.importImage(testImage, nil)
	const pods = 12
	var wg sync.WaitGroup
	ids := make([]string, pods)
	start := time.Now()
	for i := range pods {
		wg.Go(func() {
			pod := testPod(fmt.Sprint("many-", i))
			s, err := n.RunSandbox(t.Context(), SandboxConfig{Pod: pod, CgroupParent: n.cgroup})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = s.ID
			made, err := n.CreateContainer(t.Context(), n.script(s, pod, "main", "sleep 60"))
			if err == nil {
				err = n.StartContainer(t.Context(), made.ID)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d pods run after %v", pods, time.Since(start))
	start = time.Now()
	for _, id := range ids {
		wg.Go(func() {
			if err := n.RemoveSandbox(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("removed after %v", time.Since(start))
}
