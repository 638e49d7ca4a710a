package serviceaccount

import (
	"context"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func namespace(name string, phase corev1.NamespacePhase) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: phase}}
}

func TestDefaultAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := controllertest.New(t, namespace("a", corev1.NamespaceActive), namespace("going", corev1.NamespaceTerminating),
			namespace("has", corev1.NamespaceActive),
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "has", Name: Name, Labels: map[string]string{"keep": "me"}}})
		c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Logger: w.Logger})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		synctest.Wait()
		if got := w.Writes(); len(got) != 1 || got[0] != "create serviceaccounts a/default" {
			t.Fatalf("at start: %v", got)
		}
		if _, err := w.Client.CoreV1().Namespaces().Create(ctx, namespace("b", ""), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := w.Client.CoreV1().ServiceAccounts("b").Get(ctx, Name, metav1.GetOptions{}); err != nil {
			t.Fatalf("new namespace: %v", err)
		}
		if err := w.Client.CoreV1().ServiceAccounts("a").Delete(ctx, Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := w.Client.CoreV1().ServiceAccounts("a").Get(ctx, Name, metav1.GetOptions{}); err != nil {
			t.Fatalf("deleted account: %v", err)
		}
	})
}
