// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/container"
)

// Mounts makes the mounts of one container of the pod. expand replaces $(VAR) in subPathExpr. Setup must have been called.
func (m *Manager) Mounts(pod *corev1.Pod, c *corev1.Container, expand func(string) (string, error)) ([]container.Mount, error) {
	defer m.lock(pod.UID)()
	volumes := map[string]*corev1.Volume{}
	for i := range pod.Spec.Volumes {
		volumes[pod.Spec.Volumes[i].Name] = &pod.Spec.Volumes[i]
	}
	var out []container.Mount
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		v := volumes[vm.Name]
		if v == nil {
			return nil, fmt.Errorf("volumeMount %q names no volume of the pod", vm.Name)
		}
		sub := vm.SubPath
		if vm.SubPathExpr != "" {
			var err error
			if sub, err = expand(vm.SubPathExpr); err != nil {
				return nil, err
			}
		}
		if filepath.IsAbs(sub) || strings.Contains("/"+sub+"/", "/../") {
			return nil, fmt.Errorf("subPath %q must be a relative path without '..'", sub)
		}
		mount := container.Mount{ContainerPath: vm.MountPath, ReadOnly: vm.ReadOnly || alwaysReadOnly(v)}
		if v.Image != nil { // the runtime has it
			mount.Image, mount.SubPath = v.Image.Reference, sub
		} else {
			var err error
			if mount.HostPath, err = m.hostPath(pod, v, c, i, sub); err != nil {
				return nil, err
			}
		}
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly {
			mount.ReadOnly = true
		}
		if !filepath.IsAbs(mount.ContainerPath) {
			mount.ContainerPath = "/" + mount.ContainerPath
		}
		var err error
		if mount.RecursiveReadOnly, err = ResolveRecursiveReadOnly(vm, m.cfg.RecursiveReadOnly); err != nil {
			return nil, fmt.Errorf("failed to resolve recursive read-only mode: %w", err)
		}
		if vm.MountPropagation != nil {
			mount.Propagation = *vm.MountPropagation
		}
		out = append(out, mount)
	}
	return out, nil
}

// ResolveRecursiveReadOnly tells whether a mount is read-only with all that is mounted below (KEP-3857), on a node that can do
// that or not.
func ResolveRecursiveReadOnly(m *corev1.VolumeMount, supported bool) (bool, error) {
	switch {
	case m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled:
		return false, nil
	case !m.ReadOnly:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", m.Name)
	case m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", m.Name, *m.MountPropagation)
	case *m.RecursiveReadOnly == corev1.RecursiveReadOnlyIfPossible:
		return supported, nil
	case *m.RecursiveReadOnly != corev1.RecursiveReadOnlyEnabled:
		return false, fmt.Errorf("unknown recursive read-only mode %q", *m.RecursiveReadOnly)
	case !supported:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", m.Name)
	}
	return true, nil
}

// hostPath is where on the node the volume of a container's mount is.
func (m *Manager) hostPath(pod *corev1.Pod, v *corev1.Volume, c *corev1.Container, index int, sub string) (string, error) {
	host := m.Path(pod, v)
	if host == "" {
		return "", fmt.Errorf("volume %q is not set up yet", v.Name)
	}
	if sub == "" {
		return host, nil
	}
	at, err := m.bindSubPath(pod, host, sub, v.Name, c.Name, index)
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", v.Name, c.Name, err)
	}
	return at, nil
}

// alwaysReadOnly volumes are written by the node alone: what a container changed would be lost at the next update. Images do
// not change.
func alwaysReadOnly(v *corev1.Volume) bool {
	return v.Image != nil || v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// bindSubPath mounts root/sub on a path of the node's own and returns that path.
func (m *Manager) bindSubPath(pod *corev1.Pod, root, sub, volume, containerName string, index int) (_ string, retErr error) {
	fd, err := openSubPath(root, sub)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var want unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return "", err
	}
	at := filepath.Join(m.subPathDir(pod.UID), volume, containerName, strconv.Itoa(index))
	var have unix.Stat_t
	if unix.Stat(at, &have) == nil && isMountPoint(at) {
		if have.Dev == want.Dev && have.Ino == want.Ino {
			return at, nil
		}
		// The container may have replaced the directory since its last start.
		if err := unmountBelow(at); err != nil {
			return "", err
		}
	}
	if err := os.RemoveAll(at); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o750); err != nil {
		return "", err
	}
	if want.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(at, 0o750)
	} else {
		err = os.WriteFile(at, nil, 0o640)
	}
	if err != nil {
		return "", err
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, os.Remove(at))
		}
	}()
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind: %w", err)
	}
	return at, nil
}

func (m *Manager) subPathDir(uid types.UID) string {
	return filepath.Join(m.PodDir(uid), "volume-subpaths")
}

// openSubPath opens sub inside root without ever leaving it, and makes the directories that are missing. The kernel resolves every component, symlinks
// included, with root as the root directory, so that neither ".." nor an absolute link nor one swapped in
// meanwhile leads out; links of /proc are refused.
func openSubPath(root, sub string) (int, error) {
	rootFD, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open volume: %w", err)
	}
	defer unix.Close(rootFD)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := openat2(rootFD, sub, how)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return fd, err
	}
	// Find the deepest part that exists, then make the rest below it, one descriptor at a time.
	parts := strings.Split(filepath.Clean(sub), "/")
	var st unix.Stat_t
	if err := unix.Fstat(rootFD, &st); err != nil {
		return -1, err
	}
	for i := range parts {
		prefix := filepath.Join(parts[:i+1]...)
		if fd, err := openat2(rootFD, prefix, how); err == nil {
			unix.Close(fd)
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return -1, err
		}
		parent := rootFD
		if i > 0 {
			if parent, err = openat2(rootFD, filepath.Join(parts[:i]...), how); err != nil {
				return -1, err
			}
		}
		err := makeLike(parent, parts[i], &st)
		if parent != rootFD {
			unix.Close(parent)
		}
		if err != nil {
			return -1, fmt.Errorf("make %s: %w", prefix, err)
		}
	}
	return openat2(rootFD, sub, how)
}

// makeLike makes a directory with the owner and modes of the volume, so that whoever may write there may write here. It changes
// them through a descriptor: by name, a symlink put in its place in between would be followed.
func makeLike(parent int, name string, like *unix.Stat_t) error {
	if err := unix.Mkdirat(parent, name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, int(like.Uid), int(like.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(fd, like.Mode&0o7777)
}

// openat2 retries when a concurrent rename made the kernel give up (EAGAIN).
func openat2(dir int, path string, how *unix.OpenHow) (int, error) {
	for range 32 {
		fd, err := unix.Openat2(dir, path, how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			if err != nil {
				return -1, &fs.PathError{Op: "openat2", Path: path, Err: err}
			}
			return fd, nil
		}
	}
	return -1, &fs.PathError{Op: "openat2", Path: path, Err: unix.EAGAIN}
}
