package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/store"
)

// protoMagic starts every self-describing protobuf object.
var protoMagic = []byte("k8s\x00")

// Kind encodes and decodes one kind.
type Kind struct {
	GVK      schema.GroupVersionKind
	ListKind string

	typ       reflect.Type // of the struct; nil for kinds without a Go type
	convert   func(store.Object) (store.Object, error)
	jsonKey   string
	protoKey  string
	cborKey   string
	jsonHead  []byte // {"kind":"K","apiVersion":"V"
	protoHead []byte // magic and the TypeMeta field of the envelope
	listHead  []byte // the same for the list
	cborHead  []byte // the pairs of kind and apiVersion; nil for kinds without a Go type, whose encoding has them
}

// NewKind describes gvk. Kinds the scheme does not know are handled as unstructured objects, without protobuf. convert makes
// an object of this kind from the one that is stored; nil where they are the same.
func NewKind(scheme *runtime.Scheme, gvk schema.GroupVersionKind, convert func(store.Object) (store.Object, error)) (*Kind, error) {
	k := &Kind{
		GVK:      gvk,
		ListKind: gvk.Kind + "List",
		convert:  convert,
		jsonKey:  "json;" + gvk.String(),
		protoKey: "protobuf;" + gvk.String(),
		cborKey:  "cbor;" + gvk.String(),
	}
	if scheme.Recognizes(gvk) {
		obj, err := scheme.New(gvk)
		if err != nil {
			return nil, fmt.Errorf("kind %s: %w", gvk, err)
		}
		if _, ok := obj.(store.Object); !ok {
			return nil, fmt.Errorf("kind %s: %T has no metadata", gvk, obj)
		}
		k.typ = reflect.TypeOf(obj).Elem()
	}
	apiVersion := gvk.GroupVersion().String()
	head, err := json.Marshal(metav1.TypeMeta{Kind: gvk.Kind, APIVersion: apiVersion})
	if err != nil {
		return nil, fmt.Errorf("kind %s: %w", gvk, err)
	}
	k.jsonHead = head[:len(head)-1]
	k.protoHead = envelopeHead(apiVersion, gvk.Kind)
	k.listHead = envelopeHead(apiVersion, k.ListKind)
	if k.typ != nil {
		k.cborHead = cborHead(apiVersion, gvk.Kind)
	}
	return k, nil
}

// NewUnstructuredKind describes a kind without a Go type, and so without protobuf. Encodings that were made under one state are not
// used under another; convert makes an object of this kind from the one that is stored.
func NewUnstructuredKind(gvk schema.GroupVersionKind, listKind, state string, convert func(store.Object) (store.Object, error)) *Kind {
	if listKind == "" {
		listKind = gvk.Kind + "List"
	}
	key := gvk.String() + ";" + state
	return &Kind{GVK: gvk, ListKind: listKind, convert: convert, jsonKey: "json;" + key, cborKey: "cbor;" + key}
}

// Typed says whether the kind has a Go type, and so a protobuf encoding.
func (k *Kind) Typed() bool { return k.typ != nil }

// New returns an empty object with its kind set.
func (k *Kind) New() store.Object {
	if k.typ == nil {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetGroupVersionKind(k.GVK)
		return u
	}
	obj := reflect.New(k.typ).Interface().(store.Object)
	obj.GetObjectKind().SetGroupVersionKind(k.GVK)
	return obj
}

// Object returns the item's object as this kind. It is shared: take a DeepCopy before changing it.
func (k *Kind) Object(item *store.Item) (store.Object, error) {
	if k.convert == nil {
		return item.Object, nil
	}
	return k.fromStored(item.Object)
}

func (k *Kind) fromStored(stored store.Object) (store.Object, error) {
	if k.convert == nil {
		return stored, nil
	}
	obj, err := k.convert(stored)
	if err != nil {
		return nil, fmt.Errorf("convert to %s: %w", k.GVK, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK)
	return obj, nil
}

// JSON returns the item as JSON without a final newline; the bytes are shared.
func (k *Kind) JSON(item *store.Item) ([]byte, error) {
	return item.Encoding(k.jsonKey, func(stored store.Object) ([]byte, error) {
		obj, err := k.fromStored(stored)
		if err != nil {
			return nil, err
		}
		return k.EncodeJSON(obj)
	})
}

// EncodeJSON encodes an object of this kind that is not (yet) an item.
func (k *Kind) EncodeJSON(obj store.Object) ([]byte, error) {
	var content any = obj
	if u, ok := obj.(*unstructured.Unstructured); ok {
		content = u.Object
	}
	b, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", k.GVK.Kind, obj.GetName(), err)
	}
	if k.typ != nil && !bytes.HasPrefix(b, k.jsonHead) {
		return nil, fmt.Errorf("encode %s %s: the object does not carry its kind", k.GVK.Kind, obj.GetName())
	}
	return b, nil
}

// protoMessage is what every generated API type offers.
type protoMessage interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
}

// Proto returns the item's bare protobuf message; the bytes are shared.
func (k *Kind) Proto(item *store.Item) ([]byte, error) {
	return item.Encoding(k.protoKey, func(stored store.Object) ([]byte, error) {
		obj, err := k.fromStored(stored)
		if err != nil {
			return nil, err
		}
		return marshalProto(obj)
	})
}

func marshalProto(obj any) ([]byte, error) {
	m, ok := obj.(protoMessage)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf encoding", obj)
	}
	b := make([]byte, m.Size())
	n, err := m.MarshalToSizedBuffer(b)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", obj, err)
	}
	return b[len(b)-n:], nil
}
