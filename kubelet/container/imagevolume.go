// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// errImageVolume is the beginning of what is said about an image volume that cannot be mounted, as CRI has it.
var errImageVolume = errors.New("ImageVolumeMountFailed")

// volumePrefix begins the names of the snapshots behind image volumes: volume-SANDBOX-ID, ID being the image's digest without
// the algorithm.
const volumePrefix = "volume-"

func (r *Containerd) volumesPath(sandboxID string) string {
	return filepath.Join(r.dir, "volumes", sandboxID)
}

func volumeKey(sandboxID, image string) string { return volumePrefix + sandboxID + "-" + image }

// imageVolumes puts the folders of the node in the places of the images that cfg mounts, and gives the images' IDs. The
// containers of a sandbox share a volume; it goes with the sandbox (KEP-4639).
func (r *Containerd) imageVolumes(ctx context.Context, s *sandbox, cfg *ContainerConfig) (ids []string, err error) {
	if !slices.ContainsFunc(cfg.Mounts, func(m Mount) bool { return m.Image != "" }) {
		return nil, nil
	}
	mounts := slices.Clone(cfg.Mounts)
	for i := range mounts {
		m := &mounts[i]
		if m.Image == "" {
			continue
		}
		info, err := r.imageInfo(ctx, m.Image)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errImageVolume, err)
		}
		at, err := r.mountVolume(ctx, s, info)
		if err != nil {
			return nil, fmt.Errorf("%w: image %s: %w", errImageVolume, m.Image, err)
		}
		if m.HostPath, err = volumeFolder(at, m.SubPath); err != nil {
			return nil, fmt.Errorf("%w: subPath %q of image %s: %w", errImageVolume, m.SubPath, m.Image, err)
		}
		m.ReadOnly = true
		if id := info.digest.String(); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	cfg.Mounts = mounts
	return ids, nil
}

// mountVolume mounts an image for a sandbox, unless it is mounted. The folder is made before the snapshot and removed after
// it, so that whoever sees the folders sees all there is.
func (r *Containerd) mountVolume(ctx context.Context, s *sandbox, image *imageInfo) (at string, err error) {
	s.volumes.Lock()
	defer s.volumes.Unlock()
	if s.noVolumes {
		return "", fmt.Errorf("sandbox %s: %w", s.id, ErrNotRunning)
	}
	name := image.digest.Encoded()
	at = filepath.Join(r.volumesPath(s.id), name)
	if isMountPoint(at) {
		return at, nil
	}
	if err := os.MkdirAll(at, 0o711); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			ctx, cancel := undo(ctx)
			defer cancel()
			err = errors.Join(err, r.removeVolume(ctx, s.id, name)) // what is left goes with the sandbox
		}
	}()
	sn, key := r.client.SnapshotService(r.snapshotter), volumeKey(s.id, name)
	mounts, err := sn.View(ctx, key, image.chainID, snapshots.WithLabels(map[string]string{
		"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339), // until removeVolume
	}))
	if errdefs.IsAlreadyExists(native(err)) { // of an earlier life
		mounts, err = sn.Mounts(ctx, key)
	}
	if err != nil {
		return "", native(err)
	}
	return at, mount.All(mounts, at)
}

// volumeFolder resolves a subPath inside a mounted image, whose links cannot lead out of it. That it is a folder is a rule
// of CRI's.
func volumeFolder(at, sub string) (string, error) {
	if sub == "" {
		return at, nil
	}
	root, err := unix.Open(at, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, sub, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", errors.New("only a directory can be mounted")
	}
	// An image does not change, so what the path names now it names when it is mounted.
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// removeVolumes takes away the image volumes of a sandbox, in which nothing may run any more, and lets none be made again.
func (r *Containerd) removeVolumes(ctx context.Context, s *sandbox) error {
	s.volumes.Lock()
	defer s.volumes.Unlock()
	s.noVolumes = true
	return r.removeVolumesOf(ctx, s.id)
}

func (r *Containerd) removeVolumesOf(ctx context.Context, sandboxID string) error {
	dir := r.volumesPath(sandboxID)
	var errs []error
	for _, name := range readDir(dir) {
		errs = append(errs, r.removeVolume(ctx, sandboxID, name))
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *Containerd) removeVolume(ctx context.Context, sandboxID, name string) error {
	at := filepath.Join(r.volumesPath(sandboxID), name)
	for isMountPoint(at) { // an overlay is one mount, but a crash may have come between a mount and the next try
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount image volume %s: %w", at, err)
		}
	}
	err := native(r.client.SnapshotService(r.snapshotter).Remove(ctx, volumeKey(sandboxID, name)))
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image volume: %w", err)
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// isVolumeLeft tells whether a snapshot is of an image volume of which there is no folder, as after a power failure.
func (r *Containerd) isVolumeLeft(key string) bool {
	rest, ok := strings.CutPrefix(key, volumePrefix)
	sandboxID, name, two := strings.Cut(rest, "-")
	if !ok || !two {
		return false
	}
	_, err := os.Lstat(filepath.Join(r.volumesPath(sandboxID), name))
	return errors.Is(err, fs.ErrNotExist)
}

// isMountPoint tells whether something is mounted at a path.
func isMountPoint(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st)
	return err == nil && st.Attributes_mask&st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
