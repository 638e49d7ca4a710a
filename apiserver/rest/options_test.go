package rest

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestGenerateName(t *testing.T) {
	for _, base := range []string{"a-", strings.Repeat("x", 60), ""} {
		name := generateName(base)
		if len(name) > 63 || !strings.HasPrefix(name, base[:min(58, len(base))]) || len(name) != min(58, len(base))+5 {
			t.Errorf("%q became %q", base, name)
		}
	}
}

func TestManager(t *testing.T) {
	for agent, want := range map[string]string{
		"kubectl/v1.32 (linux)": "kubectl", "": "unknown", "/x": "unknown", "a\x00b": "ab", strings.Repeat("é", 100): strings.Repeat("é", 64),
	} {
		if got := managerFromAgent(agent); got != want {
			t.Errorf("%q: %q, want %q", agent, got, want)
		}
	}
}

func TestPropagate(t *testing.T) {
	orphan, foreground, background := metav1.DeletePropagationOrphan, metav1.DeletePropagationForeground, metav1.DeletePropagationBackground
	yes, no := true, false
	for _, c := range []struct {
		have []string
		opts metav1.DeleteOptions
		want string

		orphan bool // the kind's own policy
	}{
		{nil, metav1.DeleteOptions{}, "", false},
		{[]string{"x", "orphan"}, metav1.DeleteOptions{}, "x orphan", false},
		{[]string{"x"}, metav1.DeleteOptions{PropagationPolicy: &orphan}, "x orphan", false},
		{[]string{"foregroundDeletion"}, metav1.DeleteOptions{PropagationPolicy: &orphan}, "orphan", false},
		{[]string{"orphan"}, metav1.DeleteOptions{PropagationPolicy: &foreground}, "foregroundDeletion", false},
		{[]string{"orphan", "x"}, metav1.DeleteOptions{PropagationPolicy: &background}, "x", false},
		{nil, metav1.DeleteOptions{OrphanDependents: &yes}, "orphan", false},
		{[]string{"orphan"}, metav1.DeleteOptions{OrphanDependents: &no}, "", false},
		{nil, metav1.DeleteOptions{}, "orphan", true},
		{[]string{"foregroundDeletion"}, metav1.DeleteOptions{}, "foregroundDeletion", true},
		{[]string{"orphan"}, metav1.DeleteOptions{PropagationPolicy: &background}, "", true},
	} {
		got, changed := propagate(c.have, &c.opts, c.orphan)
		if strings.Join(got, " ") != c.want || changed != (strings.Join(c.have, " ") != c.want) {
			t.Errorf("%v %+v: %v %v, want %q", c.have, c.opts, got, changed, c.want)
		}
	}
}

var configMapResource = schema.GroupResource{Resource: "configmaps"}
