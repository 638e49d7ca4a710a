package vacprotection

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func TestPlan(t *testing.T) {
	for name, c := range map[string]struct {
		has, deleting, used bool
		writes, want        bool // what is written, and whether the finalizer is there then
	}{
		"new":               {writes: true, want: true},
		"new_used":          {used: true, writes: true, want: true},
		"protected":         {has: true},
		"deleted_unused":    {has: true, deleting: true, writes: true},
		"deleted_used":      {has: true, deleting: true, used: true},
		"deleted_by_others": {deleting: true},
	} {
		t.Run(name, func(t *testing.T) {
			class := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "gold", Finalizers: []string{"other"}}}
			if c.has {
				class.Finalizers = append(class.Finalizers, finalizer)
			}
			if c.deleting {
				class.DeletionTimestamp = &metav1.Time{}
			}
			next := plan(class, c.used)
			if (next != nil) != c.writes {
				t.Fatalf("%+v", next)
			}
			if next != nil && (slices.Contains(next.Finalizers, finalizer) != c.want || next.Finalizers[0] != "other") {
				t.Errorf("%v", next.Finalizers)
			}
		})
	}
}

func TestNames(t *testing.T) {
	gold, silver, empty := "gold", "silver", ""
	claim := &corev1.PersistentVolumeClaim{
		Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: &gold},
		Status: corev1.PersistentVolumeClaimStatus{
			CurrentVolumeAttributesClassName: &gold,
			ModifyVolumeStatus:               &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: silver},
		},
	}
	if got := ofClaim(claim); !slices.Equal(got, []string{gold, silver}) {
		t.Error(got)
	}
	if got := ofClaim(&corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: &empty}}); got != nil {
		t.Error(got)
	}
	if got := ofVolume(&corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: &silver}}); !slices.Equal(got, []string{silver}) {
		t.Error(got)
	}
}

// TestLife: a class gets the finalizer, and keeps it while a claim and then a volume name it.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, gold, silver := context.Background(), "gold", "silver"
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: &gold}}
		volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: &gold}}
		w := controllertest.New(t, &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: gold}}, claim, volume)
		c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Logger: w.Logger})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		classes := w.Client.StorageV1().VolumeAttributesClasses()
		finalizers := func() []string {
			synctest.Wait()
			class, err := classes.Get(ctx, gold, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return class.Finalizers
		}
		if got := finalizers(); !slices.Equal(got, []string{finalizer}) {
			t.Fatal(got)
		}
		class, _ := classes.Get(ctx, gold, metav1.GetOptions{}) // the fake removes at once; a delete that waits is an update
		class = class.DeepCopy()
		class.DeletionTimestamp = &metav1.Time{Time: w.Began()}
		if _, err := classes.Update(ctx, class, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := finalizers(); len(got) != 1 {
			t.Error("let go although a claim and a volume name it")
		}
		claim, _ = w.Client.CoreV1().PersistentVolumeClaims("ns").Get(ctx, "data", metav1.GetOptions{})
		claim = claim.DeepCopy()
		claim.Spec.VolumeAttributesClassName = &silver
		if _, err := w.Client.CoreV1().PersistentVolumeClaims("ns").Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := finalizers(); len(got) != 1 {
			t.Error("let go although a volume names it")
		}
		if err := w.Client.CoreV1().PersistentVolumes().Delete(ctx, "disk", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := finalizers(); len(got) != 0 {
			t.Errorf("held although nobody names it: %v", got)
		}
	})
}
