// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/mini-k8s/mini/cni"
	"github.com/mini-k8s/mini/internal/helpers"
	"github.com/mini-k8s/mini/internal/ociarchive"
	"github.com/mini-k8s/mini/kubelet/cgroup"
	"github.com/mini-k8s/mini/kubelet/container"
)

// addresses is a pod network that hands out addresses and connects nothing: what these tests need of a network goes through
// the pods' own loopback, or the node's.
type addresses struct {
	mu   sync.Mutex
	next byte
}

func (a *addresses) Add(context.Context, cni.Pod) (cni.Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next++
	return cni.Result{IPs: []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, a.next})}}, nil
}
func (*addresses) Del(context.Context, cni.Pod) error    { return nil }
func (*addresses) Prune(context.Context, []string) error { return nil }

const busyboxImage = "example.test/busybox:1"

// realNode is a kubelet on a real containerd, with the API faked.
type realNode struct {
	*rig
	dir, cgroup string
	rtime       *container.Containerd
	stopRuntime func()
	srv         *httptest.Server
}

func newRealNode(t *testing.T) *realNode {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := helpers.Unpack(t.TempDir(), helpers.Runc); errors.Is(err, helpers.ErrMissing) {
		t.Skip(err)
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs Debian's busybox-static: ", err)
	}
	dir, err := os.MkdirTemp("", "mini-kubelet-")
	if err != nil {
		t.Fatal(err)
	}
	n := &realNode{rig: &rig{t: t, cs: fake.NewClientset(), events: &recorder{}}, dir: dir, cgroup: "/" + filepath.Base(dir)}
	t.Cleanup(n.destroy)
	n.startRuntime()
	var archive bytes.Buffer
	files := []ociarchive.File{{Path: "/bin/busybox", Mode: 0o755, Content: program}}
	for _, applet := range []string{"sh", "sleep", "cat", "echo", "ls", "httpd", "id", "env", "test", "touch", "true"} {
		files = append(files, ociarchive.File{Path: "/bin/" + applet, Link: "busybox"})
	}
	if err := ociarchive.Write(&archive, ociarchive.Image{Names: []string{busyboxImage}, Files: files, Config: ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.rtime.Import(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	n.startKubelet()
	return n
}

func (n *realNode) startRuntime() {
	n.t.Helper()
	c, err := container.New(container.Config{DataDir: n.dir, HelperDir: filepath.Join(os.TempDir(), "mini-test-helpers"), CgroupRoot: n.cgroup, Network: &addresses{}, Logger: n.logger()})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	n.rtime = c
	n.stopRuntime = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("runtime: %v", err)
		}
	})
	select {
	case <-c.Ready():
	case err := <-done:
		n.stopRuntime = func() {}
		n.t.Fatal(err)
	}
}

