package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// protobufPrefix starts every value that upstream stores as protobuf: "k8s" and a zero byte, then a runtime.Unknown that
// names the kind and wraps the object's own bytes.
var protobufPrefix = []byte("k8s\x00")

// ProtobufCodec is upstream's storage encoding of a built-in kind. It also reads the kind as JSON, which is what
// kube-apiserver --storage-media-type=application/json leaves behind. Decoded objects carry their apiVersion and kind.
func ProtobufCodec(scheme *runtime.Scheme, gvk schema.GroupVersionKind) Codec {
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	return &protobufCodec{scheme: scheme, gvk: gvk, meta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}}
}

type protobufCodec struct {
	scheme *runtime.Scheme
	gvk    schema.GroupVersionKind
	meta   runtime.TypeMeta
}

func (c *protobufCodec) Encode(obj Object) ([]byte, error) {
	if obj.GetResourceVersion() != "" || obj.GetSelfLink() != "" {
		obj = shallow(obj)
		obj.SetResourceVersion("")
		obj.SetSelfLink("")
	}
	m, ok := obj.(runtime.ProtobufMarshaller)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf encoding", obj)
	}
	unknown := runtime.Unknown{TypeMeta: c.meta}
	size := uint64(m.Size())
	// Room for the envelope: its own fields, a tag and the varint of the size.
	data := make([]byte, len(protobufPrefix)+unknown.Size()+int(size)+1+10)
	copy(data, protobufPrefix)
	n, err := unknown.NestedMarshalTo(data[len(protobufPrefix):], m, size)
	if err != nil {
		return nil, err
	}
	return data[:len(protobufPrefix)+n], nil
}

func (c *protobufCodec) Decode(data []byte) (Object, error) {
	raw, found := data, runtime.TypeMeta{}
	binary := bytes.HasPrefix(data, protobufPrefix)
	if binary {
		var unknown runtime.Unknown
		if err := unknown.Unmarshal(data[len(protobufPrefix):]); err != nil {
			return nil, err
		}
		raw, found = unknown.Raw, unknown.TypeMeta
	} else if err := json.Unmarshal(data, &found); err != nil {
		return nil, fmt.Errorf("neither protobuf nor JSON: %w", err)
	}
	if found != c.meta {
		return nil, fmt.Errorf("it is a %s of %s, not a %s of %s", found.Kind, found.APIVersion, c.meta.Kind, c.meta.APIVersion)
	}
	obj, err := c.scheme.New(c.gvk)
	if err != nil {
		return nil, err
	}
	typed, ok := obj.(Object)
	if !ok {
		return nil, fmt.Errorf("%T has no metadata", obj)
	}
	if binary {
		m, ok := obj.(interface{ Unmarshal([]byte) error })
		if !ok {
			return nil, fmt.Errorf("%T has no protobuf encoding", obj)
		}
		err = m.Unmarshal(raw)
	} else {
		err = json.Unmarshal(raw, obj)
	}
	if err != nil {
		return nil, err
	}
	// One string for all of a kind.
	obj.GetObjectKind().SetGroupVersionKind(c.gvk)
	return typed, nil
}

// JSONCodec is upstream's storage encoding of custom resources, which are *unstructured.Unstructured here.
func JSONCodec() Codec { return jsonCodec{} }

type jsonCodec struct{}

func (jsonCodec) Encode(obj Object) ([]byte, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%T is not unstructured", obj)
	}
	if u.GetResourceVersion() != "" || u.GetSelfLink() != "" {
		u = shallow(u).(*unstructured.Unstructured)
		unstructured.RemoveNestedField(u.Object, "metadata", "resourceVersion")
		unstructured.RemoveNestedField(u.Object, "metadata", "selfLink")
	}
	if u.GetKind() == "" || u.GetAPIVersion() == "" {
		return nil, errors.New("the object has no apiVersion and kind")
	}
	// Upstream's values end in a newline.
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(u.Object); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (jsonCodec) Decode(data []byte) (Object, error) {
	u := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(data, &u.Object); err != nil {
		return nil, err
	}
	if u.Object == nil || u.GetKind() == "" {
		return nil, errors.New("it is not an object with a kind")
	}
	return u, nil
}
