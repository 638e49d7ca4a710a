// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/eviction"
)

// guardInterval is how often the node looks at its memory and disk, which tell nobody by themselves.
const guardInterval = 10 * time.Second

// guard watches over what the node may run short of: it sets the node's conditions, removes images that nobody uses, and gives up pods.
// What it decides is in package eviction.
type guard struct {
	k    *Kubelet
	read func() eviction.Reading

	mu   sync.Mutex
	seen map[corev1.NodeConditionType]time.Time // when each condition was last felt

	images    imageUse
	collected time.Time
	measured  time.Duration // how long the last measuring of disks took
	rest      time.Time     // no disks are measured before
}

func newGuard(k *Kubelet) *guard {
	read := k.cfg.Reading
	if read == nil {
		read = func() eviction.Reading { return readReading(k.cfg.DataDir) }
	}
	return &guard{k: k, read: read, seen: map[corev1.NodeConditionType]time.Time{},
		images: imageUse{first: map[string]time.Time{}, last: map[string]time.Time{}}}
}

// short lists the node's pressure conditions, sorted.
func (g *guard) short() []corev1.NodeConditionType {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []corev1.NodeConditionType
	for c, at := range g.seen {
		if time.Since(at) < eviction.Hold {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}

func (g *guard) run(ctx context.Context) error {
	if !waitFor(ctx, g.k.cfg.RuntimeReady) {
		return nil
	}
	t := time.NewTicker(guardInterval)
	defer t.Stop()
	for {
		g.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// look takes one reading and acts on it.
func (g *guard) look(ctx context.Context) {
	r := g.read()
	before := g.short()
	g.note(r)
	if !slices.Equal(before, g.short()) {
		g.k.node.poke()
	}
	low := r.Short()
	if slices.Contains(low, eviction.Disk) || slices.Contains(low, eviction.Inodes) {
		g.tell(low)
		g.collectImages(ctx, true)
		r = g.read()
	} else if time.Since(g.collected) >= imagePeriod {
		g.collectImages(ctx, false)
	}
	low = r.Short()
	pods := g.measure(ctx, low)
	for _, e := range eviction.Overdrawn(pods) {
		g.evict(e)
	}
	if len(low) == 0 {
		return
	}
	g.tell(low)
	if e := eviction.Plan(r, pods); e != nil {
		g.evict(*e)
	} else {
		g.k.log.Warn("the node is short of a resource and no pod may be evicted for it", "resource", low[0].Resource())
	}
}

func (g *guard) note(r eviction.Reading) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range r.Short() {
		g.seen[s.Condition()] = time.Now()
	}
}

func (g *guard) tell(low []eviction.Signal) {
	for _, s := range low {
		g.k.recorder.Event(g.k.node.ref(), corev1.EventTypeWarning, "EvictionThresholdMet", fmt.Sprintf("Attempting to reclaim %s", s.Resource()))
	}
}

// evict ends a pod at once; its status says why.
func (g *guard) evict(e eviction.Eviction) {
	p := g.k.podState(e.Pod.UID)
	if p == nil {
		return
	}
	g.k.update(p, func() {
		if p.pod == nil || p.failure != nil || p.stop() {
			return
		}
		p.failure = &failure{Reason: eviction.Reason, Message: e.Message, Disrupted: e.Pressure, Immediate: true}
		g.k.recorder.Event(p.pod, corev1.EventTypeWarning, eviction.Reason, e.Message)
		g.k.log.Warn("evicting a pod", "namespace", p.ref.Namespace, "pod", p.ref.Name, "why", strings.TrimSpace(e.Message))
	})
}

// measure reads what pods use. Disks are walked only for those that have a limit there, or all when the node is short of disk, and
// never for more than a tenth of the time.
func (g *guard) measure(ctx context.Context, low []eviction.Signal) []eviction.Pod {
	all := slices.Contains(low, eviction.Disk) || slices.Contains(low, eviction.Inodes)
	walk := all || time.Now().After(g.rest)
	began := time.Now()
	var out []eviction.Pod
	g.k.mu.Lock()
	states := g.k.podListLocked()
	g.k.mu.Unlock()
	for _, p := range byCreation(states) {
		p.mu.Lock()
		ok := p.pod != nil && p.admitted && p.failure == nil && !p.stop()
		pod, containers, static := p.pod, p.containers, p.static.Load()
		p.mu.Unlock()
		limited := ok && hasDiskLimits(pod)
		if !ok || len(low) == 0 && !limited {
			continue
		}
		e := eviction.Pod{Pod: pod, Static: static, Containers: map[string]eviction.Usage{}}
		g.cgroups(&e, containers)
		if walk && (all || limited) {
			g.disks(ctx, &e, containers)
		}
		out = append(out, e)
	}
	if walk {
		g.measured = time.Since(began)
		g.rest = time.Now().Add(10 * g.measured)
	}
	return out
}

func hasDiskLimits(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
			return true
		}
	}
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		_, ok := c.Resources.Limits[corev1.ResourceEphemeralStorage]
		return ok
	})
}