func (n *realNode) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(n.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func (n *realNode) startKubelet() {
	n.t.Helper()
	groups, err := cgroup.New(cgroup.Config{Root: n.cgroup})
	if err != nil {
		n.t.Fatal(err)
	}
	n.cfg = Config{Cgroups: groups, NodeName: "n1", NodeIPs: []net.IP{net.ParseIP("127.0.0.1")}, DataDir: n.dir, Client: n.cs, Runtime: n.rtime, Images: n.rtime,
		CgroupRoot: n.cgroup, Version: "v1.36.0", Events: n.events, Logger: n.logger()}
	k, err := New(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.k = k
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	n.srv = httptest.NewServer(k.Handler())
	n.stop = sync.OnceFunc(func() {
		n.srv.CloseClientConnections()
		n.srv.Close()
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("kubelet: %v", err)
		}
	})
}

// destroy takes everything down and looks for what is left.
func (n *realNode) destroy() {
	t := n.t
	n.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	sandboxes, _, err := n.rtime.List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, s := range sandboxes {
		if err := n.rtime.RemoveSandbox(ctx, s.ID); err != nil {
			t.Error(err)
		}
	}
	n.stopRuntime()
	uids, err := n.k.volumes.Pods()
	if err != nil {
		t.Error(err)
	}
	for _, uid := range uids {
		if err := n.k.volumes.Teardown(uid); err != nil {
			t.Error(err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.dir) {
			t.Errorf("mount left: %s", line)
		}
	}
	if err := os.RemoveAll(n.dir); err != nil {
		t.Error(err)
	}
	if groups, err := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup + "/kubepods/*/pod*"); err != nil || len(groups) > 0 {
		t.Errorf("cgroups of pods left: %v, %v", groups, err)
	}
	groups, err := cgroup.New(cgroup.Config{Root: n.cgroup})
	if err == nil {
		err = groups.Remove()
	}
	if err != nil {
		t.Error(err)
	}
}

func (n *realNode) make(p *corev1.Pod) {
	n.t.Helper()
	if _, err := n.cs.CoreV1().Pods("default").Create(n.t.Context(), p, metav1.CreateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// until waits for a pod to be as f wants it.
func (n *realNode) until(name, what string, f func(p *corev1.Pod) bool) *corev1.Pod {
	n.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		p := n.get(name)
		if f(p) {
			return p
		}
		if time.Now().After(deadline) {
			n.events.mu.Lock()
			defer n.events.mu.Unlock()
			n.t.Fatalf("pod %s is not %s: %+v\nevents %q", name, what, p.Status, n.events.all)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func isReady(p *corev1.Pod) bool { return cond(p, corev1.PodReady).Status == corev1.ConditionTrue }

func (n *realNode) remove(name string, grace int64) {
	n.t.Helper()
	p := n.get(name).DeepCopy()
	now := metav1.Now()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	if err := n.cs.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), p, "default"); err != nil {
		n.t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for n.exists(name) {
		if time.Now().After(deadline) {
			n.t.Fatalf("pod %s is still there: %+v", name, n.get(name).Status)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func script(name, s string) corev1.Container {
	return corev1.Container{Name: name, Image: busyboxImage, Command: []string{"/bin/sh", "-c", s}, TerminationMessagePath: "/dev/termination-log"}
}

func (n *realNode) exec(pod, c string, command ...string) (string, error) {
	n.t.Helper()
	q := url.Values{"command": command, "output": {"1"}, "error": {"1"}}
	var out, errOut bytes.Buffer
	err := executors(n.t, n.srv, "/exec/default/"+pod+"/"+c, q)["websocket-v5"].StreamWithContext(n.t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut})
	return out.String() + errOut.String(), err
}

// TestRealPod runs one pod through everything: init container, sidecar, environment, volumes, probes of three kinds, logs, exec, restart, deletion.
func TestRealPod(t *testing.T) {
	n := newRealNode(t)
	for _, o := range []*corev1.ConfigMap{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm", ResourceVersion: "1"}, Data: map[string]string{"k": "from-config"}}} {
		if _, err := n.cs.CoreV1().ConfigMaps("default").Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.cs.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"p": []byte("hidden")}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	always, gid := corev1.ContainerRestartPolicyAlways, int64(2000)
	m := []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}, {Name: "cm", MountPath: "/cm"}, {Name: "shared", MountPath: "/sub", SubPath: "a/b"}, {Name: "s", MountPath: "/secret", ReadOnly: true}}
	app := script("app", `echo out; echo err >&2; cat /shared/init; touch /sub/x; trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done`)
	app.VolumeMounts = m
	app.Env = []corev1.EnvVar{{Name: "K", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "k"}}},
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}}
	app.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/test", "!", "-e", "/shared/unready"}}}, PeriodSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1, TimeoutSeconds: 5}
	p := testPod("p", app)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
	p.Spec.InitContainers = []corev1.Container{script("init", "echo made > /shared/init"), {Name: "side", Image: busyboxImage, Command: []string{"/bin/sleep", "1000"}, RestartPolicy: &always}}
	p.Spec.InitContainers[0].VolumeMounts = m[:1]
	p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
		{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
	began := time.Now()
	n.make(p)
	got := n.until("p", "ready", isReady)
	t.Logf("ready after %v", time.Since(began))
	if cs := got.Status.ContainerStatuses[0]; !strings.HasPrefix(cs.ContainerID, "containerd://") || cs.Image != busyboxImage || cs.ImageID == "" {
		t.Errorf("container status %+v", cs)
	}
	for cmd, want := range map[string]string{
		"cat /cm/k": "from-config", "cat /secret/p": "hidden", "ls /shared/a/b": "x\n", "echo $K $IP $HOSTNAME": "from-config " + got.Status.PodIP + " p\n",
		"cat /etc/hostname":          "p\n",
		"busybox stat -c %g /shared": "2000\n",
	} {
		out, err := n.exec("p", "app", "/bin/sh", "-c", cmd)
		if err != nil || out != want {
			t.Errorf("%s: %q, %v", cmd, out, err)
		}
	}
	eventually(t, func() bool {
		_, out := body(t, n.srv.URL+"/containerLogs/default/p/app")
		return strings.Contains(out, "out\n") && strings.Contains(out, "err\n") && strings.Contains(out, "made\n")
	})
	var sum summary
	if _, out := body(t, n.srv.URL+"/stats/summary"); json.Unmarshal([]byte(out), &sum) != nil || len(sum.Pods) != 1 || len(sum.Pods[0].Containers) != 2 ||
		*sum.Pods[0].Memory.UsageBytes == 0 || *sum.Pods[0].Containers[0].CPU.UsageCoreNanoSeconds == 0 {
		t.Errorf("summary %s", out)
	}
	if _, out := body(t, n.srv.URL+"/metrics/resource"); !strings.Contains(out, `container_memory_working_set_bytes{container="app",namespace="default",pod="p"} `) {
		t.Errorf("metrics %s", out)
	}
	if _, out := body(t, n.srv.URL+"/metrics/cadvisor"); !strings.Contains(out, `container_memory_working_set_bytes{container="app",id="/`) || !strings.Contains(out, "machine_cpu_cores ") {
		t.Errorf("metrics %s", out)
	}
	// Readiness follows the probe, both ways.
	if _, err := n.exec("p", "app", "/bin/touch", "/shared/unready"); err != nil {
		t.Fatal(err)
	}
	n.until("p", "unready", func(p *corev1.Pod) bool { return !isReady(p) })
	if err := os.Remove(filepath.Join(n.k.volumes.Path(p, &p.Spec.Volumes[0]), "unready")); err != nil {
		t.Fatal(err)
	}
	n.until("p", "ready again", isReady)
	n.remove("p", 10)
	if left, _, err := n.rtime.List(t.Context()); err != nil || len(left) > 0 {
		eventually(t, func() bool { left, _, _ := n.rtime.List(t.Context()); return len(left) == 0 })
	}
}

func TestRealExits(t *testing.T) {
	n := newRealNode(t)
	p := testPod("p", script("app", "echo the reason > /dev/termination-log; echo last words; exit 3"))
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	n.make(p)
	q := testPod("q", script("app", "exit 1"))
	n.make(q)
	x := testPod("x", corev1.Container{Name: "app", Image: busyboxImage, Command: []string{"/no/such/program"}})
	n.make(x)
	got := n.until("p", "Failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if term := got.Status.ContainerStatuses[0].State.Terminated; term.ExitCode != 3 || term.Message != "the reason\n" || term.Reason != "Error" {
		t.Errorf("terminated %+v", term)
	}
	eventually(t, func() bool { _, out := body(t, n.srv.URL+"/containerLogs/default/p/app"); return out == "last words\n" })
	n.until("q", "in back-off after a restart", func(p *corev1.Pod) bool {
		cs := p.Status.ContainerStatuses
		return len(cs) == 1 && cs[0].RestartCount == 1 && cs[0].State.Waiting != nil && cs[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	n.until("x", "failing to start", func(p *corev1.Pod) bool {
		cs := p.Status.ContainerStatuses
		return len(cs) == 1 && cs[0].LastTerminationState.Terminated != nil && cs[0].LastTerminationState.Terminated.Reason == "StartError"
	})
	for _, name := range []string{"p", "q", "x"} {
		n.remove(name, 1)
	}
}

// TestRealProbes asks a real server in a pod of the node's network by HTTP and TCP, and lets liveness restart it.
func TestRealProbes(t *testing.T) {
	n := newRealNode(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	app := script("app", fmt.Sprintf("mkdir -p /www; echo ok > /www/live; exec httpd -f -p 127.0.0.1:%d -h /www", port))
	app.Command[2] = strings.Replace(app.Command[2], "mkdir", "busybox mkdir", 1)
	probe := func(h corev1.ProbeHandler) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: h, PeriodSeconds: 1, FailureThreshold: 3, SuccessThreshold: 1, TimeoutSeconds: 2}
	}
	app.StartupProbe = probe(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port), Host: "127.0.0.1"}})
	app.StartupProbe.FailureThreshold = 30
	app.LivenessProbe = probe(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/live", Port: intstr.FromInt(port), Host: "127.0.0.1"}})
	app.LivenessProbe.FailureThreshold = 1
	short := int64(1) // as the first process of its namespace httpd does not heed SIGTERM
	app.LivenessProbe.TerminationGracePeriodSeconds = &short
	app.ReadinessProbe = probe(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/live", Port: intstr.FromInt(port)}})
	p := testPod("p", app)
	p.Spec.HostNetwork = true
	n.make(p)
	n.until("p", "ready", isReady)
	if _, err := n.exec("p", "app", "/bin/busybox", "rm", "/www/live"); err != nil {
		t.Fatal(err)
	}
	got := n.until("p", "restarted", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p)
	})
	if got.Status.PodIP != "127.0.0.1" {
		t.Errorf("pod IP %s", got.Status.PodIP)
	}
	if !n.events.has("Killing: Container app failed liveness probe, will be restarted") {
		t.Errorf("events %q", n.events.all)
	}
	n.remove("p", 1)
}

// TestRealRestart ends kubelet and containerd as kill -9 would, and starts them again on what runs.
func TestRealRestart(t *testing.T) {
	n := newRealNode(t)
	app := script("app", "echo start; while :; do sleep 0.1; done")
	app.VolumeMounts = []corev1.VolumeMount{{Name: "mem", MountPath: "/mem"}}
	p := testPod("p", app)
	p.Spec.Volumes = []corev1.Volume{{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
	n.make(p)
	n.make(testPod("gone", script("app", "trap 'exit 0' TERM; while :; do sleep 0.1; done")))
	before := n.until("p", "ready", isReady).Status
	n.until("gone", "ready", isReady)
	if _, err := n.exec("p", "app", "/bin/touch", "/mem/kept"); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.stopRuntime()
	if err := n.cs.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "default", "gone"); err != nil {
		t.Fatal(err)
	}
	n.startRuntime()
	n.startKubelet()
	eventually(t, func() bool { // the orphan goes, and takes everything along
		sb, _, err := n.rtime.List(t.Context())
		uids, err2 := os.ReadDir(filepath.Join(n.dir, "kubelet", "pods"))
		return err == nil && err2 == nil && len(sb) == 1 && len(uids) == 1
	})
	got := n.get("p").Status
	if before.ContainerStatuses[0].User == nil || !equalStatus(before, got) {
		t.Errorf("status changed:\n%+v\n%+v", before, got)
	}
	if out, err := n.exec("p", "app", "/bin/ls", "/mem"); err != nil || out != "kept\n" {
		t.Errorf("%q, %v", out, err)
	}
	if code, out := body(t, n.srv.URL+"/containerLogs/default/p/app"); code != http.StatusOK || out != "start\n" {
		t.Errorf("log %q", out)
	}
	n.remove("p", 1)
}

// TestRealLogRotation rotates a log under a follower.
func TestRealLogRotation(t *testing.T) {
	n := newRealNode(t)
	n.make(testPod("p", script("app", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done")))
	n.until("p", "ready", isReady)
	res, err := http.Get(n.srv.URL + "/containerLogs/default/p/app?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	rotate := func() {
		for _, c := range n.k.runningContainers() {
			if err := os.Rename(c.LogPath, c.LogPath+".moved"); err != nil {
				t.Error(err)
			}
			if err := n.rtime.ReopenLog(t.Context(), c.ID); err != nil {
				t.Error(err)
			}
		}
	}
	for i := range 300 {
		var got int
		if _, err := fmt.Fscanln(res.Body, &got); err != nil || got != i {
			t.Fatalf("line %d: %d, %v", i, got, err)
		}
		if i == 100 || i == 200 {
			rotate()
		}
	}
	n.remove("p", 1)
}
