// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Config is what a Manager is made from.
type Config struct {
	// Root is the node's own cgroup, such as "/mini"; everything is below it. "" is "/", as on a machine with one node.
	Root string
	// Mount is where the cgroups are mounted; "" is /sys/fs/cgroup.
	Mount string
	// CPUs is what the node has, for the weight of all pods; 0 is all of the machine.
	CPUs int
	// PodPids limits the processes of each pod; 0 does not.
	PodPids int64
}

// Stats is what a cgroup and all below it uses.
type Stats struct {
	CPUNanos      uint64 // time used so far
	MemoryBytes   uint64
	WorkingSet    uint64 // memory without the file pages that the kernel would drop first
	RSSBytes      uint64
	PageFaults    uint64
	MajorFaults   uint64
	Processes     uint64
	MemoryLimited uint64 // bytes, 0 if not limited
}

// limits are what is set on one cgroup. Zero leaves as it is, except that quota -1 lifts a limit.
type limits struct {
	shares    uint64
	quota     int64 // microseconds in each period of 100 ms
	memory    int64
	pids      int64
	hugepages map[string]int64 // bytes by the kernel's name of the page size
}

// hierarchy is a version of cgroups. Paths are relative to the mount and begin with a slash.
type hierarchy interface {
	create(path string) error
	set(path string, l limits) error
	stats(path string) (Stats, error)
	// dirs are the folders that stand for the cgroup, in every controller that may have one.
	dirs(path string) []string
	// kill sends SIGKILL to all in dir at once and reports true, if the kernel can do that.
	kill(dir string) bool
}

// Manager keeps the cgroups of one node's pods.
type Manager struct {
	cfg   Config
	h     hierarchy
	rmdir func(string) error

	mu   sync.Mutex
	base bool // the cgroups above the pods are made
	pods map[types.UID]podCgroup
	// burstable is the weight that the Burstable pods together have.
	burstable uint64
}

type podCgroup struct {
	path   string
	class  corev1.PodQOSClass
	limits limits
}

// New tells cgroup v1 from v2. Nothing is made before the first pod.
func New(cfg Config) (*Manager, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if !strings.HasPrefix(cfg.Root, "/") {
		return nil, fmt.Errorf("cgroup root %q does not begin with a slash", cfg.Root)
	}
	if cfg.Mount == "" {
		cfg.Mount = "/sys/fs/cgroup"
	}
	if cfg.CPUs == 0 {
		cfg.CPUs = runtime.NumCPU()
	}
	m := &Manager{cfg: cfg, rmdir: os.Remove, pods: make(map[types.UID]podCgroup)}
	if _, err := os.Stat(filepath.Join(cfg.Mount, "cgroup.controllers")); err == nil {
		m.h = unified{mount: cfg.Mount, mkdir: mkdir}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	} else if _, err := os.Stat(filepath.Join(cfg.Mount, "memory")); err == nil {
		m.h = legacy{mount: cfg.Mount, mkdir: mkdir}
	} else {
		return nil, fmt.Errorf("no cgroups are mounted at %s", cfg.Mount)
	}
	return m, nil
}

func mkdir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (m *Manager) kubepods() string { return filepath.Join(m.cfg.Root, "kubepods") }

// classPath is the cgroup that a class's pods lie in.
func (m *Manager) classPath(class corev1.PodQOSClass) string {
	switch class {
	case corev1.PodQOSBurstable:
		return filepath.Join(m.kubepods(), "burstable")
	case corev1.PodQOSBestEffort:
		return filepath.Join(m.kubepods(), "besteffort")
	default:
		return m.kubepods()
	}
}

const podPrefix = "pod"

