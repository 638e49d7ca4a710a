package main

import (
	"encoding/json"
	"math/rand"
	"slices"
	"strings"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/applyconfiguration"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/client/applyconfiguration"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/randfill"

	"github.com/mini-k8s/mini/apiserver/openapi/render"
	"github.com/mini-k8s/mini/apiserver/registry/builtin"
)

// documents builds everything once, as the generator would write it.
func documents(t *testing.T) (map[schema.GroupVersion]*spec3.OpenAPI, map[string]any) {
	t.Helper()
	groups, definitions, err := build(builtin.NewScheme(), rows())
	if err != nil {
		t.Fatal(err)
	}
	out := map[schema.GroupVersion]*spec3.OpenAPI{}
	for gv, paths := range groups {
		data, err := json.Marshal(render.V3(gv, paths, definitions))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openapiv3.ParseDocument(data); err != nil {
			t.Errorf("%v as protobuf: %v", gv, err)
		}
		doc := &spec3.OpenAPI{}
		if err := json.Unmarshal(data, doc); err != nil {
			t.Fatalf("%v: %v", gv, err)
		}
		out[gv] = doc
	}
	doc2 := render.V2(groups, definitions)
	data, err := json.Marshal(doc2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openapiv2.ParseDocument(data); err != nil {
		t.Errorf("v2 as protobuf: %v", err)
	}
	var back map[string]any
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	return out, back
}

// TestFieldOwnership: with schemas from these documents, server-side apply splits any object into the same fields as with
// the schemas that client-go carries. So list types, map keys and atomic parts are right.
func TestFieldOwnership(t *testing.T) {
	docs, _ := documents(t)
	types := builtin.NewScheme()
	core := applyconfigurations.NewTypeConverter(scheme.Scheme)
	others := map[string]managedfields.TypeConverter{
		apiextensionsv1.GroupName:   apiextensions.NewTypeConverter(types),
		apiregistrationv1.GroupName: apiregistration.NewTypeConverter(types),
	}
	fill := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, flatSchemas), rand.NewSource(1), serializer.NewCodecFactory(types))
	for _, row := range rows() {
		if row.Create != nil {
			continue
		}
		theirs, ok := others[row.GVK.Group]
		if !ok {
			theirs = core
		}
		t.Run(row.GVK.Group+"_"+row.Name, func(t *testing.T) {
			schemas := map[string]*spec.Schema{}
			for name, s := range docs[row.GVK.GroupVersion()].Components.Schemas {
				schemas[name] = s
			}
			ours, err := managedfields.NewTypeConverter(schemas, false)
			if err != nil {
				t.Fatal(err)
			}
			compared := 0
			for range 20 {
				obj, err := types.New(row.GVK)
				if err != nil {
					t.Fatal(err)
				}
				fill.Fill(obj)
				dedupe(obj)
				obj.GetObjectKind().SetGroupVersionKind(row.GVK)
				obj.(metav1.Object).SetManagedFields(nil)
				a, errA := ours.ObjectToTyped(obj)
				b, errB := theirs.ObjectToTyped(obj)
				if (errA == nil) != (errB == nil) {
					t.Fatalf("ours: %v\nclient-go: %v", errA, errB)
				}
				if errA != nil {
					continue // both refuse it, for a duplicate key of the random object
				}
				x, err1 := a.ToFieldSet()
				y, err2 := b.ToFieldSet()
				if err1 != nil || err2 != nil {
					t.Fatal(err1, err2)
				}
				if !x.Equals(y) {
					t.Fatalf("only ours: %v\nonly client-go: %v", x.Difference(y), y.Difference(x))
				}
				compared++
			}
			if compared == 0 {
				t.Error("no random object could be typed")
			}
		})
	}
}

// flatSchemas keeps the schemas in random CustomResourceDefinitions from growing without end.
func flatSchemas(serializer.CodecFactory) []any {
	return []any{func(s *apiextensionsv1.JSONSchemaProps, c randfill.Continue) {
		s.Type, s.Required = c.String(10), []string{c.String(5)}
		s.XListMapKeys = []string{c.String(5), c.String(6)}
	}}
}

