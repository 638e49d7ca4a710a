package main

import (
	"fmt"
	"math/rand"
	"reflect"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/resource"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/randfill"

	"github.com/mini-k8s/mini/store"
)

// random fills objects: the first (0) in every field, the others here and there.
func random(scheme *runtime.Scheme, i int) *randfill.Filler {
	f := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, func(serializer.CodecFactory) []any { return append(values(i == 0), schemas()...) }),
		rand.NewSource(int64(i)+1), serializer.NewCodecFactory(scheme))
	f.NumElements(1, 2) // a list is there or not: no encoding knows an empty one
	if i == 0 {
		f.NilChance(0)
	}
	return f
}

// values are the fields that cannot hold just anything: those that say the same thing twice, of which the newer name wins
// wherever an object is read, and those that hold JSON.
func values(full bool) []any {
	return []any{
		func(q *resource.Quantity, c randfill.Continue) {
			*q = resource.MustParse(fmt.Sprintf("%dm", c.Intn(1e6)+1))
		},
		func(f *metav1.FieldsV1, c randfill.Continue) { f.Raw = []byte(`{"f:spec":{"f:` + word(c) + `":{}}}`) },
		func(e *metav1.ManagedFieldsEntry, c randfill.Continue) {
			c.FillNoCustom(e)
			e.FieldsType = "FieldsV1"
		},
		func(r *runtime.RawExtension, c randfill.Continue) {
			r.Raw = []byte(`{"apiVersion":"example.com/v1","kind":"Widget","size":` + fmt.Sprint(c.Intn(100)) + `}`)
		},
		func(b *[]byte, c randfill.Continue) { *b = []byte(word(c)) },
		func(s *corev1.VolumeSource, c randfill.Continue) { fillOne(s, c, full) },
		func(s *corev1.PersistentVolumeSource, c randfill.Continue) { fillOne(s, c, full) },
		func(s *string, c randfill.Continue) {
			if *s = word(c); !full && c.Intn(4) == 0 {
				*s = ""
			}
		},
		func(b *bool, c randfill.Continue) { *b = full || c.Intn(2) == 0 },
		func(t **metav1.Time, c randfill.Continue) { fillPointer(t, c, full) },
		func(t **metav1.MicroTime, c randfill.Continue) { fillPointer(t, c, full) },
		func(n **intstr.IntOrString, c randfill.Continue) { fillPointer(n, c, full) },
		func(s *metav1.LabelSelector, c randfill.Continue) {
			s.MatchLabels = map[string]string{word(c): word(c)}
			s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: word(c), Operator: metav1.LabelSelectorOpIn, Values: []string{word(c), word(c)}}}
		},
	}
}

func word(c randfill.Continue) string {
	var b strings.Builder
	for range c.Intn(8) + 3 {
		b.WriteByte("abcdefghijklmnopqrstuvwxyz"[c.Intn(26)])
	}
	return b.String()
}

// fillOne fills a struct of which one field may be set; all of them, where every field shall be.
func fillOne(s any, c randfill.Continue, all bool) {
	fields := reflect.ValueOf(s).Elem()
	if all {
		for i := range fields.NumField() {
			c.Fill(fields.Field(i).Addr().Interface())
		}
		return
	}
	field := fields.Field(c.Intn(fields.NumField()))
	field.Set(reflect.New(field.Type().Elem()))
	c.Fill(field.Interface())
}

// fillPointer fills what knows itself how to be filled, which randfill leaves out where it is behind a pointer.
func fillPointer[T any](p **T, c randfill.Continue, always bool) {
	if always || c.Intn(2) == 0 {
		*p = new(T)
		c.Fill(*p)
	}
}

// fillStrings gives every empty string a letter: randfill makes its own for named types, and some are empty.
func fillStrings(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.Len() == 0 && v.CanSet() {
			v.SetString("x")
		}
	case reflect.Pointer:
		fillStrings(v.Elem())
	case reflect.Struct:
		if v.Type() != reflect.TypeFor[intstr.IntOrString]() {
			for i := range v.NumField() {
				fillStrings(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			fillStrings(v.Index(i))
		}
	}
}

// schemas fill JSON schemas, which hold schemas, without end but for depth.
func schemas() []any {
	const depth = 2
	above := 0
	return []any{
		func(s *apiextensionsv1.JSONSchemaProps, c randfill.Continue) {
			if above == depth {
				s.Type = word(c)
				return
			}
			above++
			c.FillNoCustom(s)
			above--
			s.Type = word(c)
		},
		func(s *apiextensionsv1.JSONSchemaPropsOrArray, c randfill.Continue) {
			if c.Fill(&s.JSONSchemas); len(s.JSONSchemas) == 0 || c.Intn(2) == 0 {
				s.JSONSchemas, s.Schema = nil, &apiextensionsv1.JSONSchemaProps{}
				c.Fill(s.Schema)
			}
		},
		func(s *apiextensionsv1.JSONSchemaPropsOrStringArray, c randfill.Continue) {
			if c.Fill(&s.Property); len(s.Property) == 0 || c.Intn(2) == 0 {
				s.Property, s.Schema = nil, &apiextensionsv1.JSONSchemaProps{}
				c.Fill(s.Schema)
			}
		},
		func(s *apiextensionsv1.JSONSchemaPropsOrBool, c randfill.Continue) {
			s.Allows, s.Schema = true, &apiextensionsv1.JSONSchemaProps{}
			c.Fill(s.Schema)
		},
		func(j *apiextensionsv1.JSON, c randfill.Continue) { j.Raw = []byte(`{"a":[1,"` + word(c) + `"]}`) },
	}
}

// settle makes an object one that has been stored before, where a random one could not be.
func settle(o store.Object) {
	switch o := o.(type) {
	case *corev1.Secret:
		o.StringData = nil // its values have gone into data
	case *appsv1.DaemonSet:
		metav1.SetMetaDataAnnotation(&o.ObjectMeta, appsv1.DeprecatedTemplateGeneration, "1")
	case *appsv1.Deployment:
		if o.Spec.Strategy.RollingUpdate != nil {
			o.Spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
		}
	case *appsv1.StatefulSet:
		if o.Spec.UpdateStrategy.RollingUpdate != nil {
			o.Spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		}
	case *apiextensionsv1.CustomResourceDefinition:
		o.Spec.Scope = apiextensionsv1.NamespaceScoped
		if c := o.Spec.Conversion; c != nil && c.Webhook != nil {
			c.Webhook.ConversionReviewVersions = []string{"v1"}
		}
	}
}

// widget is a custom resource with a value of every kind that JSON has.
func widget(gvk schema.GroupVersionKind, i int) store.Object {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	text := fmt.Sprintf(`{"spec":{"whole":%d,"large":9007199254740993,"part":1.5,"text":"<&é>","yes":true,"none":null,"list":[1,"a",{}],"empty":{}}}`, i)
	if err := json.Unmarshal([]byte(text), &u.Object); err != nil {
		panic(err) // the text is ours
	}
	u.SetGroupVersionKind(gvk)
	u.SetLabels(map[string]string{"a": "b"})
	u.SetFinalizers([]string{"example.com/hold"})
	return u
}
