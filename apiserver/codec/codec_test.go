package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/store"
)

func kind(t testing.TB, gvk schema.GroupVersionKind) *Kind {
	t.Helper()
	k, err := NewKind(scheme.Scheme, gvk, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var configMaps = corev1.SchemeGroupVersion.WithKind("ConfigMap")

func drawConfigMap(t *rapid.T) *corev1.ConfigMap {
	text := rapid.String()
	cm := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}}
	cm.Name = text.Draw(t, "name")
	cm.Data = rapid.MapOfN(text, text, 0, 4).Draw(t, "data")
	cm.BinaryData = rapid.MapOfN(text, rapid.SliceOf(rapid.Byte()), 0, 2).Draw(t, "binary")
	cm.Labels = rapid.MapOfN(text, text, 0, 3).Draw(t, "labels")
	return cm
}

// TestListsAreWhatUpstreamEncodes compares lists that are joined from their items' bytes with apimachinery's encoding.
func TestListsAreWhatUpstreamEncodes(t *testing.T) {
	k := kind(t, configMaps)
	inJSON, _ := k.Frames(JSON, Full)
	inProto, _ := k.Frames(Proto, Full)
	upstream := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	rapid.Check(t, func(t *rapid.T) {
		list := &corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{Kind: "ConfigMapList", APIVersion: "v1"}, Items: []corev1.ConfigMap{}}
		list.ResourceVersion = rapid.StringMatching("[0-9]{1,9}").Draw(t, "version")
		var items []*store.Item
		for range rapid.IntRange(0, 4).Draw(t, "count") {
			cm := drawConfigMap(t)
			items = append(items, &store.Item{Object: cm})
			bare := *cm
			bare.TypeMeta = metav1.TypeMeta{}
			list.Items = append(list.Items, bare)
		}
		want, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		got, err := inJSON.List(nil, list.ListMeta, items)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want)+"\n", string(got)); diff != "" {
			t.Fatal(diff)
		}
		var proto bytes.Buffer
		if err := upstream.Encode(list, &proto); err != nil {
			t.Fatal(err)
		}
		if got, err = inProto.List(nil, list.ListMeta, items); err != nil || !bytes.Equal(proto.Bytes(), got) {
			t.Fatalf("%v\n%q\n%q", err, proto.Bytes(), got)
		}
		if len(items) == 0 {
			return
		}
		proto.Reset()
		if err := upstream.Encode(items[0].Object, &proto); err != nil {
			t.Fatal(err)
		}
		if got, err = inProto.Object(nil, items[0]); err != nil || !bytes.Equal(proto.Bytes(), got) {
			t.Fatalf("%v\n%q\n%q", err, proto.Bytes(), got)
		}
	})
}

// TestStorage checks that what is stored comes back, without the resourceVersion, and is what upstream stores.
func TestStorage(t *testing.T) {
	codec := Storage{Kind: kind(t, configMaps)}
	upstream := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	rapid.Check(t, func(t *rapid.T) {
		cm := drawConfigMap(t)
		cm.ResourceVersion = "7"
		data, err := codec.Encode(cm)
		if err != nil {
			t.Fatal(err)
		}
		if cm.ResourceVersion != "7" {
			t.Fatal("the object was changed")
		}
		bare := cm.DeepCopy()
		bare.ResourceVersion = ""
		var want bytes.Buffer
		if err := upstream.Encode(bare, &want); err != nil || !bytes.Equal(want.Bytes(), data) {
			t.Fatalf("%v\n%q\n%q", err, want.Bytes(), data)
		}
		back, err := codec.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		again, err := codec.Encode(back)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%v\n%q\n%q", err, data, again)
		}
	})
	if _, err := codec.Decode([]byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"}}`)); err != nil {
		t.Errorf("JSON, which upstream reads too: %v", err)
	}
	secret, err := Storage{Kind: kind(t, corev1.SchemeGroupVersion.WithKind("Secret"))}.Encode(&corev1.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := codec.Decode(secret); err == nil {
		t.Error("a Secret was read as a ConfigMap")
	}
	for _, broken := range []string{"", "k8s\x00", "k8s\x00\xff\xff", "{"} {
		if obj, err := codec.Decode([]byte(broken)); err == nil {
			t.Errorf("%q was read as %v", broken, obj)
		}
	}
}

