// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Disks are measured when somebody asks, not before, and a pod's not again within diskAge, nor within diskRest times as long as
// that took. Upstream measures every pod once a minute whether anybody asks or not.
const (
	diskAge  = time.Minute
	diskRest = 10
)

// diskFigures remembers what the disks of pods were last measured to hold.
type diskFigures struct {
	mu   sync.Mutex // held while a pod is measured: who asks meanwhile gets the same figures
	pods map[types.UID]podDisk
}

// podDisk is what one pod has on disk.
type podDisk struct {
	until        time.Time
	at           metav1.Time
	rootfs, logs map[string]used // by container ID
	volumes      []volumeFigures
	ephemeral    used // all that goes with the pod
}

type used struct{ bytes, inodes uint64 }

func (u used) plus(o used) used { return used{u.bytes + o.bytes, u.inodes + o.inodes} }

// volumeFigures are those of one volume, as upstream's stats/v1alpha1 has them.
type volumeFigures struct {
	fsStats
	Name   string        `json:"name,omitempty"`
	PVCRef *pvcReference `json:"pvcRef,omitempty"`
}

type pvcReference struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// diskOf gives the figures of a pod that runs.
func (k *Kubelet) diskOf(ctx context.Context, u usage) podDisk {
	uid := types.UID(u.ref.UID)
	k.disks.mu.Lock()
	defer k.disks.mu.Unlock()
	if known, ok := k.disks.pods[uid]; ok && time.Now().Before(known.until) && known.covers(u) {
		return known
	}
	began := time.Now()
	d := k.measureDisk(ctx, u)
	if ctx.Err() != nil {
		return d // the walk may not have come to its end
	}
	d.until = time.Now().Add(max(diskAge, diskRest*time.Since(began)))
	if k.disks.pods == nil {
		k.disks.pods = map[types.UID]podDisk{}
	}
	k.disks.pods[uid] = d
	return d
}

// covers tells whether all containers were there when the pod was measured.
func (d podDisk) covers(u usage) bool {
	for _, c := range u.containers {
		if _, ok := d.logs[c.id]; !ok {
			return false
		}
	}
	return true
}

// keep drops the figures of pods that do not run any more.
func (f *diskFigures) keep(running []usage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	there := map[types.UID]bool{}
	for _, u := range running {
		there[types.UID(u.ref.UID)] = true
	}
	for uid := range f.pods {
		if !there[uid] {
			delete(f.pods, uid)
		}
	}
}

func (k *Kubelet) measureDisk(ctx context.Context, u usage) podDisk {
	d := podDisk{at: metav1.Now(), rootfs: map[string]used{}, logs: map[string]used{}}
	reader, _ := k.cfg.Runtime.(diskReader)
	for _, c := range u.containers {
		if c.logPath != "" { // the folder is that of all attempts
			bytes, inodes := diskUsage(filepath.Dir(c.logPath))
			d.logs[c.id] = used{bytes, inodes}
		} else {
			d.logs[c.id] = used{}
		}
		d.ephemeral = d.ephemeral.plus(d.logs[c.id])
		if reader == nil {
			continue
		}
		if bytes, inodes, err := reader.DiskUsage(ctx, c.id); err == nil {
			d.rootfs[c.id] = used{bytes, inodes}
			d.ephemeral = d.ephemeral.plus(d.rootfs[c.id])
		}
	}
	if u.pod == nil {
		return d
	}
	for i := range u.pod.Spec.Volumes {
		k.measureVolume(&d, u.pod, &u.pod.Spec.Volumes[i])
	}
	return d
}