// EnsurePod makes the pod's cgroup with its limits, or brings the limits up to date, and returns the path that its
// containers go below.
func (m *Manager) EnsurePod(pod *corev1.Pod) (parent string, err error) {
	class := QOSClass(pod)
	want := podCgroup{
		path:  filepath.Join(m.classPath(class), podPrefix+string(pod.UID)),
		class: class, limits: podLimits(pod, class),
	}
	want.limits.pids = m.cfg.PodPids
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() {
		if err != nil {
			err = fmt.Errorf("cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}()
	if err := m.ensureBaseLocked(); err != nil {
		return "", err
	}
	had, known := m.pods[pod.UID]
	if known && had.equal(want) {
		return want.path, nil
	}
	if err := m.h.create(want.path); err != nil {
		return "", err
	}
	if err := m.h.set(want.path, want.limits.after(had.limits)); err != nil {
		return "", err
	}
	m.pods[pod.UID] = want
	return want.path, m.weighLocked()
}

// after is l with a lift for what before limited and l does not.
func (l limits) after(before limits) limits {
	if l.quota == 0 && before.quota > 0 {
		l.quota = -1
	}
	if l.memory == 0 && before.memory > 0 {
		l.memory = -1
	}
	return l
}

func (p podCgroup) equal(q podCgroup) bool {
	if p.path != q.path || p.limits.shares != q.limits.shares || p.limits.quota != q.limits.quota ||
		p.limits.memory != q.limits.memory || p.limits.pids != q.limits.pids || len(p.limits.hugepages) != len(q.limits.hugepages) {
		return false
	}
	for size, n := range p.limits.hugepages {
		if q.limits.hugepages[size] != n {
			return false
		}
	}
	return true
}

func (m *Manager) ensureBaseLocked() error {
	if m.base {
		return nil
	}
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		if err := m.h.create(m.classPath(class)); err != nil {
			return err
		}
	}
	err := errors.Join(
		m.h.set(m.kubepods(), limits{shares: sharesOf(int64(m.cfg.CPUs) * 1000)}),
		m.h.set(m.classPath(corev1.PodQOSBestEffort), limits{shares: minShares}),
	)
	m.base = err == nil
	return err
}

// weighLocked gives the Burstable pods together the weight of what they request.
func (m *Manager) weighLocked() error {
	sum := uint64(0)
	for _, p := range m.pods {
		if p.class == corev1.PodQOSBurstable {
			sum += p.limits.shares
		}
	}
	sum = min(max(sum, minShares), maxShares)
	if sum == m.burstable {
		return nil
	}
	if err := m.h.set(m.classPath(corev1.PodQOSBurstable), limits{shares: sum}); err != nil {
		return err
	}
	m.burstable = sum
	return nil
}

// RemovePod removes a pod's cgroup, whatever its class, with all below it, and kills what is left inside.
func (m *Manager) RemovePod(uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		errs = append(errs, m.remove(filepath.Join(m.classPath(class), podPrefix+string(uid))))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove cgroup of pod %s: %w", uid, err)
	}
	if _, known := m.pods[uid]; !known {
		return nil
	}
	delete(m.pods, uid)
	return m.weighLocked()
}

// Pods lists the pods that have a cgroup, from an earlier life of the node included.
func (m *Manager) Pods() ([]types.UID, error) {
	seen := make(map[types.UID]bool)
	var uids []types.UID
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		for _, dir := range m.h.dirs(m.classPath(class)) {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			for _, e := range entries {
				uid, ok := strings.CutPrefix(e.Name(), podPrefix)
				if ok && e.IsDir() && !seen[types.UID(uid)] {
					seen[types.UID(uid)] = true
					uids = append(uids, types.UID(uid))
				}
			}
		}
	}
	return uids, nil
}

// Path is a pod's cgroup if the pod is known.
func (m *Manager) Path(uid types.UID) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.pods[uid]
	return p.path, ok
}

// Stats reads what the cgroup at path uses, with all below it. The paths are those that EnsurePod returns, or of a
// container below. One that is gone gives fs.ErrNotExist.
func (m *Manager) Stats(path string) (Stats, error) { return m.h.stats(path) }

// Remove removes the node's whole root and kills what is left inside: the end of a throwaway node.
func (m *Manager) Remove() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.base, m.burstable = false, 0
	clear(m.pods)
	if m.cfg.Root == "/" {
		return m.remove(m.kubepods())
	}
	return m.remove(m.cfg.Root)
}
