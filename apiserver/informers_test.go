package apiserver_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/apiserver"
)

// TestSharedInformers follows one object through two factories of the same server: both hold the same pointer, and see it change
// and go.
func TestSharedInformers(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	maps := c.client.CoreV1().ConfigMaps("default")
	create := func(name string) {
		t.Helper()
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("before")
	type factory struct {
		informers.SharedInformerFactory
		seen chan *corev1.ConfigMap // nil when one is deleted
	}
	var factories [2]factory
	for i := range factories {
		f := factory{apiserver.NewInformers(c.LoopbackConfig(), c.client), make(chan *corev1.ConfigMap, 10)}
		factories[i] = f
		informer := f.Core().V1().ConfigMaps().Informer()
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { f.seen <- obj.(*corev1.ConfigMap) },
			UpdateFunc: func(_, obj any) { f.seen <- obj.(*corev1.ConfigMap) },
			DeleteFunc: func(any) { f.seen <- nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		f.StartWithContext(ctx)
		if err := f.WaitForCacheSyncWithContext(ctx).AsError(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Core().V1().ConfigMaps().Lister().ConfigMaps("default").Get("before"); err != nil {
			t.Fatalf("what was there before the informer: %v", err)
		}
	}
	next := func(name, value string) {
		t.Helper()
		var got [len(factories)]*corev1.ConfigMap
		for i, f := range factories {
			for {
				select {
				case got[i] = <-f.seen:
				case <-ctx.Done():
					t.Fatalf("informer %d did not see %s=%s", i, name, value)
				}
				if got[i] == nil || got[i].Name == name && got[i].Data["v"] == value {
					break
				}
			}
		}
		if got[0] != got[1] {
			t.Errorf("%s: the informers hold copies", name)
		}
		if (got[0] == nil) != (name == "") {
			t.Errorf("%s: saw %v", name, got[0])
		}
	}
	create("a")
	next("a", "")
	if _, err := maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"v": "1"}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	next("a", "1")
	if err := maps.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	next("", "")
	cancel()
	for _, f := range factories {
		f.Shutdown()
	}
}
