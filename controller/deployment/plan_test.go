package deployment

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func deployment(n int32, surge, unavailable intstr.IntOrString) *appsv1.Deployment {
	deadline, history := int32(600), int32(2)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "d", Generation: 1, Annotations: map[string]string{"kubernetes.io/change-cause": "first"}},
		Spec: appsv1.DeploymentSpec{
			Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Strategy:                appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}},
			ProgressDeadlineSeconds: &deadline, RevisionHistoryLimit: &history,
			Template: template("v1"),
		},
	}
}

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}
}

func TestBounds(t *testing.T) {
	i, p := intstr.FromInt32, intstr.FromString
	for name, tc := range map[string]struct {
		n                  int32
		surge, unavailable intstr.IntOrString
		wantS, wantU       int32
	}{
		"percent_up_and_down": {10, p("25%"), p("25%"), 3, 2},
		"one_of_defaults":     {1, p("25%"), p("25%"), 1, 0},
		"both_zero":           {4, i(0), p("10%"), 0, 1},
		"numbers":             {4, i(2), i(3), 2, 3},
		"unavailable_capped":  {2, i(0), i(5), 0, 2},
		"none_wanted":         {0, i(1), i(1), 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := deployment(tc.n, tc.surge, tc.unavailable)
			if s, u := maxSurge(d), maxUnavailable(d); s != tc.wantS || u != tc.wantU {
				t.Errorf("surge %d unavailable %d, want %d %d", s, u, tc.wantS, tc.wantU)
			}
		})
	}
	d := deployment(4, i(2), i(3))
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	if maxSurge(d) != 0 || maxUnavailable(d) != 0 {
		t.Error("Recreate has neither")
	}
}

// The hash must not change with the release of mini: it is in the name of every ReplicaSet.
func TestTemplateHash(t *testing.T) {
	tpl := template("v1")
	a := templateHash(&tpl, nil)
	one := int32(1)
	if b := templateHash(&tpl, &one); a == b {
		t.Error("collisions are not told apart")
	}
	other := template("v2")
	if a == templateHash(&other, nil) {
		t.Error("templates are not told apart")
	}
	if len(validLabel(a)) != 0 || a != templateHash(tpl.DeepCopy(), nil) {
		t.Errorf("hash %q", a)
	}
	labelled := template("v1")
	labelled.Labels = with(labelled.Labels, appsv1.DefaultDeploymentUniqueLabelKey, a)
	if !sameTemplate(&tpl, &labelled) || sameTemplate(&tpl, &other) {
		t.Error("sameTemplate")
	}
}

func validLabel(s string) string { return strings.Trim(s, "bcdfghjklmnpqrstvwxz2456789") }

// sim is a Deployment with its ReplicaSets, and what pods they have.
type sim struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	now  time.Time
	made int
}

func (w *sim) plan() changes {
	w.now = w.now.Add(time.Second)
	old := false
	r := newRollout(snapshot{deployment: w.d, sets: w.sets})
	for _, rs := range r.old {
		old = old || rs.Status.Replicas > 0
	}
	return plan(snapshot{deployment: w.d, sets: w.sets, oldPods: old, now: w.now})
}

func (w *sim) apply(p changes) (changed bool) {
	if p.create != nil {
		rs := p.create.DeepCopy()
		w.made++
		rs.UID, rs.CreationTimestamp = types.UID(fmt.Sprint(w.made)), metav1.NewTime(w.now)
		rs.Generation = 1
		w.sets = append(w.sets, rs)
		changed = true
	}
	for _, u := range p.update {
		i := slices.IndexFunc(w.sets, func(rs *appsv1.ReplicaSet) bool { return rs.Name == u.set.Name })
		w.sets[i] = u.set.DeepCopy()
		w.sets[i].Generation++
		changed = true
	}
	for _, rs := range p.delete {
		w.sets = slices.DeleteFunc(w.sets, func(o *appsv1.ReplicaSet) bool { return o.Name == rs.Name })
		changed = true
	}
	next := w.d.DeepCopy()
	if p.revision != "" {
		next.Annotations = with(next.Annotations, annotationRevision, p.revision)
		changed = true
	}
	before := next.Status
	next.Status = p.status
	changed = changed || fmt.Sprintf("%+v", strip(before)) != fmt.Sprintf("%+v", strip(p.status))
	w.d = next
	return changed
}

