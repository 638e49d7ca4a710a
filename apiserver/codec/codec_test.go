package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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

// FuzzBody feeds the decoders what clients might send: they may refuse it, and must not panic or change the kind.
func FuzzBody(f *testing.F) {
	for _, media := range []string{MediaJSON, MediaYAML, MediaProto} {
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