// measureVolume adds the figures of a volume, if it is of a kind for which upstream has any: a file system of its own tells how
// full it is, what shares one with others is walked, a device has a size.
func (k *Kubelet) measureVolume(d *podDisk, pod *corev1.Pod, v *corev1.Volume) {
	path := k.volumes.Path(pod, v)
	if path == "" || v.HostPath != nil {
		return
	}
	f := volumeFigures{Name: v.Name}
	claim, hostPath := k.volumes.Claim(pod, v)
	if claim != "" {
		if hostPath {
			return
		}
		f.PVCRef = &pvcReference{claim, pod.Namespace}
		if st, err := os.Stat(path); err == nil && !st.IsDir() {
			size, ok := deviceSize(path)
			if !ok {
				return
			}
			f.fsStats = fsStats{Time: d.at, CapacityBytes: &size}
			d.volumes = append(d.volumes, f)
			return
		}
	}
	fs, ok := fileSystem(path, d.at)
	if !ok {
		return
	}
	f.fsStats = fs
	if claim == "" && (v.EmptyDir == nil || v.EmptyDir.Medium == corev1.StorageMediumDefault) {
		bytes, inodes := diskUsage(path)
		f.UsedBytes, f.InodesUsed = &bytes, &inodes
		if v.EmptyDir != nil || v.ConfigMap != nil { // the others are kept in memory
			d.ephemeral = d.ephemeral.plus(used{bytes, inodes})
		}
	}
	d.volumes = append(d.volumes, f)
}

// fileSystem says how full the file system is that path is on.
func fileSystem(path string, at metav1.Time) (fsStats, bool) {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return fsStats{}, false
	}
	size := uint64(st.Bsize)
	capacity, available, taken := st.Blocks*size, st.Bavail*size, (st.Blocks-st.Bfree)*size
	inodes, free := st.Files, st.Ffree
	inodesUsed := inodes - free
	return fsStats{Time: at, CapacityBytes: &capacity, AvailableBytes: &available, UsedBytes: &taken, Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesUsed}, true
}

// deviceSize is that of a block device, in bytes.
func deviceSize(path string) (uint64, bool) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	return uint64(n), err == nil
}

// share is a part of a file system: what of it is used is known, the rest is the file system's.
func (u used) share(of fsStats) *fsStats {
	of.UsedBytes, of.InodesUsed = &u.bytes, &u.inodes
	return &of
}

// claimFigures collects the figures of claims for /metrics, under the names that upstream's kubelet has for them.
type claimFigures struct{ k *Kubelet }

var claimSeries = []struct {
	desc  *prometheus.Desc
	value func(volumeFigures) *uint64
}{
	{claimDesc("available_bytes", "Number of available bytes in the volume"), func(v volumeFigures) *uint64 { return v.AvailableBytes }},
	{claimDesc("capacity_bytes", "Capacity in bytes of the volume"), func(v volumeFigures) *uint64 { return v.CapacityBytes }},
	{claimDesc("inodes", "Maximum number of inodes in the volume"), func(v volumeFigures) *uint64 { return v.Inodes }},
	{claimDesc("inodes_free", "Number of free inodes in the volume"), func(v volumeFigures) *uint64 { return v.InodesFree }},
	{claimDesc("inodes_used", "Number of used inodes in the volume"), func(v volumeFigures) *uint64 { return v.InodesUsed }},
	{claimDesc("used_bytes", "Number of used bytes in the volume"), func(v volumeFigures) *uint64 { return v.UsedBytes }},
}

func claimDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kubelet_volume_stats_"+name, "[ALPHA] "+help, []string{"namespace", "persistentvolumeclaim"}, nil)
}

// Describe implements prometheus.Collector.
func (claimFigures) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range claimSeries {
		ch <- s.desc
	}
}

// Collect implements prometheus.Collector.
func (f claimFigures) Collect(ch chan<- prometheus.Metric) {
	seen := map[pvcReference]bool{}
	all := f.k.readUsage()
	f.k.disks.keep(all)
	for _, u := range all {
		for _, v := range f.k.diskOf(f.k.ctx, u).volumes {
			if v.PVCRef == nil || seen[*v.PVCRef] { // pods of a node may share one
				continue
			}
			seen[*v.PVCRef] = true
			for _, s := range claimSeries {
				if n := s.value(v); n != nil {
					ch <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, float64(*n), v.PVCRef.Namespace, v.PVCRef.Name)
				}
			}
		}
	}
}
