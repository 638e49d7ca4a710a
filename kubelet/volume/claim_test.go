// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mini-k8s/mini/kubelet/container"
	"github.com/mini-k8s/mini/kubelet/downward"
)

// TestBlockClaims passes on the device behind a local volume of mode Block.
func TestBlockClaims(t *testing.T) {
	dir := t.TempDir()
	device := filepath.Join(dir, "device")
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(240, 0))); err != nil {
		t.Skip(err)
	}
	link := filepath.Join(dir, "by-name")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		path   string
		mode   corev1.PersistentVolumeMode
		mounts bool
		fails  string
	}{
		"device":      {path: device, mode: corev1.PersistentVolumeBlock},
		"link":        {path: link, mode: corev1.PersistentVolumeBlock},
		"directory":   {path: dir, mode: corev1.PersistentVolumeBlock, fails: "is not a block device"},
		"absent":      {path: device + ".absent", mode: corev1.PersistentVolumeBlock, fails: "no such file"},
		"mounted":     {path: device, mode: corev1.PersistentVolumeBlock, mounts: true, fails: "volume v has volumeMode Block, but is specified in volumeMounts"},
		"file_system": {path: dir, mode: corev1.PersistentVolumeFilesystem, fails: "volume v has volumeMode Filesystem, but is specified in volumeDevices"},
		"host_path":   {mode: corev1.PersistentVolumeBlock, fails: "no block volume plugin matched"},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "c1"},
				Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv", VolumeMode: &tc.mode}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
			pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{VolumeMode: &tc.mode,
				PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: tc.path}},
				ClaimRef:               &corev1.ObjectReference{Namespace: "ns", Name: "data", UID: "c1"}}}
			if tc.path == "" {
				pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: device}}
			}
			client := fake.NewClientset(claim, pv)
			m := NewManager(Config{Dir: t.TempDir(), Tokens: NewTokens(client), Claims: Claims{Client: client}})
			c := corev1.Container{Name: "c", VolumeDevices: []corev1.VolumeDevice{{Name: "v", DevicePath: "/dev/x"}}}
			if tc.mounts {
				c = corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/x"}}}
			}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{c}, Volumes: []corev1.Volume{{Name: "v",
					VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data", ReadOnly: name == "link"}}}}}}
			_, err := m.Setup(context.Background(), pod, downward.Facts{})
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("%v, want %q", err, tc.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			devices, err := m.Devices(pod, &c)
			if want := (container.Device{HostPath: tc.path, ContainerPath: "/dev/x", ReadOnly: name == "link"}); err != nil || len(devices) != 1 || devices[0] != want {
				t.Errorf("%+v, %v; want %+v", devices, err, want)
			}
			if err := m.Teardown("u"); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(device); err != nil {
				t.Errorf("the device after the pod: %v", err)
			}
		})
	}
}

func TestResolveRecursiveReadOnly(t *testing.T) {
	enabled, possible, disabled, odd := corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyMode("x")
	shared := corev1.MountPropagationHostToContainer
	for name, tc := range map[string]struct {
		mount     corev1.VolumeMount
		supported bool
		want      bool
		fails     string
	}{
		"not_asked":      {corev1.VolumeMount{ReadOnly: true}, true, false, ""},
		"disabled":       {corev1.VolumeMount{ReadOnly: true, RecursiveReadOnly: &disabled}, true, false, ""},
		"enabled":        {corev1.VolumeMount{ReadOnly: true, RecursiveReadOnly: &enabled}, true, true, ""},
		"cannot_be":      {corev1.VolumeMount{ReadOnly: true, RecursiveReadOnly: &enabled}, false, false, "not supported by the runtime"},
		"possible":       {corev1.VolumeMount{ReadOnly: true, RecursiveReadOnly: &possible}, true, true, ""},
		"not_possible":   {corev1.VolumeMount{ReadOnly: true, RecursiveReadOnly: &possible}, false, false, ""},
		"writable":       {corev1.VolumeMount{RecursiveReadOnly: &possible}, true, false, "it is not read-only"},
		"propagated":     {corev1.VolumeMount{ReadOnly: true, RecursiveReadOnly: &enabled, MountPropagation: &shared}, true, false, "not compatible with propagation"},
		"not_understood": {corev1.VolumeMount{ReadOnly: true, RecursiveReadOnly: &odd}, true, false, "unknown recursive read-only mode"},
	} {
		got, err := ResolveRecursiveReadOnly(&tc.mount, tc.supported)
		if got != tc.want || (err == nil) != (tc.fails == "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
}

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
