package store

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

func pod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", Labels: map[string]string{"b": "1", "a": "2"}, ResourceVersion: "7"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}, NodeName: "n"},
	}
}

// The bytes are those of upstream's own serializer, which is what a kube-apiserver on the same etcd writes and reads.
func TestProtobufCodec(t *testing.T) {
	c := ProtobufCodec(scheme.Scheme, podKind)
	p := pod()
	got, err := c.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	if p.ResourceVersion != "7" || p.Kind != "" {
		t.Error("Encode changed its argument")
	}
	stored := pod()
	stored.ResourceVersion = ""
	stored.SetGroupVersionKind(podKind)
	upstream := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	var want bytes.Buffer
	if err := upstream.Encode(stored, &want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("got  %q\nwant %q", got, want.Bytes())
	}
	back, err := c.Decode(want.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(stored, back); d != "" {
		t.Error(d)
	}
	back, err = c.Decode([]byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"ns","labels":{"a":"2","b":"1"}},"spec":{"containers":[{"name":"c","image":"i"}],"nodeName":"n"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(stored, back); d != "" {
		t.Error("from JSON:", d)
	}
	if _, err := ProtobufCodec(scheme.Scheme, corev1.SchemeGroupVersion.WithKind("Secret")).Decode(got); err == nil {
		t.Error("a Pod was read as a Secret")
	}
}

func TestJSONCodec(t *testing.T) {
	c := JSONCodec()
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Thing",
		"metadata": map[string]any{"name": "a", "resourceVersion": "7"},
		"spec":     map[string]any{"n": int64(1), "f": 1.5},
	}}
	data, err := c.Encode(u)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"a"},"spec":{"f":1.5,"n":1}}` + "\n"; string(data) != want {
		t.Errorf("got %s, want %s", data, want)
	}
	if u.GetResourceVersion() != "7" {
		t.Error("Encode changed its argument")
	}
	back, err := c.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	u.SetResourceVersion("")
	unstructured.RemoveNestedField(u.Object, "metadata", "resourceVersion")
	if d := cmp.Diff(u, back); d != "" {
		t.Error(d)
	}
	if _, err := c.Encode(&corev1.Pod{}); err == nil {
		t.Error("a typed object was taken")
	}
}

// What etcd holds may come from anywhere: no bytes may do more than fail.
func FuzzDecode(f *testing.F) {
	data, err := ProtobufCodec(scheme.Scheme, podKind).Encode(pod())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"kind":"Pod","apiVersion":"v1"}`))
	f.Add([]byte("k8s\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, c := range []Codec{ProtobufCodec(scheme.Scheme, podKind), JSONCodec()} {
			obj, err := c.Decode(data)
			if err != nil {
				continue
			}
			again, err := c.Encode(obj)
			if err != nil {
				t.Fatalf("%q decodes but does not encode: %v", data, err)
			}
			if _, err := c.Decode(again); err != nil {
				t.Fatalf("%q does not survive: %v", data, err)
			}
		}
	})
}

func FuzzContinue(f *testing.F) {
	f.Add(encodeContinue(7, "ns/a\x00"))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		revision, start, err := decodeContinue(s)
		if err != nil {
			return
		}
		if r, k, err := decodeContinue(encodeContinue(revision, start)); err != nil || r != revision {
			t.Errorf("%d %q became %d %q, %v", revision, start, r, k, err)
		}
	})
}