// strip leaves out the times, which are no change.
func strip(s appsv1.DeploymentStatus) appsv1.DeploymentStatus {
	s = *s.DeepCopy()
	for i := range s.Conditions {
		s.Conditions[i].LastUpdateTime, s.Conditions[i].LastTransitionTime = metav1.Time{}, metav1.Time{}
	}
	s.TerminatingReplicas, s.CollisionCount = nil, nil
	return s
}

// settle is one step of the ReplicaSet controller and the kubelet for one set.
func (w *sim) settle(i int, becomeReady int32) bool {
	rs := w.sets[i].DeepCopy()
	want := replicas(rs.Spec.Replicas)
	before := rs.Status
	rs.Status.Replicas = want
	rs.Status.AvailableReplicas = min(rs.Status.AvailableReplicas, want)
	rs.Status.AvailableReplicas += min(becomeReady, want-rs.Status.AvailableReplicas)
	rs.Status.ReadyReplicas = rs.Status.AvailableReplicas
	rs.Status.ObservedGeneration = rs.Generation
	w.sets[i] = rs
	return before.Replicas != rs.Status.Replicas || before.AvailableReplicas != rs.Status.AvailableReplicas || before.ObservedGeneration != rs.Status.ObservedGeneration
}

// surviving is how many available pods stay when every set is cut to its size, worst pods first.
func surviving(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += min(replicas(rs.Spec.Replicas), rs.Status.AvailableReplicas)
	}
	return n
}

// Named invariants, whatever happens in whatever order: never more than replicas + maxSurge pods are asked for, no step of a
// rollout goes below the minimum available, Recreate never has two templates at a time, and everything converges to a state
// in which the next plan changes nothing.
func TestRolloutProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bound := func(name string) intstr.IntOrString {
			if rapid.Bool().Draw(t, name+"_percent") {
				return intstr.FromString(fmt.Sprintf("%d%%", rapid.IntRange(0, 100).Draw(t, name)))
			}
			return intstr.FromInt32(int32(rapid.IntRange(0, 5).Draw(t, name)))
		}
		w := &sim{d: deployment(int32(rapid.IntRange(0, 10).Draw(t, "replicas")), bound("surge"), bound("unavailable")), now: t0}
		if rapid.IntRange(0, 4).Draw(t, "recreate") == 0 {
			w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		}
		step := func() bool {
			before, beforeOK := wanted(w.sets), surviving(w.sets)
			rescale := newRollout(snapshot{deployment: w.d, sets: w.sets}).resized() || w.d.Spec.Paused
			p := w.plan()
			changed := w.apply(p)
			if limit := replicas(w.d.Spec.Replicas) + maxSurge(w.d); wanted(w.sets) > max(before, limit) {
				t.Fatalf("%d pods asked for, limit %d, before %d", wanted(w.sets), limit, before)
			}
			if least := replicas(w.d.Spec.Replicas) - maxUnavailable(w.d); rolling(w.d) && !rescale && surviving(w.sets) < min(least, beforeOK) {
				t.Fatalf("%d pods stay available, at least %d wanted, before %d", surviving(w.sets), least, beforeOK)
			}
			if !rolling(w.d) && !rescale {
				r := newRollout(snapshot{deployment: w.d, sets: w.sets})
				if p.create != nil && (running(r.old) > 0 || wanted(r.old) > 0) {
					t.Fatal("Recreate starts new pods beside old ones")
				}
			}
			return changed
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch op := rapid.IntRange(0, 9).Draw(t, "op"); {
			case op == 0:
				w.d = w.d.DeepCopy()
				w.d.Spec.Template = template(rapid.SampledFrom([]string{"v1", "v2", "v3", "v4"}).Draw(t, "image"))
				w.d.Generation++
			case op == 1:
				w.d = w.d.DeepCopy()
				n := int32(rapid.IntRange(0, 10).Draw(t, "n"))
				w.d.Spec.Replicas = &n
				w.d.Generation++
			case op == 2:
				w.d = w.d.DeepCopy()
				w.d.Spec.Paused = !w.d.Spec.Paused
				w.d.Generation++
			case op < 6 && len(w.sets) > 0:
				w.settle(rapid.IntRange(0, len(w.sets)-1).Draw(t, "set"), int32(rapid.IntRange(0, 3).Draw(t, "ready")))
			default:
				step()
			}
		}
		w.d = w.d.DeepCopy()
		w.d.Spec.Paused = false
		for i := 0; ; i++ {
			changed := step()
			for i := range w.sets {
				changed = w.settle(i, 2) || changed
			}
			if !changed {
				break
			}
			if i > 500 {
				t.Fatalf("does not converge: %+v", w.d.Status)
			}
		}
		want := replicas(w.d.Spec.Replicas)
		r := newRollout(snapshot{deployment: w.d, sets: w.sets})
		if r.current == nil || replicas(r.current.Spec.Replicas) != want || wanted(r.old) != 0 || w.d.Status.AvailableReplicas != want {
			t.Fatalf("end: want %d, status %+v", want, w.d.Status)
		}
		if len(r.old) > 2 {
			t.Fatalf("%d old sets kept, limit 2", len(r.old))
		}
		for _, rs := range r.old {
			if revision(rs) >= revision(r.current) {
				t.Fatalf("revision %d of an old set, %d of the current", revision(rs), revision(r.current))
			}
		}
		if w.d.Annotations[annotationRevision] != r.current.Annotations[annotationRevision] {
			t.Fatal("revision annotations differ")
		}
		c := conditions{list: w.d.Status.Conditions}
		if p := c.get(appsv1.DeploymentProgressing); p == nil || p.Status != corev1.ConditionTrue || p.Reason != reasonAvailable {
			t.Fatalf("Progressing %+v", p)
		}
		if a := c.get(appsv1.DeploymentAvailable); a == nil || a.Status != corev1.ConditionTrue {
			t.Fatalf("Available %+v", a)
		}
	})
}