// dedupe gives the parts of a random pod that are sets their unique keys, so that it can be typed.
func dedupe(obj runtime.Object) {
	if pod, ok := obj.(*corev1.Pod); ok {
		for i := range pod.Spec.Containers {
			pod.Spec.Containers[i].Name = strings.Repeat("c", i+1)
		}
	}
}

func TestDocumentsForKubectl(t *testing.T) {
	docs, two := documents(t)
	core := docs[corev1.SchemeGroupVersion]
	pod := core.Components.Schemas["io.k8s.api.core.v1.Pod"]
	if pod == nil || !strings.HasPrefix(pod.Description, "Pod is a collection of containers") {
		t.Fatalf("explain pod would show %+v", pod)
	}
	if marks, ok := pod.Extensions["x-kubernetes-group-version-kind"].([]any); !ok || len(marks) != 1 {
		t.Errorf("pod is marked %v", pod.Extensions)
	}
	podSpec := core.Components.Schemas["io.k8s.api.core.v1.PodSpec"]
	if !slices.Contains(podSpec.Required, "containers") || len(podSpec.Required) != 1 {
		t.Errorf("required of a pod's spec: %v", podSpec.Required)
	}
	policy := podSpec.Properties["restartPolicy"]
	if len(policy.Enum) != 3 || !strings.Contains(policy.Description, "- `\"OnFailure\"`") {
		t.Errorf("restartPolicy: %v %q", policy.Enum, policy.Description)
	}
	containers := podSpec.Properties["containers"]
	if containers.Extensions["x-kubernetes-patch-merge-key"] != "name" || containers.Extensions["x-kubernetes-list-type"] != "map" {
		t.Errorf("containers: %v", containers.Extensions)
	}
	// How kubectl finds out that the server validates fields and knows dry runs.
	patch := core.Paths.Paths["/api/v1/namespaces/{namespace}/pods/{name}"].Patch
	var names []string
	for _, p := range patch.Parameters {
		names = append(names, p.Name)
	}
	for _, want := range []string{"fieldValidation", "dryRun", "force", "fieldManager"} {
		if !slices.Contains(names, want) {
			t.Errorf("patch of pods lacks %s: %v", want, names)
		}
	}
	if patch.Extensions["x-kubernetes-group-version-kind"] == nil {
		t.Error("patch of pods does not say its kind")
	}
	seen := map[string]string{}
	for gv, doc := range docs {
		for path, item := range doc.Paths.Paths {
			for method, op := range map[string]*spec3.Operation{"get": item.Get, "put": item.Put, "post": item.Post, "patch": item.Patch, "delete": item.Delete} {
				if op == nil {
					continue
				}
				if other := seen[op.OperationId]; other != "" {
					t.Errorf("%s %s and %s are both %s", method, path, other, op.OperationId)
				}
				seen[op.OperationId] = method + " " + path
			}
		}
		for name, s := range doc.Components.Schemas {
			for p, property := range s.Properties {
				for _, ref := range append(slices.Clone(property.AllOf), property) {
					target := strings.TrimPrefix(ref.Ref.String(), "#/components/schemas/")
					if target != "" && doc.Components.Schemas[target] == nil {
						t.Errorf("%v: %s.%s refers to %s, which is missing", gv, name, p, target)
					}
				}
			}
		}
	}
	if two["definitions"].(map[string]any)["io.k8s.api.apps.v1.Deployment"] == nil {
		t.Error("v2 has no Deployment")
	}
}

func TestDescribe(t *testing.T) {
	for _, test := range []struct{ name, comment, want string }{
		{"joined", "one\ntwo", "one two"},
		{"paragraphs", "one\n\ntwo", "one\n\ntwo"},
		{"markers", "one\n+optional\n+listType=map", "one"},
		{"todo", "TODO: later\none", "one"},
		{"private", "one\n---\ntwo", "one"},
		{"indented", "for example:\n  a: b\nand more", "for example:\n  a: b\nand more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := describe(strings.Split(test.comment, "\n")); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
