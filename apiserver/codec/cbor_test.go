package codec

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	fxcbor "github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/client-go/kubernetes/scheme"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/store"
)

var things = schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"}

// inCBOR encodes anything, as a client of another language might.
func inCBOR(t testing.TB, v any) []byte {
	t.Helper()
	b, err := fxcbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCBORIsWhatUpstreamEncodes compares lists, objects and events that are joined from their items' bytes with
// apimachinery's encoding: lists byte by byte, and what else has its keys in another order by what upstream reads in it.
func TestCBORIsWhatUpstreamEncodes(t *testing.T) {
	k := kind(t, configMaps)
	full, _ := k.Frames(CBOR, Full)
	metadata, _ := k.Frames(CBOR, Metadata)
	upstream := cbor.NewSerializer(scheme.Scheme, scheme.Scheme, cbor.Strict(true))
	rapid.Check(t, func(t *rapid.T) {
		list := &corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{Kind: "ConfigMapList", APIVersion: "v1"}, Items: []corev1.ConfigMap{}}
		list.ResourceVersion = rapid.StringMatching("[0-9]{1,9}").Draw(t, "version")
		var items []*store.Item
		for range rapid.IntRange(0, 30).Draw(t, "count") {
			cm := drawConfigMap(t)
			items = append(items, &store.Item{Object: cm})
			bare := *cm
			bare.TypeMeta = metav1.TypeMeta{}
			list.Items = append(list.Items, bare)
		}
		var want bytes.Buffer
		if err := upstream.Encode(list, &want); err != nil {
			t.Fatal(err)
		}
		got, err := full.List([]byte("x"), list.ListMeta, items)
		if err != nil || !bytes.Equal(got[1:], want.Bytes()) {
			t.Fatalf("%v\n%q\n%q", err, got, want.Bytes())
		}
		if len(items) == 0 {
			return
		}
		if got, err = full.Object(nil, items[0]); err != nil || !bytes.HasPrefix(got, []byte(selfDescribed)) {
			t.Fatalf("%q %v", got, err)
		}
		back, _, err := upstream.Decode(got, nil, &corev1.ConfigMap{})
		if err != nil || !apiequality.Semantic.DeepEqual(back, items[0].Object) {
			t.Fatalf("%v\n%+v\n%+v", err, back, items[0].Object)
		}
		partial, err := metadata.Object(nil, items[0])
		if err != nil {
			t.Fatal(err)
		}
		want.Reset()
		if err := upstream.Encode(Partial(items[0].Object), &want); err != nil || !bytes.Equal(partial, want.Bytes()) {
			t.Fatalf("%v\n%q\n%q", err, partial, want.Bytes())
		}
		sequence, err := full.Event(nil, "ADDED", items[0])
		if err == nil {
			sequence, err = full.Bookmark(sequence, 7, true)
		}
		if err == nil {
			sequence, err = ErrorEvent(sequence, CBOR, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Code: 410})
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, frame := range frames(t, sequence) {
			var event metav1.WatchEvent
			if _, _, err := cbor.NewSerializer(scheme.Scheme, scheme.Scheme, cbor.Transcode(false)).Decode(frame, nil, &event); err != nil {
				t.Fatal(err)
			}
			obj, gvk, err := upstream.Decode(event.Object.Raw, nil, nil)
			if err != nil || event.Type != []string{"ADDED", "BOOKMARK", "ERROR"}[i] || gvk.Kind != []string{"ConfigMap", "ConfigMap", "Status"}[i] {
				t.Fatalf("%q: %s %v %v", frame, event.Type, gvk, err)
			}
			if i == 0 && !apiequality.Semantic.DeepEqual(obj, items[0].Object) {
				t.Fatalf("%+v", obj)
			}
		}
	})
}

// frames reads a sequence as client-go does.
func frames(t *rapid.T, sequence []byte) [][]byte {
	var all [][]byte
	for d := fxcbor.NewDecoder(bytes.NewReader(sequence)); d.NumBytesRead() < len(sequence); {
		var frame fxcbor.RawMessage
		if err := d.Decode(&frame); err != nil {
			t.Fatalf("%q: %v", sequence, err)
		}
		all = append(all, frame)
	}
	return all
}

// TestCBOREncodesOnce: lists, objects and events share one encoding of an item.
func TestCBOREncodesOnce(t *testing.T) {
	k := kind(t, configMaps)
	f, _ := k.Frames(CBOR, Full)
	item := &store.Item{Object: &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, Data: map[string]string{"a": "b"}}}
	first, err := k.CBOR(item)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.List(nil, metav1.ListMeta{}, []*store.Item{item}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Event(nil, "ADDED", item); err != nil {
		t.Fatal(err)
	}
	if again, err := k.CBOR(item); err != nil || &again[0] != &first[0] {
		t.Errorf("encoded again: %v", err)
	}
	if item.Object.GetObjectKind().GroupVersionKind() != configMaps {
		t.Error("the item was changed")
	}
}

