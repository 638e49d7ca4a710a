package rest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/fieldschema"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/builtin"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

// collection is one that is never asked.
type collection struct{ store.Collection }

// endpoints makes those of all stored built-in kinds.
func endpoints(t testing.TB) []*Endpoint {
	t.Helper()
	types := builtin.NewScheme()
	review := map[string]func(context.Context, store.Object) (store.Object, error){}
	for _, kind := range []string{
		"TokenReview", "SelfSubjectReview", "SubjectAccessReview", "LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview",
	} {
		review[kind] = func(_ context.Context, o store.Object) (store.Object, error) { return o, nil }
	}
	rows, _ := builtin.Resources(registry.Deps{
		Review: review,
		CreateToken: func(_ context.Context, _, _ string, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
			return req, nil
		},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		NodePorts:    registry.PortRange{From: 30000, To: 32767},
	})
	schemas := fieldschema.New(types)
	var all []*Endpoint
	for i := range rows {
		if rows[i].Create != nil {
			continue
		}
		e, err := New(Config{Resource: &rows[i], Scheme: types, Collection: collection{}, TypeConverter: func() managedfields.TypeConverter { return schemas }})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func indexOf(t testing.TB, all []*Endpoint, kind string) int {
	t.Helper()
	i := slices.IndexFunc(all, func(e *Endpoint) bool { return e.kind.GVK.Kind == kind })
	if i < 0 {
		t.Fatalf("no %s", kind)
	}
	return i
}

func endpointOf(t testing.TB, kind string) *Endpoint {
	t.Helper()
	all := endpoints(t)
	return all[indexOf(t, all, kind)]
}

// clientsFault fails unless err is one that says what is wrong with the request.
func clientsFault(t *testing.T, err error, input any) {
	t.Helper()
	if s := statusOf(err, configMapResource, "").Status(); s.Code < 400 || s.Code >= 500 {
		t.Fatalf("%q: %+v", input, s)
	}
}

// FuzzSelectors: a selector is refused, or means the same when it is written down and read again, and the objects it
// chooses are those that apimachinery's own matching chooses.
func FuzzSelectors(f *testing.F) {
	f.Add("a=b,c!=d,e in (f,g),h notin (i),j,!k,l>3,m<4", "metadata.name=x,status.phase!=Running,spec.nodeName==")
	f.Add("a in (),b=", `metadata.namespace=a\,b\=c\\`)
	f.Add("x=1", "metadata.name=p,metadata.name!=q,spec.restartPolicy=Always")
	e := endpointOf(f, "Pod")
	pods := []*corev1.Pod{
		{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", Labels: map[string]string{"a": "b", "l": "5", "x": "1"}}, Spec: corev1.PodSpec{NodeName: "m"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default", Labels: map[string]string{"e": "f", "k": "", "m": "-1"}}, Status: corev1.PodStatus{Phase: corev1.PodRunning}},
		{ObjectMeta: metav1.ObjectMeta{Name: "y"}},
	}
	f.Fuzz(func(t *testing.T, label, field string) {
		query := url.Values{"labelSelector": {label}, "fieldSelector": {field}}
		o, err := parseListOptions(query, false)
		if err != nil {
			clientsFault(t, err, query)
			return
		}
		// Only here is a field refused that Pods cannot be chosen by, an empty one among them.
		if _, err := e.selection(request.Info{}, &o); err != nil {
			clientsFault(t, err, query)
			return
		}
		again, err := parseListOptions(url.Values{"labelSelector": {o.labels.String()}, "fieldSelector": {o.fields.String()}}, false)
		if err != nil || again.labels.String() != o.labels.String() || again.fields.String() != o.fields.String() {
			t.Fatalf("%q became %q and %q: %v", query, again.labels, again.fields, err)
		}
		for _, namespace := range []string{"", "n"} {
			chosen, err := e.selection(request.Info{Namespace: namespace}, &o)
			if err != nil {
				t.Fatalf("%q in namespace %q: %v", query, namespace, err)
			}
			for _, pod := range pods {
				if namespace != "" && pod.Namespace != namespace {
					continue
				}
				got := (chosen.name == "" || chosen.name == pod.Name) && (chosen.match == nil || chosen.match(&store.Item{Object: pod}))
				set := e.res.Fields(pod)
				set["metadata.name"], set["metadata.namespace"] = pod.Name, pod.Namespace
				if want := o.labels.Matches(labels.Set(pod.Labels)) && o.fields.Matches(set); got != want {
					t.Fatalf("%q on %s: %v, want %v", query, pod.Name, got, want)
				}
			}
		}
	})
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
			clientsFault(t, err, raw)
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

// FuzzWriteOptions feeds the queries of writes and of connections, and the User-Agent that names a manager: what is let
// through keeps to its rules.
func FuzzWriteOptions(f *testing.F) {
	f.Add("dryRun=All&fieldManager=me&fieldValidation=Strict&force=true", "kubectl/v1.36 (linux)", true)
	f.Add("dryRun=&fieldValidation=Warn&fieldManager=%00", "", false)
	f.Add("container=c&stdin=1&tty=false&command=a&command=b", "/", false)
	f.Fuzz(func(t *testing.T, raw, agent string, apply bool) {
		r := httptest.NewRequest(http.MethodPatch, "/", nil)
		r.URL.RawQuery = raw
		r.Header["User-Agent"] = []string{agent}
		patch := types.MergePatchType
		if apply {
			patch = types.ApplyPatchType
		}
		opts := &corev1.PodExecOptions{}
		fromQuery(r.URL.Query(), opts)
		if want := r.URL.Query()["command"]; !reflect.DeepEqual(opts.Command, want) {
			t.Fatalf("%q: command %q", raw, opts.Command)
		}
		o, err := parseWriteOptions(r, "PatchOptions", patch)
		if err != nil {
			clientsFault(t, err, raw)
			return
		}
		if o.manager == "" || len(o.manager) > 128 || o.force != nil && !apply {
			t.Fatalf("%q %q: %+v", raw, agent, o)
		}
		for _, d := range o.dryRun {
			if d != metav1.DryRunAll {
				t.Fatalf("%q: dry run %q", raw, d)
			}
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

// FuzzPatch feeds patches of every kind to a Pod: they are refused as the client's fault, or give an object that is read
// again as it is written.
func FuzzPatch(f *testing.F) {
	f.Add(uint8(0), []byte(`[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"test","path":"/kind","value":"Pod"}]`))
	f.Add(uint8(0), []byte(`[{"op":"copy","from":"/spec/containers/0","path":"/spec/containers/-"},{"op":"move","from":"/spec/containers/0","path":"/spec/containers/1"},{"op":"remove","path":"/metadata/labels/x"}]`))
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
		obj := kind.New()
		patch, err := newPatcher(kind, kinds[int(which)%len(kinds)], body, true)
		if err == nil {
			start := time.Now()
			err = patch.into(t.Context(), original, obj, metav1.FieldValidationStrict, nil)
			if took := time.Since(start); took > 30*time.Second {
				t.Fatalf("a patch of %d bytes took %v", len(body), took)
			}
		}
		if err != nil {
			clientsFault(t, err, body)
			return
		}
		survives(t, kind, obj)
	})
}

// survives checks that what is written is read again as the same.
func survives(t *testing.T, kind *codec.Kind, obj store.Object) {
	t.Helper()
	data, err := kind.EncodeJSON(obj)
	if err != nil {
		t.Fatal(err)
	}
	back := kind.New()
	strict, err := codec.Body(codec.MediaJSON, data, back, true)
	if err != nil || len(strict) > 0 {
		t.Fatalf("%s is not read again: %v %v", data, strict, err)
	}
	again, err := kind.EncodeJSON(back)
	if err != nil || string(again) != string(data) {
		t.Fatalf("%s became %s: %v", data, again, err)
	}
}

// FuzzApply applies configurations of every built-in kind to nothing: they are refused, or make an object that is read
// again as it is written, and that applying the same once more does not change.
func FuzzApply(f *testing.F) {
	all := endpoints(f)
	for kind, body := range map[string]string{
		"Pod":                      "metadata: {labels: {a: b}}\nspec:\n  containers:\n  - {name: c, image: i, ports: [{containerPort: 1}, {containerPort: 2, protocol: UDP}], env: [{name: e, value: v}]}\n",
		"Deployment":               `spec: {replicas: 2, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i, resources: {limits: {cpu: 1.5, memory: 1Gi}}}]}}}`,
		"Service":                  `spec: {selector: {a: b}, ports: [{name: x, port: 80, targetPort: http}, {name: y, port: 81, targetPort: 8080}]}`,
		"ConfigMap":                "data: {a: b}\nbinaryData: {c: ZA==}\n",
		"Secret":                   "stringData: {a: b}\n",
		"Node":                     `spec: {taints: [{key: a, effect: NoSchedule}]}`,
		"Ingress":                  `spec: {rules: [{host: h, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 1}}}}]}}]}`,
		"CustomResourceDefinition": `spec: {group: g, scope: Namespaced, names: {kind: K, plural: ks}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {a: {type: array, items: {type: string}}}}}}]}`,
	} {
		f.Add(uint(indexOf(f, all, kind)), []byte(body))
	}
	f.Add(uint(0), []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`))
	f.Fuzz(func(t *testing.T, which uint, body []byte) {
		e := all[which%uint(len(all))]
		if len(body) > 0 && body[0] != '{' {
			apiVersion, kind := e.kind.GVK.ToAPIVersionAndKind()
			body = append([]byte("apiVersion: "+apiVersion+"\nkind: "+kind+"\n"), body...)
		}
		q := &write{e: e, ctx: t.Context(), view: e.main, info: request.Info{Name: "a"}}
		q.opts.manager, q.opts.validation = "m", metav1.FieldValidationIgnore
		if e.res.Namespaced {
			q.info.Namespace = "n"
		}
		apply, err := q.applyPatch(types.ApplyYAMLPatchType, body)
		if err != nil {
			clientsFault(t, err, body)
			return
		}
		first, err := apply(nil)
		if err != nil {
			return // of the schema; upstream answers 500 without a reason, and so do we
		}
		if first.GetName() != "a" || first.GetNamespace() != q.info.Namespace {
			t.Fatalf("%s moved to %s/%s", body, first.GetNamespace(), first.GetName())
		}
		survives(t, e.kind, first)
		created := first.DeepCopyObject().(store.Object)
		if _, err := q.beforeCreate(created); err != nil {
			clientsFault(t, err, body)
			return
		}
		stored, err := e.stored(created)
		if err != nil {
			return
		}
		item := &store.Item{Object: stored}
		// What is served then may have more than was applied: what a create fills in, and the defaults of the version that is stored.
		served, err := e.kind.Object(item)
		if err != nil {
			t.Fatal(err)
		}
		served = served.DeepCopyObject().(store.Object)
		second, err := apply(item)
		if err != nil {
			t.Fatalf("%s is refused the second time: %v", body, err)
		}
		if len(served.GetManagedFields()) == 0 { // it owns nothing: as upstream, what there is by default gets an owner now
			second.SetManagedFields(nil)
		}
		for _, o := range []store.Object{served, second} {
			m := o.GetManagedFields()
			for i := range m {
				m[i].Time = nil
			}
		}
		if !apiequality.Semantic.DeepEqual(served, second) {
			t.Fatalf("%s: the second time made of\n%+v\nthis\n%+v", body, served, second)
		}
	})
}
