package controller_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestQuotaLife: counted at once, charged exactly by fifty creators, given back when things go or end.
func TestQuotaLife(t *testing.T) {
	c := start(t)
	c.namespace("app")
	c.until("root CA", func() (bool, string) {
		_, err := c.CoreV1().ConfigMaps("app").Get(c.ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil, fmt.Sprint(err)
	})
	must(c.CoreV1().ResourceQuotas("app").Create(c.ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "q"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{
			"configmaps": resource.MustParse("11"), "count/secrets": resource.MustParse("5"), "count/replicasets.apps": resource.MustParse("9"),
			"pods": resource.MustParse("2"), "requests.cpu": resource.MustParse("1"), "count/widgets.example.com": resource.MustParse("1"),
		}},
	}, metav1.CreateOptions{}))
	used := func(want string) {
		t.Helper()
		c.until("quota uses "+want, func() (bool, string) {
			q := must(c.CoreV1().ResourceQuotas("app").Get(c.ctx, "q", metav1.GetOptions{}))
			var parts []string
			for _, name := range []corev1.ResourceName{"configmaps", "count/secrets", "count/replicasets.apps", "pods", "requests.cpu", "count/widgets.example.com"} {
				amount, ok := q.Status.Used[name]
				if !ok {
					return false, fmt.Sprint(q.Status)
				}
				parts = append(parts, amount.String())
			}
			got := strings.Join(parts, " ")
			return got == want, got
		})
	}
	used("1 0 0 0 0 0")

	var made atomic.Int32
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			_, err := c.CoreV1().ConfigMaps("app").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)}}, metav1.CreateOptions{})
			switch {
			case err == nil:
				made.Add(1)
			case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q, requested: configmaps=1, used: configmaps=11, limited: configmaps=11"):
				t.Error(err)
			}
		})
	}
	group.Wait()
	if made.Load() != 10 {
		t.Errorf("%d of 50 were made", made.Load())
	}
	used("11 0 0 0 0 0")

	// A create that the store refuses gives its charge back.
	must(c.CoreV1().Secrets("app").Create(c.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}))
	if _, err := c.CoreV1().Secrets("app").Create(c.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("got %v", err)
	}
	used("11 1 0 0 0 0")

	pod := func(name string) *corev1.Pod {
		return must(c.CoreV1().Pods("app").Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("500m")}},
		}}}}, metav1.CreateOptions{}))
	}
	pod("a")
	b := pod("b")
	used("11 1 0 2 1 0")
	b.Status.Phase = corev1.PodSucceeded
	must(c.CoreV1().Pods("app").UpdateStatus(c.ctx, b, metav1.UpdateOptions{}))
	used("11 1 0 1 500m 0")
	for _, err := range []error{
		c.CoreV1().Pods("app").Delete(c.ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}),
		c.CoreV1().Secrets("app").Delete(c.ctx, "s", metav1.DeleteOptions{}),
		c.CoreV1().ConfigMaps("app").DeleteCollection(c.ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name!=kube-root-ca.crt"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	used("1 0 0 0 0 0")
}
