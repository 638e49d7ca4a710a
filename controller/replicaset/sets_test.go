package replicaset

import (
	"context"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/controllertest"
)

// TestReplicationController: pods are made, adopted and released by the older kind as by ReplicaSets, under its own name, and a
// world at rest is left alone.
func TestReplicationController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		n, app := int32(3), map[string]string{"app": "web"}
		rc := &corev1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "rs", Generation: 2},
			Spec: corev1.ReplicationControllerSpec{
				Replicas: &n, Selector: app, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}},
			},
		}
		w := controllertest.New(t, rc, pod("orphan"))
		c, err := NewForReplicationControllers(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		owned, _ := podsOf(t, w)
		if len(owned) != 3 {
			t.Fatalf("%d pods", len(owned))
		}
		for _, p := range owned {
			if ref := metav1.GetControllerOf(&p); ref.Kind != "ReplicationController" || ref.APIVersion != "v1" {
				t.Errorf("owner %+v", ref)
			}
		}
		got, err := w.Client.CoreV1().ReplicationControllers("ns").Get(ctx, "web", metav1.GetOptions{})
		if err != nil || got.Status.Replicas != 3 || got.Status.ObservedGeneration != 2 || got.Status.FullyLabeledReplicas != 3 {
			t.Errorf("status %+v, %v", got.Status, err)
		}
		relabelled := owned[0].DeepCopy()
		relabelled.Labels = nil
		if _, err := w.Client.CoreV1().Pods("ns").Update(ctx, relabelled, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if owned, all := podsOf(t, w); len(owned) != 3 || len(all) != 4 {
			t.Errorf("%d owned of %d after one was relabelled", len(owned), len(all))
		}
		w.Writes()
		synctest.Wait()
		if got := w.Writes(); len(got) != 0 {
			t.Errorf("writes at rest: %v", got)
		}
	})
}