func (w *sim) progressing() string {
	c := conditions{list: w.d.Status.Conditions}
	p := c.get(appsv1.DeploymentProgressing)
	if p == nil {
		return "none"
	}
	return string(p.Status) + " " + p.Reason + " " + p.Message
}

func TestProgressConditions(t *testing.T) {
	w := &sim{d: deployment(2, intstr.FromInt32(1), intstr.FromInt32(0)), now: t0}
	expect := func(when, want string) {
		t.Helper()
		if got := w.progressing(); got != want {
			t.Fatalf("%s: Progressing is %q, want %q", when, got, want)
		}
	}
	p := w.plan()
	w.apply(p)
	first := w.sets[0].Name
	expect("created", fmt.Sprintf("True NewReplicaSetCreated Created new replica set %q", first))
	if p.again <= 600*time.Second || p.again > 602*time.Second || p.revision != "1" || w.sets[0].Annotations["kubernetes.io/change-cause"] != "first" {
		t.Fatalf("again %s revision %q annotations %v", p.again, p.revision, w.sets[0].Annotations)
	}
	w.settle(0, 1)
	w.apply(w.plan())
	expect("one pod", fmt.Sprintf("True ReplicaSetUpdated ReplicaSet %q is progressing.", first))
	w.settle(0, 1)
	w.apply(w.plan())
	expect("all pods", fmt.Sprintf("True NewReplicaSetAvailable ReplicaSet %q has successfully progressed.", first))

	w.sets[0] = w.sets[0].DeepCopy()
	w.sets[0].Status.AvailableReplicas = 0
	w.now = w.now.Add(time.Hour)
	w.apply(w.plan())
	expect("pods lost later", fmt.Sprintf("True NewReplicaSetAvailable ReplicaSet %q has successfully progressed.", first))
	w.settle(0, 2)
	w.apply(w.plan())

	w.d.Spec.Template = template("broken")
	w.d.Generation++
	w.apply(w.plan())
	bad := w.sets[1].Name
	expect("new template", fmt.Sprintf("True NewReplicaSetCreated Created new replica set %q", bad))
	w.settle(1, 0)
	w.apply(w.plan())
	w.now = w.now.Add(601 * time.Second)
	w.apply(w.plan())
	expect("deadline", fmt.Sprintf("False ProgressDeadlineExceeded ReplicaSet %q has timed out progressing.", bad))
	if w.plan().again != 0 {
		t.Error("the deadline runs on after it has passed")
	}
	if replicas(w.sets[0].Spec.Replicas) != 2 {
		t.Error("a broken rollout took a good pod away")
	}

	w.d.Spec.Template = template("v1") // kubectl rollout undo
	w.d.Generation++
	for range 5 {
		w.apply(w.plan())
		w.settle(0, 2)
		w.settle(1, 2)
	}
	expect("undone", fmt.Sprintf("True NewReplicaSetAvailable ReplicaSet %q has successfully progressed.", first))
	if got := w.sets[0].Annotations; got[annotationRevision] != "3" || got[annotationRevisionHistory] != "1" || w.d.Annotations[annotationRevision] != "3" {
		t.Errorf("revision after undo: %v, deployment %v", got, w.d.Annotations)
	}

	w.d.Spec.Paused = true
	w.apply(w.plan())
	expect("paused", "Unknown DeploymentPaused Deployment is paused")
	w.d.Spec.Template = template("v9")
	if p := w.plan(); p.create != nil || len(p.update) != 0 {
		t.Errorf("a paused Deployment rolls out: %+v", p)
	}
	w.d.Spec.Paused = false
	w.apply(w.plan())
	if !strings.HasPrefix(w.progressing(), "True NewReplicaSetCreated") {
		t.Errorf("resumed: %s", w.progressing())
	}
}

