// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/cgroup"
)

// makeSpec gathers what containerSpec needs from this machine.
func (r *Containerd) makeSpec(ctx context.Context, id string, s *sandbox, cfg ContainerConfig, image *imageInfo) (*specs.Spec, error) {
	db, err := r.userDB(ctx, image.chainID)
	if err != nil {
		return nil, err
	}
	u, err := resolveUser(cfg.Pod, cfg.Container, image.config.User, db)
	if err != nil {
		return nil, err
	}
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = r.cfg.CgroupRoot
	}
	in := specInput{
		ID: id, Config: cfg, Image: image.config, User: u,
		Sandbox:     sandboxView{ID: s.id, Pid: int(s.processID()), Hostname: hostname(cfg.Pod)},
		OOMScoreAdj: r.clampOOM(oomScoreAdj(cfg.Pod, cfg.Container, r.memory)),
		Resources:   linuxResources(cfg.Container.Resources, r.host),
		Unified:     r.host.Unified,
		AllCaps:     r.allCaps,
	}
	if !s.rec.HostNetwork {
		in.Sandbox.NetNS = r.netnsPath(s.id)
	}
	if !cfg.Pod.Spec.HostIPC {
		in.Sandbox.ShmPath = r.shmPath(s.id)
	}
	if cfg.TargetID != "" {
		target, err := r.container(cfg.TargetID)
		if err != nil {
			return nil, err
		}
		if in.TargetPid = int(target.processID()); in.TargetPid == 0 {
			return nil, fmt.Errorf("target container %s: %w", target.name, ErrNotRunning)
		}
	}
	sc := effectiveSecurity(cfg.Pod, cfg.Container)
	if deref(sc.Privileged) {
		if in.HostDevices, err = oci.HostDevices(); err != nil {
			return nil, fmt.Errorf("devices: %w", err)
		}
	}
	if in.Devices, err = devices(cfg.Devices); err != nil {
		return nil, fmt.Errorf("devices: %w", err)
	}
	spec, err := containerSpec(in)
	if err != nil {
		return nil, err
	}
	if !deref(sc.Privileged) {
		spec.Linux.Seccomp, err = r.seccompFor(sc.SeccompProfile, spec)
	}
	return spec, err
}

// hostname is what a pod calls itself.
func hostname(pod *corev1.Pod) string {
	if pod.Spec.HostNetwork {
		name, _ := os.Hostname()
		return name
	}
	return firstOf(deref(pod.Spec.HostnameOverride), pod.Spec.Hostname, pod.Name)
}

// devices describes what a container asked for. The nodes keep the modes and owners that they have on this machine.
func devices(wanted []Device) ([]grantedDevice, error) {
	var list []grantedDevice
	for _, w := range wanted {
		at, err := filepath.EvalSymlinks(w.HostPath)
		if err != nil {
			return nil, err
		}
		found, err := oci.DeviceFromPath(at)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.HostPath, err)
		}
		d := grantedDevice{*found, "rwm"}
		if d.Path = filepath.Clean(w.ContainerPath); w.ReadOnly {
			d.access = "r"
		}
		list = append(list, d)
	}
	return list, nil
}

// seccompFor is the filter that a profile asks for. No profile means none, as upstream without SeccompDefault.
func (r *Containerd) seccompFor(p *corev1.SeccompProfile, spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	if p == nil {
		return nil, nil
	}
	switch p.Type {
	case corev1.SeccompProfileTypeUnconfined:
		return nil, nil
	case corev1.SeccompProfileTypeRuntimeDefault:
		return seccomp.DefaultProfile(spec), nil
	case corev1.SeccompProfileTypeLocalhost:
		name := deref(p.LocalhostProfile)
		if !filepath.IsLocal(name) {
			return nil, fmt.Errorf("seccomp profile %q is not below the node's profile folder", name)
		}
		data, err := os.ReadFile(filepath.Join(r.cfg.SeccompDir, name))
		if err != nil {
			return nil, fmt.Errorf("cannot load seccomp profile %q: %w", name, err)
		}
		var filter specs.LinuxSeccomp
		if err := json.Unmarshal(data, &filter); err != nil {
			return nil, fmt.Errorf("cannot decode seccomp profile %q: %w", name, err)
		}
		return &filter, nil
	default:
		return nil, fmt.Errorf("unknown seccomp profile type %q", p.Type)
	}
}

// maxUserFile bounds what is read of an image's passwd and group.
const maxUserFile = 1 << 20