func (g *guard) cgroups(e *eviction.Pod, containers []container.Container) {
	reader, ok := g.k.cfg.Cgroups.(cgroupReader)
	if !ok {
		return
	}
	path, ok := reader.Path(e.Pod.UID)
	if !ok {
		return
	}
	if st, err := reader.Stats(path); err == nil {
		e.Usage.Memory, e.Usage.PIDs = st.WorkingSet, st.Processes
	}
	for _, c := range containers {
		if c.State != container.Running {
			continue
		}
		if st, err := reader.Stats(filepath.Join(path, c.ID)); err == nil {
			u := e.Containers[c.Name]
			u.Memory, u.PIDs = st.WorkingSet, st.Processes
			e.Containers[c.Name] = u
		}
	}
}

// diskReader is what a Runtime may offer besides: what a container wrote into its root file system.
type diskReader interface {
	DiskUsage(ctx context.Context, id string) (bytes, inodes uint64, err error)
}

func (g *guard) disks(ctx context.Context, e *eviction.Pod, containers []container.Container) {
	reader, _ := g.k.cfg.Runtime.(diskReader)
	for _, c := range containers {
		u := e.Containers[c.Name]
		if c.LogPath != "" {
			bytes, inodes := diskUsage(filepath.Dir(c.LogPath))
			if u.Disk == 0 { // the folder is that of all attempts
				u.Disk, u.Inodes = bytes, inodes
			}
		}
		if reader != nil {
			if bytes, inodes, err := reader.DiskUsage(ctx, c.ID); err == nil {
				u.Disk, u.Inodes = u.Disk+bytes, u.Inodes+inodes
			}
		}
		e.Containers[c.Name] = u
	}
	for _, u := range e.Containers {
		e.Usage.Disk, e.Usage.Inodes = e.Usage.Disk+u.Disk, e.Usage.Inodes+u.Inodes
	}
	e.EmptyDirs = map[string]uint64{}
	for i := range e.Pod.Spec.Volumes {
		v := &e.Pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault {
			continue
		}
		bytes, inodes := diskUsage(g.k.volumes.Path(e.Pod, v))
		e.EmptyDirs[v.Name] = bytes
		e.Usage.Disk, e.Usage.Inodes = e.Usage.Disk+bytes, e.Usage.Inodes+inodes
	}
}

// diskUsage sums up the blocks and inodes below a directory. What vanishes meanwhile is left out, and a file with several names counts once.
func diskUsage(dir string) (bytes, inodes uint64) {
	type file struct{ dev, ino uint64 }
	linked := map[file]bool{}
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			key := file{uint64(st.Dev), st.Ino}
			if linked[key] {
				return nil
			}
			linked[key] = true
		}
		bytes += uint64(st.Blocks) * 512
		inodes++
		return nil
	})
	return bytes, inodes
}

// readReading looks at the machine; dir is on the file system that the node keeps its things on.
func readReading(dir string) eviction.Reading {
	var r eviction.Reading
	if total, free := memInfo(); total > 0 {
		r.Memory = eviction.Amount{Available: uint64(free), Total: uint64(total)}
	}
	var st unix.Statfs_t
	if unix.Statfs(existingParent(dir), &st) == nil {
		size := uint64(st.Bsize)
		// What is kept back from everybody is no part of the disk, as df has it.
		r.Disk = eviction.Amount{Available: st.Bavail * size, Total: (st.Blocks - st.Bfree + st.Bavail) * size}
		r.Inodes = eviction.Amount{Available: st.Ffree, Total: st.Files}
	}
	if limit, err := strconv.ParseUint(firstLine("/proc/sys/kernel/pid_max"), 10, 64); err == nil {
		if f := strings.Fields(firstLine("/proc/loadavg")); len(f) > 3 {
			_, n, _ := strings.Cut(f[3], "/")
			if tasks, err := strconv.ParseUint(n, 10, 64); err == nil {
				r.PIDs = eviction.Amount{Available: limit - min(tasks, limit), Total: limit}
			}
		}
	}
	return r
}

// imagesInUse lists what the containers of this node were made from and what they mount, as references and IDs.
func (k *Kubelet) imagesInUse() map[string]bool {
	used := map[string]bool{}
	k.mu.Lock()
	states := k.podListLocked()
	k.mu.Unlock()
	for _, p := range states {
		p.mu.Lock()
		for _, c := range p.containers {
			used[c.Image], used[c.ImageID] = true, true
			for _, id := range c.VolumeImages {
				used[id] = true
			}
		}
		if p.pod != nil && !p.gone {
			for _, ref := range imageVolumes(p.pod) {
				used[ref] = true
			}
		}
		p.mu.Unlock()
	}
	return used
}

// imageVolumes are the references of a pod's image volumes.
func imageVolumes(pod *corev1.Pod) []string {
	var refs []string
	for i := range pod.Spec.Volumes {
		if img := pod.Spec.Volumes[i].Image; img != nil {
			refs = append(refs, normalImage(img.Reference))
		}
	}
	return refs
}