// TestStorageForms checks the kinds that are not written as protobuf of their own version.
func TestStorageForms(t *testing.T) {
	cm := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"b": "<"}}
	plain := Storage{Kind: kind(t, configMaps)}
	older := Storage{Kind: plain.Kind, Version: "v1beta1"}
	inJSON := Storage{Kind: plain.Kind, JSON: true}
	for _, c := range []struct {
		name, begin string
		codec       Storage
	}{
		{"older", "k8s\x00\n\x14\n\x07v1beta1\x12\tConfigMap", older},
		{"json", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"b":"\u003c"}}` + "\n", inJSON},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := c.codec.Encode(cm)
			if err != nil || !strings.HasPrefix(string(data), c.begin) {
				t.Fatalf("%q %v", data, err)
			}
			for _, reader := range []Storage{older, inJSON, plain} {
				back, err := reader.Decode(data)
				if c.name == "older" && reader.Version == "" {
					if err == nil {
						t.Error("another version was read as if it were the kind's")
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(cm, back); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
	if back, err := older.Decode([]byte(`{"kind":"ConfigMap","apiVersion":"v1beta1"}`)); err != nil || back.GetObjectKind().GroupVersionKind() != configMaps {
		t.Errorf("%v %v", back, err)
	}
}

// TestConvert checks a kind whose objects are stored as another one.
func TestConvert(t *testing.T) {
	k, err := NewKind(scheme.Scheme, eventsv1.SchemeGroupVersion.WithKind("Event"), func(o store.Object) (store.Object, error) {
		old := o.(*corev1.Event)
		return &eventsv1.Event{ObjectMeta: old.ObjectMeta, Note: old.Message}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	item := &store.Item{Object: &corev1.Event{Message: "m"}}
	b, err := k.JSON(item)
	if err != nil || !strings.HasPrefix(string(b), `{"kind":"Event","apiVersion":"events.k8s.io/v1"`) || !strings.Contains(string(b), `"note":"m"`) {
		t.Errorf("%s %v", b, err)
	}
	core := kind(t, corev1.SchemeGroupVersion.WithKind("Event"))
	item.Object.GetObjectKind().SetGroupVersionKind(core.GVK)
	if b, err := core.JSON(item); err != nil || !strings.Contains(string(b), `"message":"m"`) {
		t.Errorf("the two forms are kept apart: %s %v", b, err)
	}
	f, _ := k.Frames(JSON, Full)
	if b, err := f.Bookmark(nil, 5, true); err != nil || !strings.Contains(string(b), `"resourceVersion":"5"`) || !strings.Contains(string(b), `k8s.io/initial-events-end`) {
		t.Errorf("%s %v", b, err)
	}
}

func TestUnstructured(t *testing.T) {
	k := kind(t, schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"})
	if _, ok := k.Frames(Proto, Full); ok {
		t.Error("a kind without a Go type has no protobuf")
	}
	obj := k.New()
	if strict, err := Body("", []byte(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"x"},"a":1,"a":2}`), obj, true); err != nil || len(strict) != 1 {
		t.Errorf("%v %v", strict, err)
	}
	f, _ := k.Frames(JSON, Full)
	b, err := f.List(nil, metav1.ListMeta{}, []*store.Item{{Object: obj}})
	if err != nil || string(b) != `{"kind":"ThingList","apiVersion":"example.com/v1","metadata":{},"items":[{"a":2,"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"x"}}]}`+"\n" {
		t.Errorf("%s %v", b, err)
	}
	data, err := Storage{Kind: k}.Encode(obj)
	if err != nil || data[0] != '{' {
		t.Errorf("%s %v", data, err)
	}
	if back, err := (Storage{Kind: k}).Decode(data); err != nil || back.(*unstructured.Unstructured).Object["a"] != int64(2) {
		t.Errorf("%v %v", back, err)
	}
}