// userDB reads the users of a root file system, once for each.
func (r *Containerd) userDB(ctx context.Context, chainID string) (db userDB, err error) {
	r.infos.mu.Lock()
	db, ok := r.infos.users[chainID]
	r.infos.mu.Unlock()
	if ok {
		return db, nil
	}
	key := viewPrefix + newID()
	sn := r.client.SnapshotService(r.snapshotter)
	defer func() {
		ctx, cancel := undo(ctx)
		defer cancel()
		if e := native(sn.Remove(ctx, key)); e != nil && !errdefs.IsNotFound(e) {
			err = errors.Join(err, e)
		}
	}()
	mounts, err := sn.View(ctx, key, chainID, snapshots.WithLabels(map[string]string{
		"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339), // until the Remove above
	}))
	if err != nil {
		return userDB{}, fmt.Errorf("look into the image: %w", native(err))
	}
	err = mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		// The root keeps the image's symbolic links from leading out of it.
		dir, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		defer dir.Close()
		if db.passwd, err = readUserFile(dir, "etc/passwd"); err != nil {
			return err
		}
		db.group, err = readUserFile(dir, "etc/group")
		return err
	})
	if err != nil {
		return userDB{}, fmt.Errorf("look into the image: %w", err)
	}
	r.infos.mu.Lock()
	if r.infos.users == nil {
		r.infos.users = make(map[string]userDB)
	}
	r.infos.users[chainID] = db
	r.infos.mu.Unlock()
	return db, nil
}

// viewPrefix begins the names of the snapshots by which userDB looks into images.
const viewPrefix = "users-"

// removeViews takes away the looks into images of an earlier life, whose mounts went when containerd was started, and image
// volumes that were forgotten.
func (r *Containerd) removeViews(ctx context.Context) error {
	sn := r.client.SnapshotService(r.snapshotter)
	var keys []string
	err := sn.Walk(ctx, func(_ context.Context, s snapshots.Info) error {
		if s.Kind == snapshots.KindView && (strings.HasPrefix(s.Name, viewPrefix) || r.isVolumeLeft(s.Name)) {
			keys = append(keys, s.Name)
		}
		return nil
	})
	errs := []error{native(err)}
	for _, key := range keys {
		if err := native(sn.Remove(ctx, key)); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func readUserFile(root *os.Root, name string) ([]byte, error) {
	// What is no file is not opened: a pipe would keep us for ever.
	info, err := root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil, nil
	} else if err != nil {
		// A link that leads out of the image names no file of it.
		if strings.Contains(err.Error(), "escapes") {
			return nil, nil
		}
		return nil, err
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxUserFile))
}

// DiskUsage is what the container wrote into its root file system.
func (r *Containerd) DiskUsage(ctx context.Context, id string) (bytes, inodes uint64, err error) {
	if ctx, err = r.in(ctx); err != nil {
		return 0, 0, err
	}
	u, err := r.client.SnapshotService(r.snapshotter).Usage(ctx, id)
	if err != nil {
		return 0, 0, fmt.Errorf("disk usage of container %s: %w", id, native(err))
	}
	return uint64(u.Size), uint64(u.Inodes), nil
}

// UpdateResources implements Runtime.
func (r *Containerd) UpdateResources(ctx context.Context, id string, req corev1.ResourceRequirements) error {
	ctx, err := r.in(ctx)
	if err != nil {
		return err
	}
	c, err := r.container(id)
	if err != nil {
		return err
	}
	if !c.is(Running) {
		return fmt.Errorf("update resources of container %s: %w", c.name, ErrNotRunning)
	}
	res := linuxResources(req, r.host)
	if res.Memory != nil && r.host.Unified {
		// v1 refuses such a limit, v2 would kill the container.
		used, err := cgroup.Lowers(filepath.Join("/sys/fs/cgroup", c.rec.CgroupPath), *res.Memory.Limit)
		if err != nil {
			return fmt.Errorf("memory usage of container %s: %w", c.name, err)
		} else if used > 0 {
			return fmt.Errorf("cannot decrease memory limits: attempting to set container %q memory limit (%d) below current usage (%d)",
				c.name, *res.Memory.Limit, used)
		}
	}
	if res.CPU.Quota == nil {
		none := int64(-1)
		res.CPU.Quota = &none
	}
	if res.Memory == nil {
		none := int64(-1)
		res.Memory = &specs.LinuxMemory{Limit: &none}
	}
	resAny, err := typeurl.MarshalAny(res)
	if err != nil {
		return err
	}
	if _, err := r.tasks.Update(ctx, &tasks.UpdateTaskRequest{ContainerID: id, Resources: typeurl.MarshalProto(resAny)}); err != nil {
		return fmt.Errorf("update resources of container %s: %w", c.name, native(err))
	}
	return nil
}
