// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/downward"
)

// Objects reads the Secrets and ConfigMaps of pods; an absent one is a NotFound API error.
type Objects interface {
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
}

// Config is what a Manager needs.
type Config struct {
	// Dir is the directory of all pods.
	Dir     string
	Objects Objects
	Tokens  *Tokens
	Claims  Claims
	// RecursiveReadOnly says that the runtime can make mounts read-only with all that is mounted below.
	RecursiveReadOnly bool
	Logger            *slog.Logger
}

// Manager makes and removes volumes. Its methods may be called for different pods at the same time.
type Manager struct {
	cfg Config

	mu    sync.Mutex
	locks map[types.UID]*sync.Mutex
	// claims holds where the volumes behind claims are, by pod and volume; Setup finds them anew after a restart.
	claims map[types.UID]map[string]string
}

// NewManager returns a Manager of cfg.Dir.
func NewManager(cfg Config) *Manager {
	return &Manager{cfg: cfg, locks: map[types.UID]*sync.Mutex{}, claims: map[types.UID]map[string]string{}}
}

func (m *Manager) lock(uid types.UID) func() {
	m.mu.Lock()
	l := m.locks[uid]
	if l == nil {
		l = &sync.Mutex{}
		m.locks[uid] = l
	}
	m.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// PodDir is the directory of one pod.
func (m *Manager) PodDir(uid types.UID) string { return filepath.Join(m.cfg.Dir, string(uid)) }

// pluginName is the directory name that upstream gives to a kind of volume.
func pluginName(v *corev1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		return "kubernetes.io~empty-dir"
	case v.ConfigMap != nil:
		return "kubernetes.io~configmap"
	case v.Secret != nil:
		return "kubernetes.io~secret"
	case v.DownwardAPI != nil:
		return "kubernetes.io~downward-api"
	case v.Projected != nil:
		return "kubernetes.io~projected"
	}
	return ""
}

// Path is where a volume of the pod is on the node; "" for an image, which is where the runtime has it.
func (m *Manager) Path(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path
	case v.Image != nil:
		return ""
	}
	if claimName(pod, v) != "" {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.claims[pod.UID][v.Name]
	}
	return filepath.Join(m.PodDir(pod.UID), "volumes", pluginName(v), v.Name)
}

// Setup makes all volumes of the pod, or brings those made from objects up to date. It may be repeated. It returns when it has to be
// called again because a token must be renewed (zero: never).
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod, f downward.Facts) (renew time.Time, err error) {
	defer m.lock(pod.UID)()
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		at, err := m.setup(ctx, pod, f, v)
		if err != nil {
			errs = append(errs, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err))
		}
		if !at.IsZero() && (renew.IsZero() || at.Before(renew)) {
			renew = at
		}
	}
	return renew, errors.Join(errs...)
}

func (m *Manager) setup(ctx context.Context, pod *corev1.Pod, f downward.Facts, v *corev1.Volume) (time.Time, error) {
	dir := m.Path(pod, v)
	switch {
	case v.Image != nil:
		return time.Time{}, nil // made when a container mounts it
	case v.HostPath != nil:
		return time.Time{}, hostPath(v.HostPath)
	case v.EmptyDir != nil:
		return time.Time{}, m.emptyDir(pod, v, dir)
	case claimName(pod, v) != "":
		return time.Time{}, m.claim(ctx, pod, v)
	}
	c, ok, err := m.render(ctx, pod, f, v)
	if err != nil {
		return time.Time{}, err
	}
	if !ok {
		return time.Time{}, errors.New("no volume plugin matched")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return time.Time{}, err
	}
	// Secrets stay in memory; a ConfigMap is no secret.
	if v.ConfigMap == nil {
		if err := mountTmpfs(dir, 0); err != nil {
			return time.Time{}, err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return time.Time{}, err
		}
	}
	w := writer{dir: dir}
	if gid := fsGroup(pod); gid != nil {
		w.own = func(d string) error { return ownTree(d, int(*gid), true) }
		if err := ownDir(dir, int(*gid)); err != nil {
			return time.Time{}, err
		}
	}
	_, err = w.write(c.files)
	return c.renew, err
}