func TestBody(t *testing.T) {
	k := kind(t, configMaps)
	for _, c := range []struct {
		media, body string
		err         error
	}{
		{"application/json", `{}`, nil},
		{"application/json; charset=utf-8", `{}`, nil},
		{"application/yaml", "data: {a: b}", nil},
		{"text/plain", "", ErrMediaType},
		{"application/json;;;=", `{}`, ErrMediaType},
	} {
		if _, err := Body(c.media, []byte(c.body), k.New(), true); !errors.Is(err, c.err) {
			t.Errorf("%s %s: %v", c.media, c.body, err)
		}
	}
}

// bomb is the shortest protobuf schema that holds as many others in each other ("not").
func bomb(levels int) []byte {
	sizes := make([]int, levels+1)
	for i := range levels {
		sizes[i+1] = sizes[i] + protowire.SizeTag(28) + protowire.SizeBytes(sizes[i]) - sizes[i]
	}
	var b []byte
	for i := levels; i > 0; i-- {
		b = protowire.AppendTag(b, 28, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizes[i-1]))
	}
	for _, field := range []protowire.Number{1, 4, 7, 2} { // validation.schema, versions.schema, spec.versions, spec
		b = protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), b)
	}
	return appendEnvelope(nil, envelopeHead("apiextensions.k8s.io/v1", "CustomResourceDefinition"), b)
}

// TestDepth: what is nested too deep is refused in every encoding before it is decoded, as decoding takes stack: half a
// million schemas in each other, which fit into a request, would end the process.
func TestDepth(t *testing.T) {
	definitions := schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}
	types := runtime.NewScheme()
	if err := apiextensionsv1.AddToScheme(types); err != nil {
		t.Fatal(err)
	}
	crds, err := NewKind(types, definitions, nil)
	if err != nil {
		t.Fatal(err)
	}
	thing := kind(t, schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"})
	const head = `"apiVersion":"example.com/v1","kind":"Thing","metadata":{}`
	for _, c := range []struct {
		name, media, body string
		kind              *Kind
		deep              bool
	}{
		{"lists", MediaJSON, `{` + head + `,"a":` + strings.Repeat("[", 511) + strings.Repeat("]", 511) + "}", thing, false},
		{"deep lists", MediaJSON, `{` + head + `,"a":` + strings.Repeat("[", 512) + strings.Repeat("]", 512) + "}", thing, true},
		{"deep and broken", MediaJSON, strings.Repeat("[", 3<<20), thing, true},
		{"brackets in texts", MediaJSON, `{` + head + `,"a":"\\\"` + strings.Repeat("[{", 1000) + `"}`, thing, false},
		{"many beside each other", MediaJSON, `{` + head + `,"a":[` + strings.Repeat("{},", 1000) + "[]]}", thing, false},
		{"deep yaml", MediaYAML, strings.Repeat("- ", 600) + "a", thing, true},
		{"yaml", MediaYAML, `{` + head + `,"a":"b"}`, thing, false},
		{"cbor", MediaCBOR, "\xa3\x64kind\x65Thing\x6aapiVersion\x6eexample.com/v1\x61a" + strings.Repeat("\x81", 511) + "\x00", thing, false},
		{"deep cbor", MediaCBOR, "\xa3\x64kind\x65Thing\x6aapiVersion\x6eexample.com/v1\x61a" + strings.Repeat("\x81", 512) + "\x00", thing, true},
		{"deep and broken cbor", MediaCBOR, strings.Repeat("\x9f", 3<<20), thing, true},
		{"schemas", MediaProto, string(bomb(500)), crds, false},
		{"deep schemas", MediaProto, string(bomb(600)), crds, true},
		{"very deep schemas", MediaProto, string(bomb(500000)), crds, true},
	} {
		obj := c.kind.New()
		_, err := Body(c.media, []byte(c.body), obj, true)
		if c.deep != errors.Is(err, errTooDeep) || !c.deep && err != nil {
			t.Errorf("%s: %.200v", c.name, err)
		}
		if c.name == "schemas" && obj.(*apiextensionsv1.CustomResourceDefinition).Spec.Versions[0].Schema.OpenAPIV3Schema.Not == nil {
			t.Error("the schemas in each other are not where they should be")
		}
	}
}

