package rest

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/mini-k8s/mini/apiserver/codec"
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

// FuzzListOptions feeds queries: they are refused, or what is kept is fit for the store.
func FuzzListOptions(f *testing.F) {
	f.Add("labelSelector=a%3Db&limit=5&resourceVersion=7&resourceVersionMatch=Exact", false)
	f.Add("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3Dx", true)
	f.Fuzz(func(t *testing.T, raw string, watch bool) {
		query, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		o, err := parseListOptions(query, watch)
		if err != nil {
			if s := statusOf(err, configMapResource, "").Status(); s.Code < 400 || s.Code >= 500 {
				t.Fatalf("%q: %+v", raw, s)
			}
			return
		}
		if o.Limit < 0 || o.labels == nil || o.fields == nil {
			t.Fatalf("%q: %+v", raw, o)
		}
		if v := o.ResourceVersion; v != "" && strings.Trim(v, "0123456789") != "" {
			t.Fatalf("%q: version %q", raw, v)
		}
	})
}

// FuzzDeleteOptions feeds queries and bodies of DELETE.
func FuzzDeleteOptions(f *testing.F) {
	f.Add("gracePeriodSeconds=1&propagationPolicy=Orphan", []byte(`{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"u"}}`))
	f.Fuzz(func(t *testing.T, raw string, body []byte) {
		r := httptest.NewRequest("DELETE", "/", strings.NewReader(string(body)))
		r.URL.RawQuery = raw
		r.Header.Set("Content-Type", codec.MediaJSON)
		opts, err := readDeleteOptions(httptest.NewRecorder(), r)
		if err == nil && opts.PropagationPolicy != nil && opts.OrphanDependents != nil {
			t.Fatalf("%q %q: both ways to propagate", raw, body)
		}
	})
}

// FuzzPatch feeds patches of every kind to a Pod: they are refused as the client's fault, or give an object.
func FuzzPatch(f *testing.F) {
	f.Add(uint8(0), []byte(`[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"test","path":"/kind","value":"Pod"}]`))
	f.Add(uint8(1), []byte(`{"metadata":{"labels":null},"spec":{"containers":[]}}`))
	f.Add(uint8(2), []byte(`{"spec":{"containers":[{"name":"c","image":"j"}],"$setElementOrder/containers":[{"name":"c"}]}}`))
	f.Add(uint8(2), []byte(`{"spec":{"containers":[{"name":"c","$patch":"delete"}],"$retainKeys":["x"]}}`))
	kind, err := codec.NewKind(scheme.Scheme, corev1.SchemeGroupVersion.WithKind("Pod"), nil)
	if err != nil {
		f.Fatal(err)
	}
	original := []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","labels":{"x":"y"}},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	kinds := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		patch, err := newPatcher(kind, kinds[int(which)%len(kinds)], body, true)
		if err == nil {
			err = patch.into(t.Context(), original, kind.New(), metav1.FieldValidationStrict, nil)
		}
		if err != nil {
			if s := statusOf(err, configMapResource, "").Status(); s.Code < 400 || s.Code >= 500 {
				t.Fatalf("%s: %+v", body, s)
			}
		}
	})
}

var configMapResource = schema.GroupResource{Resource: "configmaps"}