func (m *Manager) emptyDir(pod *corev1.Pod, v *corev1.Volume, dir string) error {
	_, statErr := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	switch medium := v.EmptyDir.Medium; {
	case medium == corev1.StorageMediumMemory:
		var size int64
		if v.EmptyDir.SizeLimit != nil {
			size = v.EmptyDir.SizeLimit.Value()
		}
		if err := mountTmpfs(dir, size); err != nil {
			return err
		}
	case medium != corev1.StorageMediumDefault:
		if err := mountHugePages(dir, medium); err != nil {
			return err
		}
	}
	if statErr == nil {
		return nil // a pod's data: its modes and owners are the pod's business by now
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	if gid := fsGroup(pod); gid != nil {
		return ownTree(dir, int(*gid), false)
	}
	return nil
}

// hostPath checks or makes what the volume's type asks for.
func hostPath(h *corev1.HostPathVolumeSource) error {
	t := corev1.HostPathUnset
	if h.Type != nil {
		t = *h.Type
	}
	if t == corev1.HostPathUnset {
		return nil
	}
	st, err := os.Stat(h.Path)
	absent := errors.Is(err, fs.ErrNotExist)
	switch {
	case absent && t == corev1.HostPathDirectoryOrCreate:
		return os.MkdirAll(h.Path, 0o755)
	case absent && t == corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(h.Path, os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	case err != nil && !absent:
		return err
	}
	is := func(kind fs.FileMode) bool { return st != nil && st.Mode()&fs.ModeType == kind }
	checks := map[corev1.HostPathType]struct {
		what string
		ok   bool
	}{
		corev1.HostPathDirectory:         {"directory", is(fs.ModeDir)},
		corev1.HostPathDirectoryOrCreate: {"directory", is(fs.ModeDir)},
		corev1.HostPathFile:              {"file", is(0)},
		corev1.HostPathFileOrCreate:      {"file", is(0)},
		corev1.HostPathSocket:            {"socket", is(fs.ModeSocket)},
		corev1.HostPathCharDev:           {"character device", is(fs.ModeDevice | fs.ModeCharDevice)},
		corev1.HostPathBlockDev:          {"block device", is(fs.ModeDevice)},
	}
	c, known := checks[t]
	switch {
	case !known:
		return fmt.Errorf("%s is an invalid volume type", t)
	case !c.ok:
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, c.what)
	}
	return nil
}

// Teardown unmounts and removes everything of a pod. It works on whatever exists, and may be repeated.
func (m *Manager) Teardown(uid types.UID) error {
	if uid == "" || filepath.Base(string(uid)) != string(uid) || uid == "." || uid == ".." {
		return fmt.Errorf("invalid pod uid %q", uid)
	}
	defer m.lock(uid)()
	m.cfg.Tokens.forget(uid)
	dir := m.PodDir(uid)
	if err := unmountBelow(dir); err != nil {
		return err
	}
	if err := removeTree(dir); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.locks, uid)
	delete(m.claims, uid)
	m.mu.Unlock()
	return nil
}

// Pods lists the pods that have a directory.
func (m *Manager) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(m.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var uids []types.UID
	for _, e := range entries {
		if e.IsDir() {
			uids = append(uids, types.UID(e.Name()))
		}
	}
	return uids, err
}

// ownDir gives a directory the group, with setgid so that what is made in it has it too.
func ownDir(dir string, gid int) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if err := os.Lchown(dir, -1, gid); err != nil {
		return err
	}
	return os.Chmod(dir, st.Mode()|0o110|0o440|fs.ModeSetgid)
}

// ownTree gives a volume to the pod's fsGroup: read for what only the node writes, read and write for the rest.
func ownTree(dir string, gid int, readOnly bool) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(p, -1, gid); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		add := fs.FileMode(0o660)
		if readOnly {
			add = 0o440
		}
		if d.IsDir() {
			add |= fs.ModeSetgid | 0o110
		}
		return os.Chmod(p, info.Mode()|add)
	})
}
