// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// The control files of a new cgroup, by controller, as the kernel makes them.
var (
	legacyFiles = map[string]map[string]string{
		"cpu":     {"cpu.shares": "1024", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1"},
		"cpuacct": {"cpuacct.usage": "1500"},
		"memory": {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "1000",
			"memory.stat": "cache 1\ntotal_inactive_file 300\ntotal_rss 600\ntotal_pgfault 7\ntotal_pgmajfault 2\n"},
		"pids":    {"pids.max": "max", "pids.current": "4"},
		"hugetlb": {"hugetlb.2MB.limit_in_bytes": "9223372036854771712"},
		"devices": {},
	}
	unifiedFiles = map[string]string{
		"cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma", "cgroup.subtree_control": "", "cpu.weight": "100",
		"cpu.max": "max 100000", "cpu.stat": "usage_usec 2\nuser_usec 1\n", "memory.max": "max", "memory.current": "1000",
		"memory.stat": "anon 600\ninactive_file 300\npgfault 7\npgmajfault 2\n", "pids.max": "max", "pids.current": "4",
		"hugetlb.2MB.max": "max",
	}
)

// fake is a Manager on a tree that has the kernel's files but not the kernel.
func fake(t *testing.T, v2 bool) *Manager {
	t.Helper()
	return fakeAt(t, v2, "/node")
}

func fakeAt(t *testing.T, v2 bool, root string) *Manager {
	t.Helper()
	mount := t.TempDir()
	fill := func(dir string, files map[string]string) error {
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), nil, 0o644)
	}
	make := func(files func(path string) map[string]string) func(string) error {
		return func(path string) error {
			if err := os.Mkdir(path, 0o755); errors.Is(err, fs.ErrExist) {
				return nil
			} else if err != nil {
				return err
			}
			return fill(path, files(path))
		}
	}
	if v2 {
		if err := fill(mount, unifiedFiles); err != nil {
			t.Fatal(err)
		}
	} else {
		for controller, files := range legacyFiles {
			if err := errors.Join(os.Mkdir(filepath.Join(mount, controller), 0o755), fill(filepath.Join(mount, controller), files)); err != nil {
				t.Fatal(err)
			}
		}
	}
	m, err := New(Config{Root: root, Mount: mount, CPUs: 2, PodPids: 50})
	if err != nil {
		t.Fatal(err)
	}
	m.rmdir = func(dir string) error { // files do not keep a cgroup, cgroups in it do
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(entries, os.DirEntry.IsDir) {
			return unix.EBUSY
		}
		return os.RemoveAll(dir)
	}
	if v2 {
		m.h = unified{mount, make(func(string) map[string]string { return unifiedFiles })}
	} else {
		m.h = legacy{mount, make(func(path string) map[string]string {
			rel, _ := filepath.Rel(mount, path)
			controller, _, _ := strings.Cut(rel, "/")
			return legacyFiles[controller]
		})}
	}
	return m
}

func read(t *testing.T, m *Manager, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{m.cfg.Mount}, parts...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func list(kv ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(kv); i += 2 {
		l[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
	}
	return l
}

func pod(uid string, containers ...corev1.ResourceRequirements) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p-" + uid, UID: types.UID(uid)}}
	for i, r := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Resources: r})
	}
	return p
}

