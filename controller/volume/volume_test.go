package volume

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func newVolume(name, size string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	if len(modes) == 0 {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{volumeProtection}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: modes,
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumePending},
	}
}

func newClaim(name, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Finalizers: []string{claimProtection}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
}

func TestMatch(t *testing.T) {
	classed := newVolume("classed", "1Gi")
	classed.Spec.StorageClassName = "fast"
	labelled := newVolume("labelled", "9Gi")
	labelled.Labels = map[string]string{"a": "b"}
	aside := newVolume("aside", "8Gi")
	aside.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "c"}
	taken := newVolume("taken", "2Gi")
	taken.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "other", UID: "x"}
	shared := newVolume("shared", "2Gi", corev1.ReadOnlyMany)
	fast := "fast"
	for _, c := range []struct {
		name    string
		claim   func(*corev1.PersistentVolumeClaim)
		volumes []*corev1.PersistentVolume
		want    string
	}{
		{"smallest", nil, []*corev1.PersistentVolume{newVolume("big", "9Gi"), newVolume("small", "2Gi"), newVolume("tiny", "1Mi")}, "small"},
		{"class", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &fast }, []*corev1.PersistentVolume{newVolume("small", "2Gi"), classed}, "classed"},
		{"no_class", nil, []*corev1.PersistentVolume{classed}, ""},
		{"selector", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, []*corev1.PersistentVolume{newVolume("small", "2Gi"), labelled}, "labelled"},
		{"set_aside", nil, []*corev1.PersistentVolume{newVolume("small", "2Gi"), aside}, "aside"},
		{"taken", nil, []*corev1.PersistentVolume{taken}, ""},
		{"modes", nil, []*corev1.PersistentVolume{shared}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			claim := newClaim("c", "1Gi")
			if c.claim != nil {
				c.claim(claim)
			}
			got := ""
			if v := match(claim, c.volumes); v != nil {
				got = v.Name
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestBindingProperties: syncs in any order never give a volume to two claims, give every claim a volume that fits, and come
// to rest.
func TestBindingProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var volumes []*corev1.PersistentVolume
		for i := range rapid.IntRange(0, 4).Draw(t, "volumes") {
			volumes = append(volumes, newVolume(fmt.Sprint("v", i), fmt.Sprintf("%dGi", rapid.IntRange(1, 4).Draw(t, "size"))))
		}
		var claims []*corev1.PersistentVolumeClaim
		for i := range rapid.IntRange(0, 4).Draw(t, "claims") {
			claims = append(claims, newClaim(fmt.Sprint("c", i), fmt.Sprintf("%dGi", rapid.IntRange(1, 4).Draw(t, "wanted"))))
		}
		step := func() (changed bool) {
			for i := range claims {
				p := planClaim(claims[i], volumes, nil, nil)
				switch {
				case p.volume != nil:
					for k := range volumes {
						if volumes[k].Name == p.volume.Name {
							volumes[k] = p.volume
						}
					}
				case p.claim != nil:
					claims[i] = p.claim
				case p.claimStatus != nil:
					claims[i] = p.claimStatus
				default:
					continue
				}
				changed = true
			}
			return changed
		}
		for n := 0; step(); n++ {
			if n > 20 {
				t.Fatal("does not come to rest")
			}
		}
		had := map[string]string{}
		for _, c := range claims {
			if c.Spec.VolumeName == "" {
				if v := match(c, volumes); v != nil {
					t.Fatalf("claim %s could have had %s", c.Name, v.Name)
				}
				continue
			}
			if other := had[c.Spec.VolumeName]; other != "" || c.Status.Phase != corev1.ClaimBound {
				t.Fatalf("volume %s of %s and %s, phase %s", c.Spec.VolumeName, other, c.Name, c.Status.Phase)
			}
			had[c.Spec.VolumeName] = c.Name
		}
	})
}

// TestLife follows a claim and a volume from Pending to gone.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		mode := storagev1.VolumeBindingWaitForFirstConsumer
		local := "local"
		class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: local}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &mode}
		claim, volume := newClaim("data", "1Gi"), newVolume("disk", "2Gi")
		claim.Spec.StorageClassName, volume.Spec.StorageClassName = &local, local
		w := controllertest.New(t, class, claim, volume)
		c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		api := w.Client.CoreV1()
		expect := func(claimPhase corev1.PersistentVolumeClaimPhase, volumePhase corev1.PersistentVolumePhase) {
			t.Helper()
			synctest.Wait()
			v, err := api.PersistentVolumes().Get(ctx, "disk", metav1.GetOptions{})
			if err != nil || v.Status.Phase != volumePhase {
				t.Errorf("volume %s, %v, want %s", v.Status.Phase, err, volumePhase)
			}
			got, err := api.PersistentVolumeClaims("ns").Get(ctx, "data", metav1.GetOptions{})
			if claimPhase == "" {
				if !apierrors.IsNotFound(err) {
					t.Errorf("claim %+v, %v", got, err)
				}
			} else if err != nil || got.Status.Phase != claimPhase {
				t.Errorf("claim %s, %v, want %s", got.Status.Phase, err, claimPhase)
			}
		}
		expect(corev1.ClaimPending, corev1.VolumeAvailable)

		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n", Volumes: []corev1.Volume{{
			Name: "d", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}},
		}}}}
		if _, err := api.Pods("ns").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(corev1.ClaimBound, corev1.VolumeBound)
		w.Writes()
		synctest.Wait()
		if got := w.Writes(); len(got) != 0 {
			t.Errorf("writes at rest: %v", got)
		}

		// The fake removes at once; a delete that waits for finalizers is an update.
		bound, _ := api.PersistentVolumeClaims("ns").Get(ctx, "data", metav1.GetOptions{})
		bound = bound.DeepCopy()
		bound.DeletionTimestamp = &metav1.Time{Time: w.Began()}
		if _, err := api.PersistentVolumeClaims("ns").Update(ctx, bound, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, _ := api.PersistentVolumeClaims("ns").Get(ctx, "data", metav1.GetOptions{}); len(got.Finalizers) != 1 {
			t.Error("a claim in use is let go")
		}
		if err := api.Pods("ns").Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, _ := api.PersistentVolumeClaims("ns").Get(ctx, "data", metav1.GetOptions{}); len(got.Finalizers) != 0 {
			t.Error("a claim that nobody uses is held")
		}
		if err := api.PersistentVolumeClaims("ns").Delete(ctx, "data", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		expect("", corev1.VolumeReleased)

		v, _ := api.PersistentVolumes().Get(ctx, "disk", metav1.GetOptions{})
		v = v.DeepCopy()
		v.DeletionTimestamp = &metav1.Time{Time: w.Began()}
		if _, err := api.PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if v, _ = api.PersistentVolumes().Get(ctx, "disk", metav1.GetOptions{}); len(v.Finalizers) != 0 {
			t.Error("a released volume is held")
		}
	})
}

func TestLost(t *testing.T) {
	claim := newClaim("c", "1Gi")
	claim.Spec.VolumeName, claim.Annotations = "gone", map[string]string{bindCompleted: "yes"}
	claim.Status.Phase = corev1.ClaimBound
	if p := planClaim(claim, nil, nil, nil); p.claimStatus == nil || p.claimStatus.Status.Phase != corev1.ClaimLost {
		t.Errorf("%+v", p)
	}
	claim.Annotations = nil
	claim.Status.Phase = corev1.ClaimPending
	if p := planClaim(claim, nil, nil, nil); p.claimStatus != nil || p.claim != nil {
		t.Errorf("%+v", p)
	}
}
