package feed

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		client := fake.NewSimpleClientset(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}})
		factory := informers.NewSharedInformerFactory(client, 0)
		var mu sync.Mutex
		var calls []string
		record := func(who string) cache.ResourceEventHandler {
			return Of(func(old, p *corev1.Pod) {
				mu.Lock()
				defer mu.Unlock()
				calls = append(calls, fmt.Sprintf("%s %v>%v", who, old != nil, p != nil))
			})
		}
		s := &Set{}
		informer := factory.Core().V1().Pods().Informer()
		source := s.Handle(informer, record("x"))
		s.Handle(informer, record("y"))
		s.Handle(informer, Of(func(_, _ *corev1.Node) { t.Error("a handler of nodes is called with a pod") }))
		nodes := s.Read(factory.Core().V1().Nodes().Informer())
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		if s.Start() == nil {
			t.Error("starts twice")
		}
		factory.StartWithContext(ctx)
		if !Wait(ctx, source, nodes) {
			t.Fatal("does not sync")
		}
		mu.Lock()
		if !slices.Equal(calls, []string{"x false>true", "y false>true"}) {
			t.Errorf("when Wait returns the initial objects have been delivered: %v", calls)
		}
		calls = nil
		mu.Unlock()
		pods := client.CoreV1().Pods("ns")
		if _, err := pods.Update(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", Labels: map[string]string{"a": "b"}}}, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := pods.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		mu.Lock()
		if !slices.Equal(calls, []string{"x true>true", "y true>true", "x true>false", "y true>false"}) {
			t.Errorf("%v", calls)
		}
		calls = nil
		mu.Unlock()
		record("z").OnDelete(cache.DeletedFinalStateUnknown{Obj: &corev1.Pod{}})
		if !slices.Equal(calls, []string{"z true>false"}) {
			t.Errorf("tombstone: %v", calls)
		}
		cancel()
		factory.Shutdown()
	})
}

func TestWaitEnds(t *testing.T) {
	factory := informers.NewSharedInformerFactory(fake.NewSimpleClientset(), 0)
	s := &Set{}
	source := s.Read(factory.Core().V1().Pods().Informer())
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if Wait(ctx, source) { // the informer was never started
		t.Error("Wait says that it is synced")
	}
}