func TestQOSClassAndLimits(t *testing.T) {
	full := corev1.ResourceRequirements{Limits: list("cpu", "500m", "memory", "64Mi"), Requests: list("cpu", "500m", "memory", "64Mi")}
	for name, tc := range map[string]struct {
		pod    *corev1.Pod
		class  corev1.PodQOSClass
		limits limits
	}{
		"nothing_asked":  {pod("a", corev1.ResourceRequirements{}), corev1.PodQOSBestEffort, limits{shares: 2}},
		"no_containers":  {pod("a"), corev1.PodQOSBestEffort, limits{shares: 2}},
		"all_equal":      {pod("a", full, full), corev1.PodQOSGuaranteed, limits{shares: 1024, quota: 100000, memory: 128 << 20}},
		"limit_is_asked": {pod("a", corev1.ResourceRequirements{Limits: list("cpu", "1", "memory", "1Mi")}), corev1.PodQOSGuaranteed, limits{shares: 1024, quota: 100000, memory: 1 << 20}},
		"one_without":    {pod("a", full, corev1.ResourceRequirements{}), corev1.PodQOSBurstable, limits{shares: 512}},
		"asks_less":      {pod("a", corev1.ResourceRequirements{Limits: list("memory", "64Mi"), Requests: list("memory", "1Mi")}), corev1.PodQOSBurstable, limits{shares: 2, memory: 64 << 20}},
		"tiny_quota":     {pod("a", corev1.ResourceRequirements{Limits: list("cpu", "1m"), Requests: list("cpu", "1m")}), corev1.PodQOSBurstable, limits{shares: 2, quota: 1000}},
		"only_storage":   {pod("a", corev1.ResourceRequirements{Requests: list("ephemeral-storage", "1Gi")}), corev1.PodQOSBestEffort, limits{shares: 2}},
		"hugepages":      {pod("a", corev1.ResourceRequirements{Limits: list("cpu", "1", "memory", "1Mi", "hugepages-2Mi", "4Mi")}), corev1.PodQOSGuaranteed, limits{shares: 1024, quota: 100000, memory: 1 << 20, hugepages: map[string]int64{"2MB": 4 << 20}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := QOSClass(tc.pod); got != tc.class {
				t.Errorf("class %s, want %s", got, tc.class)
			}
			if diff := cmp.Diff(tc.limits, podLimits(tc.pod, tc.class), cmp.AllowUnexported(limits{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPodOnLegacy(t *testing.T) {
	m := fake(t, false)
	p := pod("u1", corev1.ResourceRequirements{Limits: list("cpu", "2", "memory", "64Mi", "hugepages-2Mi", "2Mi"), Requests: list("cpu", "1")})
	path, err := m.EnsurePod(p)
	if err != nil || path != "/node/kubepods/burstable/podu1" {
		t.Fatal(path, err)
	}
	for file, want := range map[string]string{
		"cpu/node/kubepods/cpu.shares":                   "2048",
		"cpu/node/kubepods/besteffort/cpu.shares":        "2",
		"cpu/node/kubepods/burstable/cpu.shares":         "1024",
		"cpu" + path + "/cpu.shares":                     "1024",
		"cpu" + path + "/cpu.cfs_quota_us":               "200000",
		"memory" + path + "/memory.limit_in_bytes":       "67108864",
		"pids" + path + "/pids.max":                      "50",
		"hugetlb" + path + "/hugetlb.2MB.limit_in_bytes": "2097152",
	} {
		if got := read(t, m, file); got != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}
	p.Spec.Containers[0].Resources.Limits = list("memory", "32Mi") // resized: no CPU limit any more
	if _, err := m.EnsurePod(p); err != nil {
		t.Fatal(err)
	}
	if q, l := read(t, m, "cpu", path, "cpu.cfs_quota_us"), read(t, m, "memory", path, "memory.limit_in_bytes"); q != "-1" || l != "33554432" {
		t.Errorf("after resize: quota %s, memory %s", q, l)
	}
	stats, err := m.Stats(path)
	want := Stats{CPUNanos: 1500, MemoryBytes: 1000, WorkingSet: 700, RSSBytes: 600, PageFaults: 7, MajorFaults: 2, Processes: 4, MemoryLimited: 33554432}
	if err != nil || stats != want {
		t.Errorf("stats %+v, %v", stats, err)
	}
	// What runc made for a controller that we do not use goes as well.
	runc := filepath.Join(m.cfg.Mount, "devices", path, "c1")
	if err := os.MkdirAll(runc, 0o755); err != nil {
		t.Fatal(err)
	}
	checkRemoved(t, m, path)
}

func checkRemoved(t *testing.T, m *Manager, path string) {
	t.Helper()
	if uids, err := m.Pods(); err != nil || len(uids) != 1 || uids[0] != "u1" {
		t.Errorf("pods %v, %v", uids, err)
	}
	for range 2 {
		if err := m.RemovePod("u1"); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(m.cfg.Mount, "*", path)); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if uids, err := m.Pods(); err != nil || len(uids) != 0 {
		t.Errorf("pods %v, %v", uids, err)
	}
	if _, err := m.Stats(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stats of what is gone: %v", err)
	}
	for range 2 {
		if err := m.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(m.cfg.Mount, "*", "node")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestPodOnUnified(t *testing.T) {
	m := fake(t, true)
	p := pod("u1", corev1.ResourceRequirements{Limits: list("cpu", "2", "memory", "64Mi", "hugepages-2Mi", "2Mi"), Requests: list("cpu", "1")})
	path, err := m.EnsurePod(p)
	if err != nil || path != "/node/kubepods/burstable/podu1" {
		t.Fatal(path, err)
	}
	const all = "+cpu +cpuset +hugetlb +io +memory +pids"
	for file, want := range map[string]string{
		"cgroup.subtree_control":                         all,
		"node/cgroup.subtree_control":                    all,
		"node/kubepods/burstable/cgroup.subtree_control": all,
		path + "/cgroup.subtree_control":                 all,
		"node/kubepods/besteffort/cpu.weight":            "1",
		"node/kubepods/burstable/cpu.weight":             "100",
		path + "/cpu.weight":                             "100",
		path + "/cpu.max":                                "200000 100000",
		path + "/memory.max":                             "67108864",
		path + "/pids.max":                               "50",
		path + "/hugetlb.2MB.max":                        "2097152",
	} {
		if got := read(t, m, file); got != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}
	p.Spec.Containers[0].Resources.Limits = nil
	if _, err := m.EnsurePod(p); err != nil {
		t.Fatal(err)
	}
	if q, l := read(t, m, path, "cpu.max"), read(t, m, path, "memory.max"); q != "max 100000" || l != "max" {
		t.Errorf("after resize: quota %s, memory %s", q, l)
	}
	stats, err := m.Stats(path)
	want := Stats{CPUNanos: 2000, MemoryBytes: 1000, WorkingSet: 700, RSSBytes: 600, PageFaults: 7, MajorFaults: 2, Processes: 4}
	if err != nil || stats != want {
		t.Errorf("stats %+v, %v", stats, err)
	}
	checkRemoved(t, m, path)
}

// TestBurstableWeight holds that the Burstable pods together always weigh what they ask for.
func TestBurstableWeight(t *testing.T) {
	m := fake(t, false)
	live := make(map[string]int64)
	rapid.Check(t, func(rt *rapid.T) {
		uid := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "uid")
		if rapid.Bool().Draw(rt, "remove") {
			delete(live, uid)
			if err := m.RemovePod(types.UID(uid)); err != nil {
				rt.Fatal(err)
			}
		} else {
			milli := rapid.Int64Range(1, 300_000).Draw(rt, "cpu")
			live[uid] = milli
			if _, err := m.EnsurePod(pod(uid, corev1.ResourceRequirements{Requests: list("cpu", fmt.Sprint(milli, "m"))})); err != nil {
				rt.Fatal(err)
			}
		}
		sum := int64(0)
		for _, milli := range live {
			sum += min(max(milli*1024/1000, 2), 262144)
		}
		if _, err := os.Stat(filepath.Join(m.cfg.Mount, "cpu/node")); err != nil {
			return
		}
		want := "1024" // untouched so far
		if m.burstable > 0 {
			want = fmt.Sprint(min(max(sum, 2), 262144))
		}
		if got := read(t, m, "cpu/node/kubepods/burstable/cpu.shares"); got != want {
			rt.Errorf("weight %s, want %s", got, want)
		}
	})
}

func TestWeights(t *testing.T) {
	for shares, weight := range map[uint64]uint64{2: 1, 1024: 100, 262144: 10000, 1: 1, 1 << 20: 10000} {
		if got := weightOf(shares); got != weight {
			t.Errorf("%d shares are weight %d, want %d", shares, got, weight)
		}
	}
	last := uint64(0)
	for shares := uint64(2); shares <= maxShares; shares += 97 {
		if w := weightOf(shares); w < last || w < 1 || w > 10000 {
			t.Fatalf("%d shares: weight %d after %d", shares, w, last)
		} else {
			last = w
		}
	}
}

func TestRefuses(t *testing.T) {
	if _, err := New(Config{Root: "relative"}); err == nil {
		t.Error("a relative root was taken")
	}
	if _, err := New(Config{Root: "/x", Mount: t.TempDir()}); err == nil {
		t.Error("an empty folder was taken for cgroups")
	}
}

// TestMemoryBelowUsage: the kernel kills for a limit below what is used with v2, and refuses it by itself with v1.
func TestMemoryBelowUsage(t *testing.T) {
	m := fake(t, true)
	limited := func(bytes string) *corev1.Pod {
		return pod("uid", corev1.ResourceRequirements{Limits: list("cpu", "1", "memory", bytes)})
	}
	path, err := m.EnsurePod(limited("4000"))
	if err != nil {
		t.Fatal(err)
	}
	for _, refused := range []string{"1000", "500"} { // 1000 are used
		if _, err := m.EnsurePod(limited(refused)); !errors.Is(err, unix.EBUSY) {
			t.Errorf("lowered to %s: %v", refused, err)
		}
		if got := read(t, m, path, "memory.max"); got != "4000" {
			t.Errorf("lowered to %s: memory.max is %s", refused, got)
		}
	}
	if _, err := m.EnsurePod(limited("1001")); err != nil {
		t.Error(err)
	}
	if got := read(t, m, path, "memory.max"); got != "1001" {
		t.Errorf("memory.max is %s", got)
	}
	if err := os.WriteFile(filepath.Join(m.cfg.Mount, path, "memory.current"), []byte("1500\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, raised := range []string{"1001", "1400", "2000"} { // no worse than before
		if _, err := m.EnsurePod(limited(raised)); err != nil {
			t.Errorf("raised to %s: %v", raised, err)
		}
	}
	if used, err := Lowers(filepath.Join(m.cfg.Mount, "absent"), 1); used != 0 || err != nil {
		t.Errorf("a cgroup that is gone: %d, %v", used, err)
	}
}

// TestMachineRoot is a node that has the machine to itself: `mini server` without a cgroup root.
func TestMachineRoot(t *testing.T) {
	for _, root := range []string{"", "/"} {
		m := fakeAt(t, true, root)
		path, err := m.EnsurePod(pod("uid", corev1.ResourceRequirements{Limits: list("cpu", "1", "memory", "64Mi")}))
		if err != nil || path != "/kubepods/poduid" {
			t.Errorf("root %q: the pod's cgroup is %q, %v", root, path, err)
		}
		if got := read(t, m, "kubepods", "poduid", "memory.max"); got != "67108864" {
			t.Errorf("root %q: memory.max is %s", root, got)
		}
		if err := m.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(m.cfg.Mount, "kubepods")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("root %q: kubepods is still there: %v", root, err)
		}
		if _, err := os.Stat(filepath.Join(m.cfg.Mount, "cgroup.procs")); err != nil {
			t.Errorf("root %q: more than kubepods was removed: %v", root, err)
		}
	}
}

// TestOnThisMachine makes a real pod's cgroup, puts processes into it, and removes it with them.
func TestOnThisMachine(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	m, err := New(Config{Root: fmt.Sprintf("/mini-test-cgroup-%d", os.Getpid())})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := m.Remove(); err != nil {
			t.Error(err)
		}
	})
	path, err := m.EnsurePod(pod("real", corev1.ResourceRequirements{Limits: list("cpu", "500m", "memory", "64Mi"), Requests: list("cpu", "100m")}))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }() // collects it, or it would stay in its cgroup
	for _, dir := range m.h.dirs(path) {
		inner := filepath.Join(dir, "inner")
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := os.Mkdir(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := put(inner, "cgroup.procs", fmt.Sprint(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	stats, err := m.Stats(path)
	if err != nil || stats.Processes != 1 || stats.MemoryLimited != 64<<20 {
		t.Errorf("stats %+v, %v", stats, err)
	}
	if err := m.RemovePod("real"); err != nil {
		t.Fatal(err)
	}
	var status *exec.ExitError
	if err := <-exited; !errors.As(err, &status) || status.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the process left inside ended with %v", err)
	}
	for _, dir := range m.h.dirs(path) {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
}
