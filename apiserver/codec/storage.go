package codec

import (
	"bytes"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

	"github.com/mini-k8s/mini/store"
)

// Storage is the store.Codec of a stored kind. Default fills what an older writer left out; it may be nil.
type Storage struct {
	Kind    *Kind
	Default func(store.Object)
	// Version is the version in whose name objects are written, where it is not the kind's: the release before knows only
	// that one. Its messages must be those of the kind, field by field. Both are read.
	Version string
	// JSON writes JSON, ended by a newline as upstream's is, rather than protobuf. Kinds without a Go type always are.
	JSON bool
}

var _ store.Codec = Storage{}

// Encode returns what etcd keeps of obj: everything but the resourceVersion.
func (s Storage) Encode(obj store.Object) ([]byte, error) {
	if obj.GetResourceVersion() != "" {
		obj = withoutResourceVersion(obj)
	}
	if s.Kind.typ == nil || s.JSON {
		b, err := s.Kind.EncodeJSON(obj)
		return append(b, '\n'), err
	}
	if s.Version != "" {
		return encodeEnvelope(envelopeHead(s.written().GroupVersion().String(), s.Kind.GVK.Kind), obj)
	}
	return encodeEnvelope(s.Kind.protoHead, obj)
}

// written is the kind in whose name objects are written.
func (s Storage) written() schema.GroupVersionKind {
	gvk := s.Kind.GVK
	if s.Version != "" {
		gvk.Version = s.Version
	}
	return gvk
}

// Decode reads protobuf and JSON of the stored kind.
func (s Storage) Decode(data []byte) (store.Object, error) {
	obj := s.Kind.New()
	if bytes.HasPrefix(data, protoMagic) {
		apiVersion, kind, message, err := openEnvelope(data)
		if err != nil {
			return nil, err
		}
		if gvk, err := gvkOf(apiVersion, kind); err != nil || gvk != s.Kind.GVK && gvk != s.written() {
			return nil, fmt.Errorf("stored object is a %s %s, not a %s", apiVersion, kind, s.Kind.GVK)
		}
		m, ok := obj.(protoMessage)
		if !ok {
			return nil, fmt.Errorf("%s has no protobuf encoding", s.Kind.GVK)
		}
		if err := m.Unmarshal(message); err != nil {
			return nil, fmt.Errorf("decode stored %s: %w", s.Kind.GVK, err)
		}
	} else {
		if err := kjson.UnmarshalCaseSensitivePreserveInts(data, obj); err != nil {
			return nil, fmt.Errorf("decode stored %s: %w", s.Kind.GVK, err)
		}
		if gvk := obj.GetObjectKind().GroupVersionKind(); gvk != s.Kind.GVK && gvk != s.written() {
			return nil, fmt.Errorf("stored object is a %s, not a %s", gvk, s.Kind.GVK)
		}
		obj.GetObjectKind().SetGroupVersionKind(s.Kind.GVK)
	}
	if s.Default != nil {
		s.Default(obj)
	}
	return obj, nil
}

// withoutResourceVersion copies the outer struct only: the caller's object may be shared.
func withoutResourceVersion(obj store.Object) store.Object {
	v := reflect.ValueOf(obj).Elem()
	if v.Type().Name() == "Unstructured" {
		obj = obj.DeepCopyObject().(store.Object)
	} else {
		c := reflect.New(v.Type())
		c.Elem().Set(v)
		obj = c.Interface().(store.Object)
	}
	obj.SetResourceVersion("")
	return obj
}
