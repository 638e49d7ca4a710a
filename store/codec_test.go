package store

import (
	"bytes"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

// upstreamCodec stores one kind as upstream does, by upstream's own serializer.
type upstreamCodec schema.GroupVersionKind

func (c upstreamCodec) Encode(obj Object) ([]byte, error) {
	obj = obj.DeepCopyObject().(Object)
	obj.SetResourceVersion("")
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind(c))
	var b bytes.Buffer
	err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(obj, &b)
	return b.Bytes(), err
}

func (c upstreamCodec) Decode(data []byte) (Object, error) {
	gvk := schema.GroupVersionKind(c)
	obj, _, err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Decode(data, &gvk, nil)
	if err != nil {
		return nil, err
	}
	return obj.(Object), nil
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