func TestCBORUnstructured(t *testing.T) {
	k := kind(t, things)
	obj := k.New()
	body := map[string]any{"apiVersion": "example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "x"},
		"n": 1, "f": 1.5, "bytes": []byte("text"), "tagged": fxcbor.Tag{Number: 22, Content: []byte("text")}, "none": nil}
	if _, err := Body(MediaCBOR, inCBOR(t, body), obj, true); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"apiVersion": "example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "x"},
		"n": int64(1), "f": 1.5, "bytes": "text", "tagged": "dGV4dA==", "none": nil}
	if diff := cmp.Diff(want, obj.(*unstructured.Unstructured).Object); diff != "" {
		t.Error(diff)
	}
	item := &store.Item{Object: obj}
	f, _ := k.Frames(CBOR, Full)
	b, err := f.Object(nil, item)
	if err != nil {
		t.Fatal(err)
	}
	if whole, err := EncodeCBOR(obj); err != nil || !bytes.Equal(whole, b) {
		t.Errorf("%q %q %v", whole, b, err)
	}
	list, err := f.List(nil, metav1.ListMeta{ResourceVersion: "3"}, []*store.Item{item})
	if err != nil {
		t.Fatal(err)
	}
	var got unstructured.UnstructuredList
	if _, _, err := cbor.NewSerializer(nil, nil).Decode(list, nil, &got); err != nil || len(got.Items) != 1 || got.GetResourceVersion() != "3" {
		t.Fatalf("%+v %v", got, err)
	}
	if diff := cmp.Diff(want, got.Items[0].Object); diff != "" {
		t.Error(diff)
	}
	for _, lacking := range []string{"kind", "apiVersion"} {
		other := map[string]any{"apiVersion": "example.com/v1", "kind": "Thing"}
		delete(other, lacking)
		if _, err := Body(MediaCBOR, inCBOR(t, other), k.New(), true); !runtime.IsMissingKind(err) && !runtime.IsMissingVersion(err) {
			t.Errorf("without %s: %v", lacking, err)
		}
	}
}

// TestCBORBody checks what a body in CBOR may be.
func TestCBORBody(t *testing.T) {
	k := kind(t, configMaps)
	plain := inCBOR(t, map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": map[string]any{"a": "b"}})
	for _, c := range []struct {
		name   string
		body   []byte
		want   string // of the error
		strict string
	}{
		{name: "untagged", body: plain},
		{name: "tagged", body: append([]byte(selfDescribed), plain...)},
		{name: "no kind", body: inCBOR(t, map[string]any{"data": map[string]any{"a": "b"}})},
		{name: "byte strings", body: inCBOR(t, map[fxcbor.ByteString]any{"data": map[fxcbor.ByteString]any{"a": []byte("b")}})},
		{name: "indefinite", body: []byte("\xbf\x64data\xbf\x61a\x7f\x61b\xff\xff\xff")},
		{name: "unknown field", body: inCBOR(t, map[string]any{"data": map[string]any{"a": "b"}, "datum": 1}), strict: "unknown field"},
		{name: "duplicate key", body: []byte("\xa2\x64data\xa1\x61a\x61b\x64data\xa1\x61a\x61b"), want: "duplicate"},
		{name: "duplicate key below", body: []byte("\xa1\x64data\xa2\x61a\x61b\x61a\x61b"), want: "duplicate"},
		{name: "other kind", body: inCBOR(t, map[string]any{"kind": "Secret", "apiVersion": "v1"}), want: "cannot be handled as a ConfigMap"},
		{name: "other version", body: inCBOR(t, map[string]any{"kind": "ConfigMap", "apiVersion": "v2"}), want: "does not match the expected API version (v1)"},
		{name: "two items", body: append(bytes.Clone(plain), plain...), want: "extraneous data"},
		{name: "cut short", body: plain[:len(plain)-1], want: "unexpected EOF"},
		{name: "empty", want: "EOF"},
		{name: "a text", body: inCBOR(t, "x"), want: "cannot unmarshal"},
		{name: "broken text", body: []byte("\xa1\x64data\xa1\x61a\x61\xff"), want: "invalid UTF-8"},
		{name: "not a number", body: inCBOR(t, map[string]any{"immutable": 1.5}), want: "cannot unmarshal"},
		{name: "JSON", body: []byte(`{"kind":"ConfigMap","apiVersion":"v1"}`), want: "unexpected EOF"},
		{name: "many elements", body: append([]byte("\xa1\x64data\x9a\x00\x20\x00\x00"), bytes.Repeat([]byte{0xa0}, 2<<20)...), want: "exceeded max number of elements"},
	} {
		t.Run(c.name, func(t *testing.T) {
			obj := k.New()
			strict, err := Body(MediaCBOR, c.body, obj, true)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %s", err, c.want)
				}
				return
			}
			if err != nil || obj.(*corev1.ConfigMap).Data["a"] != "b" || obj.GetObjectKind().GroupVersionKind() != configMaps {
				t.Fatalf("%+v %v", obj, err)
			}
			if c.strict == "" && len(strict) > 0 || c.strict != "" && (len(strict) != 1 || !strings.Contains(strict[0].Error(), c.strict)) {
				t.Errorf("%v", strict)
			}
			if strict, err := Body(MediaCBOR, c.body, k.New(), false); err != nil || len(strict) > 0 {
				t.Errorf("leniently: %v %v", strict, err)
			}
		})
	}
}

