package claim

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

func pod(name, controller, app string, deleting bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{"app": app}}}
	if controller != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(controller), Controller: &yes}}
	}
	if deleting {
		p.DeletionTimestamp = &metav1.Time{}
	}
	return p
}

func TestPlan(t *testing.T) {
	selector := labels.SelectorFromSet(labels.Set{"app": "web"})
	for name, tc := range map[string]struct {
		pod          *corev1.Pod
		want, doomed string // what becomes of it, and what while the owner is being deleted
	}{
		"ours":              {pod("p", "rs", "web", false), "owned", "owned"},
		"ours_deleting":     {pod("p", "rs", "web", true), "owned", "owned"},
		"ours_unlike":       {pod("p", "rs", "x", false), "release", ""},
		"orphan":            {pod("p", "", "web", false), "adopt", ""},
		"orphan_deleting":   {pod("p", "", "web", true), "", ""},
		"orphan_unlike":     {pod("p", "", "x", false), "", ""},
		"others":            {pod("p", "other", "web", false), "", ""},
		"others_unlike_too": {pod("p", "other", "x", false), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			owner := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rs", UID: "rs"}}
			got := func() string {
				c := Plan(owner, selector, []*corev1.Pod{tc.pod})
				switch {
				case len(c.Owned) == 1:
					return "owned"
				case len(c.Adopt) == 1:
					return "adopt"
				case len(c.Release) == 1:
					return "release"
				}
				return ""
			}
			if g := got(); g != tc.want {
				t.Errorf("%q, want %q", g, tc.want)
			}
			owner.DeletionTimestamp = &metav1.Time{}
			if g := got(); g != tc.doomed {
				t.Errorf("owner deleted: %q, want %q", g, tc.doomed)
			}
		})
	}
}

func TestPodsOf(t *testing.T) {
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{podIndex: indexPod})
	elsewhere := pod("d", "", "web", false)
	elsewhere.Namespace = "other"
	for _, p := range []*corev1.Pod{pod("a", "rs", "web", false), pod("b", "", "web", false), pod("c", "other", "web", false), elsewhere} {
		if err := indexer.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	pods, err := PodsOf(indexer, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rs", UID: "rs"}})
	if err != nil || len(pods) != 2 || pods[0].Name != "a" || pods[1].Name != "b" {
		t.Errorf("%v, %v", pods, err)
	}
}
