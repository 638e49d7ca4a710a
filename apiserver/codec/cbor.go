package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"sync"

	fxcbor "github.com/fxamacker/cbor/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	kjson "sigs.k8s.io/json"

	"github.com/mini-k8s/mini/store"
)

// selfDescribed is the head of tag 55799, which encloses everything that is sent and may enclose what is received (RFC 8949
// section 3.4.6, KEP-4222).
const selfDescribed = "\xd9\xd9\xf7"

// The major types that frames are made of.
const (
	cborBytes = 2 << 5 // names and texts are byte strings, as upstream's encoder writes them
	cborArray = 4 << 5
	cborMap   = 5 << 5
)

// MaxElements bounds one array or map of a body in CBOR, where an empty object is a single byte: what such a body decodes
// to is no larger than what one in JSON can.
const MaxElements = 1 << 20

// cborShape checks what a body is made of before anything of it is decoded.
var cborShape = sync.OnceValue(func() fxcbor.DecMode {
	mode, err := fxcbor.DecOptions{MaxNestedLevels: MaxDepth, MaxArrayElements: MaxElements, MaxMapPairs: MaxElements}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
})

// checkCBOR refuses what is not one CBOR data item, and what is nested deeper than MaxDepth.
func checkCBOR(data []byte) error {
	err := cborShape().Wellformed(data)
	if tooDeep := (*fxcbor.MaxNestedLevelError)(nil); errors.As(err, &tooDeep) {
		return errTooDeep
	}
	return err
}

// ownKind tells upstream's decoder of one object's kind, and remembers the kind that the data claims to be of instead.
type ownKind struct {
	want  schema.GroupVersionKind
	other *schema.GroupVersionKind
}

func (o *ownKind) ObjectKinds(runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	return []schema.GroupVersionKind{o.want}, false, nil
}

func (o *ownKind) Recognizes(gvk schema.GroupVersionKind) bool { return gvk == o.want }

func (o *ownKind) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	o.other = &gvk
	return nil, &KindError{Got: gvk, Want: o.want}
}

func decodeCBOR(data []byte, obj runtime.Object, want schema.GroupVersionKind, wantStrict bool) (strict []error, err error) {
	if err := checkCBOR(data); err != nil {
		return nil, err
	}
	kind := &ownKind{want: want}
	_, got, err := cbor.NewSerializer(kind, kind, cbor.Strict(wantStrict)).Decode(data, &want, obj)
	if kind.other != nil {
		return nil, &KindError{Got: *kind.other, Want: want}
	}
	if found, ok := runtime.AsStrictDecodingError(err); ok {
		strict, err = found.Errors(), nil
	}
	if err != nil {
		return nil, err
	}
	if err := sameKind(*got, want); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return strict, nil
}

// anyCBOR decodes what may be of any kind.
func anyCBOR(data []byte, into any) error {
	if err := checkCBOR(data); err != nil {
		return err
	}
	content := map[string]any{}
	if err := direct.Unmarshal(data, &content); err != nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(content, into)
}

// CBORFields decodes a map whose keys are texts. One that is there twice is an error.
func CBORFields(data []byte) (fields map[string]any, err error) {
	if err := checkCBOR(data); err != nil {
		return nil, err
	}
	err = direct.Unmarshal(data, &fields)
	return fields, err
}

// EncodeCBOR encodes any API object, in its tag.
func EncodeCBOR(obj runtime.Object) ([]byte, error) { return appendObjectCBOR(nil, obj) }

func appendObjectCBOR(b []byte, obj runtime.Object) ([]byte, error) {
	var content any = obj
	if u, ok := obj.(*unstructured.Unstructured); ok {
		content = u.Object
	}
	data, err := direct.Marshal(content)
	if err != nil {
		return b, fmt.Errorf("encode %T: %w", obj, err)
	}
	return append(append(b, selfDescribed...), data...), nil
}

// CBORFromJSON says in CBOR what a JSON document says.
func CBORFromJSON(data []byte) ([]byte, error) {
	var content any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &content); err != nil {
		return nil, err
	}
	b, err := direct.Marshal(content)
	return append([]byte(selfDescribed), b...), err
}