// FuzzBody feeds the decoders what clients might send: they may refuse it, and must not panic or change the kind.
func FuzzBody(f *testing.F) {
	for _, media := range []string{MediaJSON, MediaYAML, MediaProto, MediaCBOR} {
		f.Add(media, []byte(`{"kind":"ConfigMap","apiVersion":"v1"}`))
	}
	pod, err := EncodeProto(&corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(MediaProto, pod)
	k := kind(f, corev1.SchemeGroupVersion.WithKind("Pod"))
	f.Fuzz(func(t *testing.T, media string, body []byte) {
		obj := k.New()
		if _, err := Body(media, body, obj, true); err != nil {
			return
		}
		if got := obj.GetObjectKind().GroupVersionKind(); got != k.GVK {
			t.Fatalf("kind %v", got)
		}
		if _, err := k.EncodeJSON(obj); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzProto feeds protobuf bodies of several kinds, with and without their envelope: they are refused, or give an object
// that is the same when it has been through protobuf and JSON.
func FuzzProto(f *testing.F) {
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(types); err != nil {
			f.Fatal(err)
		}
	}
	var kinds []*Kind
	for _, obj := range []store.Object{
		&corev1.Pod{}, &corev1.Node{}, &corev1.Secret{Data: map[string][]byte{"a": {1}}}, &corev1.Service{}, &eventsv1.Event{},
		&apiextensionsv1.CustomResourceDefinition{Spec: apiextensionsv1.CustomResourceDefinitionSpec{Group: "g"}},
	} {
		gvks, _, err := types.ObjectKinds(obj)
		if err != nil {
			f.Fatal(err)
		}
		k, err := NewKind(types, gvks[0], nil)
		if err != nil {
			f.Fatal(err)
		}
		obj.SetName("a")
		obj.SetLabels(map[string]string{"b": "c"})
		message, err := marshalProto(obj)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(len(kinds)), true, message)
		f.Add(uint8(len(kinds)), false, appendEnvelope(nil, k.protoHead, message))
		kinds = append(kinds, k)
	}
	f.Add(uint8(5), false, bomb(20))
	f.Fuzz(func(t *testing.T, which uint8, bare bool, data []byte) {
		k := kinds[int(which)%len(kinds)]
		if bare {
			data = appendEnvelope(nil, k.protoHead, data)
		}
		obj := k.New()
		if _, err := Body(MediaProto, data, obj, true); err != nil {
			return
		}
		if got := obj.GetObjectKind().GroupVersionKind(); got != k.GVK {
			t.Fatalf("kind %v", got)
		}
		encoded, err := EncodeProto(obj)
		if err != nil {
			t.Fatal(err)
		}
		back := k.New()
		if _, err := Body(MediaProto, encoded, back, true); err != nil || !apiequality.Semantic.DeepEqual(obj, back) {
			t.Fatalf("%q is not read again: %v", encoded, err)
		}
		text, err := k.EncodeJSON(obj)
		if err != nil {
			return // a raw value that is not JSON has none
		}
		if _, err := Body(MediaJSON, text, k.New(), true); err != nil {
			t.Fatalf("%s is not read: %v", text, err)
		}
	})
}

// FuzzStorage feeds the storage codec what etcd might hold, which may come from anywhere: what it reads it can write.
func FuzzStorage(f *testing.F) {
	codec := Storage{Kind: kind(f, corev1.SchemeGroupVersion.WithKind("Pod"))}
	data, err := codec.Encode(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.PodSpec{NodeName: "n"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"kind":"Pod","apiVersion":"v1"}`))
	f.Add([]byte("k8s\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		obj, err := codec.Decode(data)
		if err != nil {
			return
		}
		again, err := codec.Encode(obj)
		if err != nil {
			t.Fatalf("%q decodes but does not encode: %v", data, err)
		}
		if _, err := codec.Decode(again); err != nil {
			t.Fatalf("%q does not survive: %v", data, err)
		}
	})
}