func TestNoDeadline(t *testing.T) {
	w := &sim{d: deployment(1, intstr.FromInt32(1), intstr.FromInt32(0)), now: t0}
	w.apply(w.plan())
	w.d.Spec.ProgressDeadlineSeconds = nil
	p := w.plan()
	w.apply(p)
	if w.progressing() != "none" || p.again != 0 {
		t.Errorf("Progressing %s, again %s", w.progressing(), p.again)
	}
}

func TestProportionalScaling(t *testing.T) {
	// The example of the documentation: 10 replicas, surge 3, unavailable 2, stuck at 8 old and 5 new; scaled to 15.
	w := &sim{d: deployment(10, intstr.FromInt32(3), intstr.FromInt32(2)), now: t0}
	w.apply(w.plan())
	w.settle(0, 10)
	w.apply(w.plan())
	w.d.Spec.Template = template("stuck")
	w.d.Generation++
	for range 5 {
		w.apply(w.plan())
		w.settle(0, 10)
		if len(w.sets) > 1 {
			w.settle(1, 0)
		}
	}
	if a, b := replicas(w.sets[0].Spec.Replicas), replicas(w.sets[1].Spec.Replicas); a != 8 || b != 5 {
		t.Fatalf("before scaling: old %d new %d, want 8 and 5", a, b)
	}
	n := int32(15)
	w.d.Spec.Replicas = &n
	w.d.Generation++
	w.apply(w.plan())
	if a, b := replicas(w.sets[0].Spec.Replicas), replicas(w.sets[1].Spec.Replicas); a != 11 || b != 7 {
		t.Errorf("after scaling: old %d new %d, want 11 and 7", a, b)
	}
}

func TestReplicaFailure(t *testing.T) {
	w := &sim{d: deployment(1, intstr.FromInt32(1), intstr.FromInt32(0)), now: t0}
	w.apply(w.plan())
	w.sets[0] = w.sets[0].DeepCopy()
	w.sets[0].Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "quota"}}
	w.apply(w.plan())
	c := conditions{list: w.d.Status.Conditions}
	if f := c.get(appsv1.DeploymentReplicaFailure); f == nil || f.Reason != "FailedCreate" || f.Message != "quota" {
		t.Fatalf("%+v", f)
	}
	w.sets[0].Status.Conditions = nil
	w.apply(w.plan())
	c = conditions{list: w.d.Status.Conditions}
	if f := c.get(appsv1.DeploymentReplicaFailure); f != nil {
		t.Errorf("stays: %+v", f)
	}
}