// CBOR returns the item as a CBOR map without its tag; that of a kind with a Go type is without kind and apiVersion too, which
// only some frames have. The bytes are shared.
func (k *Kind) CBOR(item *store.Item) ([]byte, error) {
	return item.Encoding(k.cborKey, func(stored store.Object) ([]byte, error) {
		obj, err := k.fromStored(stored)
		if err != nil {
			return nil, err
		}
		var content any
		if u, ok := obj.(*unstructured.Unstructured); ok {
			content = u.Object
		} else {
			content = withoutKind(obj)
		}
		b, err := direct.Marshal(content)
		if err != nil {
			return nil, fmt.Errorf("encode %s %s: %w", k.GVK.Kind, obj.GetName(), err)
		}
		return b, nil
	})
}

// TaggedCBOR returns the whole item as EncodeCBOR does.
func (k *Kind) TaggedCBOR(item *store.Item) ([]byte, error) {
	data, err := k.CBOR(item)
	if err != nil {
		return nil, err
	}
	return appendItemCBOR(nil, k.cborHead, data)
}

// withoutKind copies the outer struct only: the object may be shared.
func withoutKind(obj store.Object) store.Object {
	c := reflect.New(reflect.TypeOf(obj).Elem())
	c.Elem().Set(reflect.ValueOf(obj).Elem())
	bare := c.Interface().(store.Object)
	bare.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return bare
}

// cborHead is the two pairs of a map that say what it is.
func cborHead(apiVersion, kind string) []byte {
	b := appendCBORText(nil, "kind")
	b = appendCBORText(b, kind)
	b = appendCBORText(b, "apiVersion")
	return appendCBORText(b, apiVersion)
}

// appendItemCBOR appends an object in its tag: a map, led by the pairs of head if there is one.
func appendItemCBOR(b, head, object []byte) ([]byte, error) {
	b = append(b, selfDescribed...)
	if len(head) == 0 {
		return append(b, object...), nil
	}
	pairs, rest, ok := cutCBORMap(object)
	if !ok {
		return b, errors.New("encode: the object is not a CBOR map")
	}
	b = appendCBORHead(b, cborMap, pairs+2)
	return append(append(b, head...), rest...), nil
}

// cutCBORMap takes the head of a map off.
func cutCBORMap(b []byte) (pairs int, rest []byte, ok bool) {
	if len(b) == 0 || b[0]&0xe0 != cborMap {
		return 0, nil, false
	}
	switch n := b[0] & 0x1f; {
	case n < 24:
		return int(n), b[1:], true
	case n == 24 && len(b) > 1:
		return int(b[1]), b[2:], true
	}
	return 0, nil, false // no Go type of the API has as many fields
}

func appendCBORHead(b []byte, major byte, n int) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= 0xff:
		return append(b, major|24, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
}

func appendCBORText(b []byte, s string) []byte {
	return append(appendCBORHead(b, cborBytes, len(s)), s...)
}

// cborList appends the body of a list, as upstream's encoder orders it.
func (f *Frames) cborList(b []byte, meta metav1.ListMeta, parts [][]byte) ([]byte, error) {
	metadata, err := direct.Marshal(meta)
	if err != nil {
		return b, fmt.Errorf("encode list: %w", err)
	}
	size := 64 + len(f.listKind) + len(f.listVersion) + len(metadata)
	for _, p := range parts {
		size += len(p)
	}
	b = append(grow(b, size), selfDescribed...)
	b = appendCBORHead(b, cborMap, 4)
	b = appendCBORText(b, "kind")
	b = appendCBORText(b, f.listKind)
	b = appendCBORText(b, "items")
	b = appendCBORHead(b, cborArray, len(parts))
	for _, p := range parts {
		b = append(b, p...)
	}
	b = appendCBORText(b, "metadata")
	b = append(b, metadata...)
	b = appendCBORText(b, "apiVersion")
	return appendCBORText(b, f.listVersion), nil
}

// beginCBOREvent begins one item of a watch's sequence; the object in its tag is all that is missing.
func beginCBOREvent(b []byte, eventType string) []byte {
	b = append(b, selfDescribed...)
	b = appendCBORHead(b, cborMap, 2)
	b = appendCBORText(b, "type")
	b = appendCBORText(b, eventType)
	return appendCBORText(b, "object")
}

func encodePartialCBOR(obj store.Object) ([]byte, error) { return direct.Marshal(Partial(obj)) }
