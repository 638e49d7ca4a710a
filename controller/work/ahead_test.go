package work

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name, uid, version string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid), ResourceVersion: version}}
}

func view(pods []*corev1.Pod) string {
	s := ""
	for _, p := range pods {
		s += p.Name + ":" + p.ResourceVersion + " "
	}
	return s
}

func TestAhead(t *testing.T) {
	for name, tc := range map[string]struct {
		steps  func(*Ahead[*corev1.Pod])
		cached []*corev1.Pod
		want   string
	}{
		"created_not_shown": {func(a *Ahead[*corev1.Pod]) { a.Wrote("g", pod("a", "1", "5")) }, nil, "a:5 "},
		"created_shown":     {func(a *Ahead[*corev1.Pod]) { a.Wrote("g", pod("a", "1", "5")) }, []*corev1.Pod{pod("a", "1", "5")}, "a:5 "},
		"updated":           {func(a *Ahead[*corev1.Pod]) { a.Wrote("g", pod("a", "1", "12")) }, []*corev1.Pod{pod("a", "1", "9")}, "a:12 "},
		"overtaken":         {func(a *Ahead[*corev1.Pod]) { a.Wrote("g", pod("a", "1", "9")) }, []*corev1.Pod{pod("a", "1", "12")}, "a:12 "},
		"deleted":           {func(a *Ahead[*corev1.Pod]) { a.Deleted("g", pod("a", "1", "5")) }, []*corev1.Pod{pod("a", "1", "7"), pod("b", "2", "6")}, "b:6 "},
		"deleted_another":   {func(a *Ahead[*corev1.Pod]) { a.Deleted("g", pod("a", "1", "5")) }, []*corev1.Pod{pod("a", "9", "7")}, "a:7 "},
		"other_group":       {func(a *Ahead[*corev1.Pod]) { a.Wrote("h", pod("a", "1", "5")) }, nil, ""},
		"shown_then_gone": {func(a *Ahead[*corev1.Pod]) {
			a.Wrote("g", pod("a", "1", "5"))
			a.Seen("g", pod("a", "1", "5"))
		}, nil, ""},
		"older_shown": {func(a *Ahead[*corev1.Pod]) {
			a.Wrote("g", pod("a", "1", "10"))
			a.Seen("g", pod("a", "1", "9"))
		}, []*corev1.Pod{pod("a", "1", "9")}, "a:10 "},
		"gone": {func(a *Ahead[*corev1.Pod]) {
			a.Wrote("g", pod("a", "1", "5"))
			a.Gone("g", pod("a", "1", "5"))
		}, nil, ""},
		"another_gone": {func(a *Ahead[*corev1.Pod]) {
			a.Wrote("g", pod("a", "2", "5"))
			a.Gone("g", pod("a", "1", "4"))
		}, nil, "a:5 "},
		"forgotten": {func(a *Ahead[*corev1.Pod]) {
			a.Wrote("g", pod("a", "1", "5"))
			a.Forget("g", "a")
		}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var a Ahead[*corev1.Pod]
			tc.steps(&a)
			if got := view(a.Over("g", tc.cached)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAheadShowsGracefulDeletion(t *testing.T) {
	var a Ahead[*corev1.Pod]
	a.Deleted("g", pod("a", "1", "5"))
	terminating := pod("a", "1", "6")
	terminating.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	if got := view(a.Over("g", []*corev1.Pod{terminating})); got != "a:6 " {
		t.Errorf("a pod shown as being deleted is hidden: %q", got)
	}
	a.Seen("g", terminating)
	if len(a.groups) != 0 {
		t.Error("what the informer shows is still remembered")
	}
}

func TestAheadForgetsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Ahead[*corev1.Pod]
		a.Wrote("g", pod("a", "1", "5"))
		time.Sleep(aheadFor + time.Second)
		a.Over("g", nil)
		if got := view(a.Over("g", nil)); got != "" {
			t.Errorf("still shown: %q", got)
		}
		a.Wrote("g", pod("a", "1", "5"))
		time.Sleep(aheadFor + time.Second)
		a.Wrote("h", pod("b", "2", "6"))
		if len(a.groups) != 1 {
			t.Errorf("%d groups remembered, want 1", len(a.groups))
		}
	})
}
