package apiserver_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// TestInformers checks that client-go's informers follow the server, over the network in JSON and protobuf and in-process.
func TestInformers(t *testing.T) {
	c := start(t)
	asProto := clientrest.CopyConfig(c.config)
	asProto.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	asProto.ContentType = "application/vnd.kubernetes.protobuf"
	for name, config := range map[string]*clientrest.Config{"json": c.config, "protobuf": asProto, "loopback": c.LoopbackConfig()} {
		t.Run(name, func(t *testing.T) {
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			ns := "ns-" + name
			if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			newMap := func(i int) *corev1.ConfigMap {
				return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("cm-", i)}, Data: map[string]string{"i": fmt.Sprint(i)}}
			}
			for i := range 5 {
				if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), newMap(i), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			events := make(chan string, 100)
			factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ns))
			informer := factory.Core().V1().ConfigMaps().Informer()
			informer.AddEventHandler(cache.ResourceEventHandlerFuncs{ //nolint:errcheck // the informer has not been started
				AddFunc:    func(o any) { events <- "add " + o.(*corev1.ConfigMap).Name },
				UpdateFunc: func(_, o any) { events <- "update " + o.(*corev1.ConfigMap).Data["i"] },
				DeleteFunc: func(o any) { events <- "delete" },
			})
			stop := make(chan struct{})
			defer factory.Shutdown()
			defer close(stop)
			factory.Start(stop)
			for range 5 {
				expect(t, events, "add cm-")
			}
			changed := newMap(2)
			changed.Data["i"] = "two"
			if _, err := client.CoreV1().ConfigMaps(ns).Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			expect(t, events, "update two")
			if err := client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "cm-3", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			expect(t, events, "delete")
			cm, err := factory.Core().V1().ConfigMaps().Lister().ConfigMaps(ns).Get("cm-2")
			if err != nil || cm.Data["i"] != "two" || cm.ResourceVersion == "" {
				t.Errorf("%+v, %v", cm, err)
			}
		})
	}
}

func expect(t *testing.T, events <-chan string, prefix string) {
	t.Helper()
	select {
	case got := <-events:
		if len(got) < len(prefix) || got[:len(prefix)] != prefix {
			t.Fatalf("got %q, want %q…", got, prefix)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no event, want %q…", prefix)
	}
}