// TestCBORDeleteOptions takes those of any group, as clients send them.
func TestCBORDeleteOptions(t *testing.T) {
	for _, version := range []string{"v1", "meta.k8s.io/v1", "apps/v1"} {
		opts := &metav1.DeleteOptions{}
		body := inCBOR(t, map[string]any{"kind": "DeleteOptions", "apiVersion": version, "gracePeriodSeconds": 3, "unknown": 1, "preconditions": map[string]any{"uid": "u"}})
		if err := AnyVersion(MediaCBOR, body, opts, "DeleteOptions"); err != nil || *opts.GracePeriodSeconds != 3 || *opts.Preconditions.UID != "u" {
			t.Errorf("%s: %+v %v", version, opts, err)
		}
	}
	if err := AnyVersion(MediaCBOR, inCBOR(t, map[string]any{"kind": "Pod"}), &metav1.DeleteOptions{}, "DeleteOptions"); err == nil {
		t.Error("another kind was taken for DeleteOptions")
	}
}

// TestCBORRaw: what upstream keeps as JSON inside of objects is JSON, whatever it came as.
func TestCBORRaw(t *testing.T) {
	types := runtime.NewScheme()
	if err := apiextensionsv1.AddToScheme(types); err != nil {
		t.Fatal(err)
	}
	if err := scheme.AddToScheme(types); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		gvk  schema.GroupVersionKind
		json string
	}{
		{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ControllerRevision"},
			`{"kind":"ControllerRevision","apiVersion":"apps/v1","metadata":{"name":"a","managedFields":[{"manager":"m","operation":"Update","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{}}}]},"data":{"a":[1,2.5,null]},"revision":1}`},
		{schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"},
			`{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"a"},"spec":{"group":"","names":{"plural":"","kind":""},"scope":"","versions":[{"name":"v1","served":true,"storage":true,` +
				`"schema":{"openAPIV3Schema":{"type":"object","properties":{"a":{"type":"array","default":[1],"items":{"type":"integer"}},"b":{"x-kubernetes-int-or-string":true}},"additionalProperties":true}}}]},"status":{"conditions":null,"acceptedNames":{"plural":"","kind":""},"storedVersions":null}}`},
	} {
		k, err := NewKind(types, c.gvk, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := CBORFromJSON([]byte(c.json))
		if err != nil {
			t.Fatal(err)
		}
		obj := k.New()
		if strict, err := Body(MediaCBOR, body, obj, true); err != nil || len(strict) > 0 {
			t.Fatalf("%v %v", strict, err)
		}
		got, err := k.EncodeJSON(obj)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.json, string(got)); diff != "" {
			t.Error(diff)
		}
	}
}

// FuzzCBOR feeds bodies in CBOR: they are refused, or give an object that is the same when it has been through CBOR again,
// framed as an answer is.
func FuzzCBOR(f *testing.F) {
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(types); err != nil {
			f.Fatal(err)
		}
	}
	kinds := []*Kind{kind(f, things)}
	f.Add(uint8(0), inCBOR(f, map[string]any{"apiVersion": "example.com/v1", "kind": "Thing", "a": []any{1, -1, 1.5, "x", []byte("y"), nil, true}}))
	f.Add(uint8(0), []byte("\xbf\x64kind\x65Thing\x6aapiVersion\x6eexample.com/v1\x61t\xc0\x741970-01-01T00:00:00Z\x61u\xc1\x00\xff"))
	for _, obj := range []store.Object{
		&corev1.Pod{}, &corev1.Node{}, &corev1.Secret{Data: map[string][]byte{"a": {1}}},
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
		obj.GetObjectKind().SetGroupVersionKind(k.GVK)
		obj.SetLabels(map[string]string{"b": "c"})
		data, err := EncodeCBOR(obj)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(len(kinds)), data)
		kinds = append(kinds, k)
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		k := kinds[int(which)%len(kinds)]
		obj := k.New()
		if _, err := Body(MediaCBOR, data, obj, true); err != nil {
			if _, again := Body(MediaCBOR, data, k.New(), false); again == nil && !errors.Is(err, errTooDeep) {
				t.Fatalf("only the strict decoder refuses it: %v", err)
			}
			return
		}
		if got := obj.GetObjectKind().GroupVersionKind(); got != k.GVK {
			t.Fatalf("kind %v", got)
		}
		frame, _ := k.Frames(CBOR, Full)
		encoded, err := frame.Object(nil, &store.Item{Object: obj})
		if err != nil {
			return // a raw value that has no JSON
		}
		back := k.New()
		if _, err := Body(MediaCBOR, encoded, back, true); err != nil {
			t.Fatalf("%q is not read again: %v", encoded, err)
		}
		again, err := frame.Object(nil, &store.Item{Object: back})
		if err != nil || !bytes.Equal(again, encoded) {
			t.Fatalf("%q became %q: %v", encoded, again, err)
		}
		if _, err := k.EncodeJSON(obj); err != nil {
			t.Fatalf("it has no JSON: %v", err)
		}
	})
}
