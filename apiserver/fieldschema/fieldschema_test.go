package fieldschema

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/applyconfiguration"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/client/applyconfiguration"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/mini-k8s/mini/apiserver/registry/builtin"
)

var update = flag.Bool("update", false, "write types.txt from client-go's schemas")

// kinds are the types of client-go's and those of CustomResourceDefinitions and APIServices.
var kinds = builtin.NewScheme()

// upstream returns client-go's whole schema, and those of the clients of CustomResourceDefinitions and APIServices.
func upstream(t *testing.T) []*schema.Schema {
	t.Helper()
	var out []*schema.Schema
	for obj, converter := range map[runtime.Object]managedfields.TypeConverter{
		&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}}: applyconfigurations.NewTypeConverter(kinds),
		&apiextensionsv1.CustomResourceDefinition{TypeMeta: metav1.TypeMeta{
			APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition",
		}}: apiextensions.NewTypeConverter(kinds),
		&apiregistrationv1.APIService{TypeMeta: metav1.TypeMeta{
			APIVersion: "apiregistration.k8s.io/v1", Kind: "APIService",
		}}: apiregistration.NewTypeConverter(kinds),
	} {
		v, err := converter.ObjectToTyped(obj)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v.Schema())
	}
	return out
}

// stable are the kinds of v1 and v2 APIs.
func stable() []kschema.GroupVersionKind {
	var out []kschema.GroupVersionKind
	for gvk := range kinds.AllKnownTypes() {
		if gvk.Version == "v1" || gvk.Version == "v2" {
			out = append(out, gvk)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].String() < out[j].String() })
	return out
}

func render(t *testing.T, all []*schema.Schema) []byte {
	t.Helper()
	lines := map[string]string{}
	var add func(name string)
	add = func(name string) {
		if _, done := lines[name]; done {
			return
		}
		at := slices.IndexFunc(all, func(s *schema.Schema) bool { _, ok := s.FindNamedType(name); return ok })
		if at < 0 {
			return // lists and options have no schema
		}
		def, _ := all[at].FindNamedType(name)
		var refs []string
		b, err := json.Marshal(atomOf(def.Atom, &refs))
		if err != nil {
			t.Fatal(err)
		}
		lines[name] = string(b)
		for _, r := range refs {
			add(r)
		}
	}
	for _, gvk := range stable() {
		name, err := kinds.ToOpenAPIDefinitionName(gvk)
		if err != nil {
			t.Fatal(err)
		}
		add(name)
	}
	names := make([]string, 0, len(lines))
	for n := range lines {
		names = append(names, n)
	}
	sort.Strings(names)
	var out bytes.Buffer
	shorten := wording(0)
	for _, n := range names {
		for _, w := range words {
			if strings.Contains(n+lines[n], w[1]) {
				t.Fatalf("%q is used for a word and by %s", w[1], n)
			}
		}
		out.WriteString(shorten.Replace(n) + " " + shorten.Replace(lines[n]) + "\n")
	}
	return out.Bytes()
}

func atomOf(a schema.Atom, refs *[]string) atom {
	var out atom
	if a.Scalar != nil {
		out.Scalar = string(*a.Scalar)
	}
	if a.List != nil {
		out.List = &list{Element: referenceOf(a.List.ElementType, refs), Relation: string(a.List.ElementRelationship), Keys: a.List.Keys}
	}
	if a.Map != nil {
		m := &structure{Relation: string(a.Map.ElementRelationship)}
		for _, f := range a.Map.Fields {
			m.Fields = append(m.Fields, field{Name: f.Name, Type: referenceOf(f.Type, refs), Default: plain(f.Default)})
		}
		if e := referenceOf(a.Map.ElementType, refs); !reflect.DeepEqual(e, reference{}) {
			m.Element = &e
		}
		for _, u := range a.Map.Unions {
			o := union{Deduce: u.DeduceInvalidDiscriminator}
			if u.Discriminator != nil {
				o.Discriminator = *u.Discriminator
			}
			for _, f := range u.Fields {
				o.Fields = append(o.Fields, [2]string{f.FieldName, f.DiscriminatorValue})
			}
			m.Unions = append(m.Unions, o)
		}
		out.Map = m
	}
	return out
}

func referenceOf(r schema.TypeRef, refs *[]string) reference {
	out := reference{atom: atomOf(r.Inlined, refs), Nullable: r.Nullable}
	if r.NamedType != nil {
		out.Name = *r.NamedType
		*refs = append(*refs, out.Name)
	}
	if r.ElementRelationship != nil {
		out.Relation = string(*r.ElementRelationship)
	}
	return out
}

// plain turns YAML's maps into JSON's.
func plain(v any) any {
	m, ok := v.(map[any]any)
	if !ok {
		return v
	}
	out := map[string]any{}
	for k, e := range m {
		out[k.(string)] = plain(e)
	}
	return out
}

func TestTypesAreClientGos(t *testing.T) {
	want := render(t, upstream(t))
	if *update {
		if err := os.WriteFile("types.txt", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, []byte(types)) {
		t.Error("types.txt is not what client-go has: go test ./apiserver/fieldschema -update")
	}
}

// TestEveryKind reads the schema of each stable kind that has metadata, and back into the same lines.
func TestEveryKind(t *testing.T) {
	c := New(kinds)
	found := 0
	for _, gvk := range stable() {
		obj, err := kinds.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := obj.(metav1.Object); !ok {
			continue
		}
		kind, err := c.Type(gvk)
		if err != nil {
			if !strings.Contains(err.Error(), "there is no type") {
				t.Errorf("%s: %v", gvk, err)
			}
			continue
		}
		found++
		for _, def := range kind.Schema.Types {
			b, err := json.Marshal(atomOf(def.Atom, new([]string)))
			if err != nil || string(b)+"\n" != wording(1).Replace(c.lines[wording(0).Replace(def.Name)]) {
				t.Errorf("%s: %s became %s, %v", gvk, def.Name, b, err)
			}
		}
	}
	if found < 60 {
		t.Errorf("only %d kinds have a schema", found)
	}
}

// TestFieldSets compares the fields of objects under these schemas with those under client-go's.
func TestFieldSets(t *testing.T) {
	theirs := applyconfigurations.NewTypeConverter(kinds)
	ours := New(kinds)
	replicas := int32(2)
	for _, obj := range []runtime.Object{
		&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Data: map[string]string{"a": "b"}},
		&corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"a": "b"}, Ports: []corev1.ServicePort{{Port: 1, Protocol: "TCP"}, {Port: 2, Protocol: "UDP"}},
		}},
		&appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Env: []corev1.EnvVar{{Name: "E"}}}}}},
		}},
	} {
		a, err := theirs.ObjectToTyped(obj)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ours.ObjectToTyped(obj)
		if err != nil {
			t.Fatal(err)
		}
		as, err := a.ToFieldSet()
		if err != nil {
			t.Fatal(err)
		}
		bs, err := b.ToFieldSet()
		if err != nil {
			t.Fatal(err)
		}
		if !as.Equals(bs) || as.Empty() {
			t.Errorf("%T: %v, want %v", obj, bs, as)
		}
	}
}

func BenchmarkFirstPod(b *testing.B) {
	for b.Loop() {
		if _, err := New(kinds).Type(corev1.SchemeGroupVersion.WithKind("Pod")); err != nil {
			b.Fatal(err)
		}
	}
}
