package rootca

import (
	"context"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func TestPublishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := controllertest.New(t,
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}},
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}})
		c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Logger: w.Logger, CA: []byte("PEM")})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		check := func(when string) {
			t.Helper()
			synctest.Wait()
			m, err := w.Client.CoreV1().ConfigMaps("a").Get(ctx, Name, metav1.GetOptions{})
			if err != nil || len(m.Data) != 1 || m.Data["ca.crt"] != "PEM" || m.Annotations["kubernetes.io/description"] == "" {
				t.Fatalf("%s: %v, %v", when, m, err)
			}
		}
		check("at start")
		if got := w.Writes(); len(got) != 1 {
			t.Fatalf("writes at start: %v", got)
		}
		m, _ := w.Client.CoreV1().ConfigMaps("a").Get(ctx, Name, metav1.GetOptions{})
		m.Data = map[string]string{"ca.crt": "wrong", "more": "x"}
		if _, err := w.Client.CoreV1().ConfigMaps("a").Update(ctx, m, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		check("changed by hand")
		if err := w.Client.CoreV1().ConfigMaps("a").Delete(ctx, Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		check("deleted by hand")
		// The fake does not filter watches by field: other maps reach the handler and must be ignored.
		if _, err := w.Client.CoreV1().ConfigMaps("a").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.Writes()
		check("another map")
		if got := w.Writes(); len(got) != 0 {
			t.Fatalf("writes for another map: %v", got)
		}
	})
}
