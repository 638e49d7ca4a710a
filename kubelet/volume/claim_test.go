// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/kubelet/downward"
)

func TestClaims(t *testing.T) {
	disk := t.TempDir()
	if err := os.WriteFile(filepath.Join(disk, "data"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	local := corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: disk}}
	there := map[string]string{corev1.LabelHostname: "n1"}
	on := func(node string) *corev1.VolumeNodeAffinity {
		return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}
	}
	for name, tc := range map[string]struct {
		change func(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume)
		fails  string // in the error; "" works
	}{
		"local": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.NodeAffinity = on("n1") }, ""},
		"host_path": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: disk}}
		}, ""},
		"not_bound": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Status.Phase = corev1.ClaimPending
		}, "PVC is not bound"},
		"other_claim":  {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.ClaimRef.UID = "x" }, "bound to another claim"},
		"another_node": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.NodeAffinity = on("n2") }, "is not on this node"},
		"missing_disk": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			v.Spec.Local = &corev1.LocalVolumeSource{Path: disk + "/absent"}
		}, "no such file"},
		"another_plugin": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}
		}, "no volume plugin matched"},
		"being_deleted": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			now := metav1.Now()
			c.DeletionTimestamp, c.Finalizers = &now, []string{"kubernetes.io/pvc-protection"}
		}, "PVC is being deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "c1"},
				Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
			pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: local,
				ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "data", UID: "c1"}}}
			pv = pv.DeepCopy()
			tc.change(claim, pv)
			client := fake.NewClientset(claim, pv)
			m := NewManager(Config{Dir: t.TempDir(), Tokens: NewTokens(client), Claims: Claims{Client: client, Node: func() map[string]string { return there }}})
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v",
				VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data", ReadOnly: true}}}}}}
			c := &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/data"}}}
			_, err := m.Setup(context.Background(), pod, downward.Facts{})
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("%v, want %q", err, tc.fails)
				}
				if _, err := m.Mounts(pod, c, nil); err == nil {
					t.Error("a volume that is not there was mounted")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Setup(context.Background(), pod, downward.Facts{}); err != nil { // again, as after a restart
				t.Fatal(err)
			}
			mounts, err := m.Mounts(pod, c, nil)
			if err != nil || len(mounts) != 1 || !mounts[0].ReadOnly {
				t.Fatalf("%+v, %v", mounts, err)
			}
			if data, err := os.ReadFile(filepath.Join(mounts[0].HostPath, "data")); err != nil || string(data) != "kept" {
				t.Errorf("%q, %v", data, err)
			}
			if err := m.Teardown("u"); err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(filepath.Join(disk, "data")); err != nil || string(data) != "kept" {
				t.Errorf("the volume's data after the pod: %q, %v", data, err)
			}
		})
	}
}
