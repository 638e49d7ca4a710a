package tainteviction

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mini-k8s/mini/controller/controllertest"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func taint(key string, added time.Duration) corev1.Taint {
	at := metav1.NewTime(t0.Add(added))
	return corev1.Taint{Key: key, Value: "v", Effect: corev1.TaintEffectNoExecute, TimeAdded: &at}
}

func tolerate(key string, op corev1.TolerationOperator, value string, seconds ...int64) corev1.Toleration {
	t := corev1.Toleration{Key: key, Operator: op, Value: value, Effect: corev1.TaintEffectNoExecute}
	if len(seconds) > 0 {
		t.TolerationSeconds = &seconds[0]
	}
	return t
}

func TestPlan(t *testing.T) {
	now := t0.Add(time.Hour)
	const exists, equal = corev1.TolerationOpExists, corev1.TolerationOpEqual
	for name, tc := range map[string]struct {
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		stay        bool
		at          time.Duration // since t0
	}{
		"no_taint":             {nil, nil, true, 0},
		"not_tolerated":        {nil, []corev1.Taint{taint("a", 0)}, false, time.Hour},
		"tolerated":            {[]corev1.Toleration{tolerate("a", exists, "")}, []corev1.Taint{taint("a", 0)}, true, 0},
		"tolerated_by_value":   {[]corev1.Toleration{tolerate("a", equal, "v")}, []corev1.Taint{taint("a", 0)}, true, 0},
		"default_operator":     {[]corev1.Toleration{tolerate("a", "", "v")}, []corev1.Taint{taint("a", 0)}, true, 0},
		"other_value":          {[]corev1.Toleration{tolerate("a", equal, "w")}, []corev1.Taint{taint("a", 0)}, false, time.Hour},
		"all_keys":             {[]corev1.Toleration{{Operator: exists}}, []corev1.Taint{taint("a", 0), taint("b", 0)}, true, 0},
		"other_effect":         {[]corev1.Toleration{{Key: "a", Operator: exists, Effect: corev1.TaintEffectNoSchedule}}, []corev1.Taint{taint("a", 0)}, false, time.Hour},
		"for_a_time":           {[]corev1.Toleration{tolerate("a", exists, "", 300)}, []corev1.Taint{taint("a", 59*time.Minute)}, false, 64 * time.Minute},
		"time_from_creation":   {[]corev1.Toleration{tolerate("a", exists, "", 7200)}, []corev1.Taint{taint("a", -time.Hour)}, false, 2 * time.Hour},
		"shortest_time":        {[]corev1.Toleration{tolerate("a", exists, "", 300), tolerate("a", exists, "", 60)}, []corev1.Taint{taint("a", time.Hour)}, false, 61 * time.Minute},
		"forever_and_a_time":   {[]corev1.Toleration{tolerate("a", exists, ""), tolerate("a", exists, "", 60)}, []corev1.Taint{taint("a", time.Hour)}, false, 61 * time.Minute},
		"earliest_taint":       {[]corev1.Toleration{{Operator: exists, TolerationSeconds: new(int64)}}, []corev1.Taint{taint("a", time.Hour), taint("b", 30*time.Minute)}, false, 30 * time.Minute},
		"one_is_not_tolerated": {[]corev1.Toleration{tolerate("a", exists, "")}, []corev1.Taint{taint("a", 0), taint("b", 0)}, false, time.Hour},
		"negative_is_at_once":  {[]corev1.Toleration{tolerate("a", exists, "", -5)}, []corev1.Taint{taint("a", time.Hour)}, false, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(t0)}, Spec: corev1.PodSpec{Tolerations: tc.tolerations}}
			at, ok := plan(pod, tc.taints, now)
			if ok == tc.stay || (ok && at.Sub(t0) != tc.at) {
				t.Errorf("at %s, must go %v", at.Sub(t0), ok)
			}
		})
	}
}

func TestEvicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		pod := func(name string, ts ...corev1.Toleration) *corev1.Pod {
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(time.Now().Add(-time.Hour))}, Spec: corev1.PodSpec{NodeName: "n", Tolerations: ts}}
		}
		elsewhere := pod("elsewhere")
		elsewhere.Spec.NodeName = "m"
		exists := corev1.TolerationOpExists
		w := controllertest.New(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "m"}},
			pod("plain"), pod("minute", tolerate("a", exists, "", 60)), pod("hour", tolerate("a", exists, "", 3600)), pod("forever", tolerate("a", exists, "")), elsewhere)
		c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Events: w.Events, Logger: w.Logger})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		there := func(want ...string) {
			t.Helper()
			synctest.Wait()
			for _, name := range []string{"plain", "minute", "hour", "forever", "elsewhere", "late"} {
				_, err := w.Client.CoreV1().Pods("ns").Get(ctx, name, metav1.GetOptions{})
				expected := false
				for _, n := range want {
					expected = expected || n == name
				}
				if expected != !apierrors.IsNotFound(err) {
					t.Errorf("after %s: pod %s there: %v", time.Since(w.Began()), name, !expected)
				}
			}
		}
		set := func(ts ...corev1.Taint) {
			n, err := w.Client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			n = n.DeepCopy()
			n.Spec.Taints = ts
			if _, err := w.Client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		there("plain", "minute", "hour", "forever", "elsewhere")
		set(corev1.Taint{Key: "a", Effect: corev1.TaintEffectNoExecute}) // as kubectl sets it: without a time
		there("minute", "hour", "forever", "elsewhere")
		time.Sleep(50 * time.Second)
		if _, err := w.Client.CoreV1().Pods("ns").Create(ctx, pod("late"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		there("minute", "hour", "forever", "elsewhere")
		time.Sleep(11 * time.Second)
		there("hour", "forever", "elsewhere")
		set() // taken away in time
		time.Sleep(2 * time.Hour)
		there("hour", "forever", "elsewhere")
		marked := 0
		for _, wr := range w.Writes() {
			if wr == "patch pods/status ns/minute" {
				marked++
			}
		}
		if marked != 1 {
			t.Errorf("DisruptionTarget written %d times", marked)
		}
	})
}
