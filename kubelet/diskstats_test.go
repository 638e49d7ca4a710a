// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/cgroup"
)

// openCgroups has the cgroup of every pod, and nothing to tell of it.
type openCgroups struct{}

func (openCgroups) EnsurePod(pod *corev1.Pod) (string, error) { return "/" + string(pod.UID), nil }
func (openCgroups) RemovePod(types.UID) error                 { return nil }
func (openCgroups) Path(uid types.UID) (string, bool)         { return "/" + string(uid), true }
func (openCgroups) Stats(string) (cgroup.Stats, error)        { return cgroup.Stats{CPUNanos: 1}, nil }

// TestVolumeFigures reads what is told of a pod's disks, which is measured once a minute at most.
func TestVolumeFigures(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		disk := t.TempDir()
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data", UID: "c1"},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: disk}},
			ClaimRef:               &corev1.ObjectReference{Namespace: "default", Name: "data", UID: "c1"}}}
		if err := errors.Join(r.cs.Tracker().Add(claim), r.cs.Tracker().Add(pv)); err != nil {
			t.Fatal(err)
		}
		r.cfg.Cgroups = openCgroups{}
		r.run()
		p := testPod("p")
		p.Spec.Volumes = []corev1.Volume{
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: disk}}},
			{Name: "claimed", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		}
		r.create(p)
		t.Cleanup(func() {
			if err := r.k.volumes.Teardown(p.UID); err != nil {
				t.Error(err)
			}
		})
		write := func(kib int) {
			if err := os.WriteFile(filepath.Join(r.k.volumes.Path(p, &p.Spec.Volumes[0]), "file"), make([]byte, kib<<10), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		get := func(path string) string {
			w := httptest.NewRecorder()
			r.k.Handler().ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), "GET", path, nil))
			return w.Body.String()
		}
		read := func() podStats {
			var s summary
			if err := json.Unmarshal([]byte(get("/stats/summary")), &s); err != nil || len(s.Pods) != 1 || len(s.Pods[0].Containers) != 1 {
				t.Fatalf("%v: %+v", err, s)
			}
			if s.Node.Runtime == nil || *s.Node.Runtime.ImageFs.CapacityBytes == 0 {
				t.Errorf("runtime %+v", s.Node.Runtime)
			}
			return s.Pods[0]
		}
		write(100)
		st := read()
		if len(st.Volumes) != 2 || st.Volumes[0].Name != "scratch" || st.Volumes[1].Name != "claimed" {
			t.Fatalf("volumes %+v", st.Volumes)
		}
		v := st.Volumes[0]
		if v.PVCRef != nil || *v.UsedBytes < 100<<10 || *v.UsedBytes > 200<<10 || *v.InodesUsed != 2 || *v.CapacityBytes < *v.UsedBytes || *v.Inodes < *v.InodesFree || v.Time.IsZero() {
			t.Errorf("emptyDir: %+v", v)
		}
		if v := st.Volumes[1]; v.PVCRef == nil || *v.PVCRef != (pvcReference{"data", "default"}) || *v.CapacityBytes < *v.UsedBytes || *v.CapacityBytes < *v.AvailableBytes {
			t.Errorf("claim: %+v", v)
		}
		if c := st.Containers[0]; c.Logs == nil || c.Logs.UsedBytes == nil || *c.Logs.CapacityBytes == 0 {
			t.Errorf("container %+v", c)
		}
		if e := st.Ephemeral; e == nil || *e.UsedBytes < 100<<10 || *e.CapacityBytes == 0 {
			t.Errorf("ephemeral storage %+v", e)
		}
		metrics := get("/metrics")
		for _, want := range []string{"# TYPE kubelet_volume_stats_used_bytes gauge", `kubelet_volume_stats_capacity_bytes{namespace="default",persistentvolumeclaim="data"} `,
			`kubelet_volume_stats_inodes_free{namespace="default",persistentvolumeclaim="data"} `} {
			if !strings.Contains(metrics, want) {
				t.Errorf("no %q in\n%s", want, metrics)
			}
		}
		write(400)
		if v := read().Volumes[0]; *v.UsedBytes > 200<<10 {
			t.Error("measured again within a minute")
		}
		after(diskAge + time.Second)
		if v := read().Volumes[0]; *v.UsedBytes < 400<<10 {
			t.Errorf("after a minute: %d bytes", *v.UsedBytes)
		}
	})
}
