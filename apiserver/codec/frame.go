package codec

import (
	"encoding/json"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mini-k8s/mini/store"
)

// Encoding is one of the encodings that items are kept in. YAML and indented JSON are made from JSON at the edge.
type Encoding uint8

// The encodings.
const (
	JSON Encoding = iota
	Proto
	CBOR
)

// View is what part of an object a client wants to see.
type View uint8

// The views that are made per item. Tables are made by package table.
const (
	Full     View = iota
	Metadata      // PartialObjectMetadata
)

// Frames encodes one kind's items in one encoding and view; the zero value is not valid, take it from Kind.Frames.
type Frames struct {
	kind     *Kind
	encoding Encoding
	view     View
	// of what an item looks like in this view
	jsonHead, protoHead, listHead, cborHead []byte
	listKind, listVersion                   string
}

// Frames returns how the kind is framed in an encoding and view. ok is false where that does not exist (kinds without a Go
// type have no protobuf; their metadata has).
func (k *Kind) Frames(e Encoding, v View) (f *Frames, ok bool) {
	if v == Metadata {
		return &Frames{
			kind: k, encoding: e, view: v,
			protoHead: partialHead, listHead: partialListHead,
			listKind: "PartialObjectMetadataList", listVersion: "meta.k8s.io/v1",
		}, true
	}
	if e == Proto && k.typ == nil {
		return nil, false
	}
	f = &Frames{
		kind: k, encoding: e, view: v,
		protoHead: k.protoHead, listHead: k.listHead,
		listKind: k.ListKind, listVersion: k.GVK.GroupVersion().String(),
	}
	if k.typ != nil {
		f.jsonHead, f.cborHead = k.jsonHead, k.cborHead
	}
	return f, true
}

var (
	partialHead     = envelopeHead("meta.k8s.io/v1", "PartialObjectMetadata")
	partialListHead = envelopeHead("meta.k8s.io/v1", "PartialObjectMetadataList")
)

func (f *Frames) bytes(item *store.Item) ([]byte, error) {
	switch {
	case f.view == Metadata && f.encoding == JSON:
		return item.Encoding("metadata;json", encodePartialJSON)
	case f.view == Metadata && f.encoding == CBOR:
		return item.Encoding("metadata;cbor", encodePartialCBOR)
	case f.view == Metadata:
		return item.Encoding("metadata;protobuf", encodePartialProto)
	case f.encoding == JSON:
		return f.kind.JSON(item)
	case f.encoding == CBOR:
		return f.kind.CBOR(item)
	default:
		return f.kind.Proto(item)
	}
}

func encodePartialJSON(obj store.Object) ([]byte, error) { return json.Marshal(Partial(obj)) }
func encodePartialProto(obj store.Object) ([]byte, error) {
	return marshalProto(Partial(obj))
}

// Partial returns the object's metadata alone; it shares the object's maps and slices.
func Partial(obj store.Object) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"}}
	if holder, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if meta, ok := holder.GetObjectMeta().(*metav1.ObjectMeta); ok {
			p.ObjectMeta = *meta
			return p
		}
	}
	copyMeta(&p.ObjectMeta, obj)
	return p
}

func copyMeta(to *metav1.ObjectMeta, from metav1.Object) {
	to.Name, to.GenerateName, to.Namespace, to.SelfLink = from.GetName(), from.GetGenerateName(), from.GetNamespace(), from.GetSelfLink()
	to.UID, to.ResourceVersion, to.Generation = from.GetUID(), from.GetResourceVersion(), from.GetGeneration()
	to.CreationTimestamp, to.DeletionTimestamp = from.GetCreationTimestamp(), from.GetDeletionTimestamp()
	to.DeletionGracePeriodSeconds = from.GetDeletionGracePeriodSeconds()
	to.Labels, to.Annotations, to.Finalizers = from.GetLabels(), from.GetAnnotations(), from.GetFinalizers()
	to.OwnerReferences, to.ManagedFields = from.GetOwnerReferences(), from.GetManagedFields()
}

// Object appends the whole body for one item.
func (f *Frames) Object(b []byte, item *store.Item) ([]byte, error) {
	data, err := f.bytes(item)
	if err != nil {
		return b, err
	}
	switch f.encoding {
	case JSON:
		return append(append(b, data...), '\n'), nil
	case CBOR:
		return appendItemCBOR(b, f.cborHead, data)
	}
	return appendEnvelope(b, f.protoHead, data), nil
}

// List appends the whole body for a list. In JSON the items of a built-in kind lose their kind and apiVersion.
func (f *Frames) List(b []byte, meta metav1.ListMeta, items []*store.Item) ([]byte, error) {
	parts := make([][]byte, len(items))
	for i, item := range items {
		data, err := f.bytes(item)
		if err != nil {
			return b, err
		}
		parts[i] = data
	}
	switch f.encoding {
	case Proto:
		return f.protoList(b, meta, parts)
	case CBOR:
		return f.cborList(b, meta, parts)
	}
	head, err := json.Marshal(struct {
		Kind       string          `json:"kind"`
		APIVersion string          `json:"apiVersion"`
		Metadata   metav1.ListMeta `json:"metadata"`
	}{f.listKind, f.listVersion, meta})
	if err != nil {
		return b, fmt.Errorf("encode list: %w", err)
	}
	size := len(head) + len(`,"items":[]}`) + 1
	for _, p := range parts {
		size += len(p) + 1
	}
	b = grow(b, size)
	b = append(b, head[:len(head)-1]...)
	b = append(b, `,"items":[`...)
	for i, p := range parts {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendListItem(b, f.jsonHead, p)
	}
	return append(b, "]}\n"...), nil
}

func appendListItem(b, head, item []byte) []byte {
	if len(head) == 0 {
		return append(b, item...)
	}
	b = append(b, '{')
	if rest := item[len(head):]; rest[0] == ',' {
		return append(b, rest[1:]...)
	}
	return append(b, '}')
}

func (f *Frames) protoList(b []byte, meta metav1.ListMeta, parts [][]byte) ([]byte, error) {
	head, err := marshalProto(&meta)
	if err != nil {
		return b, err
	}
	size := 1 + protowire.SizeBytes(len(head))
	for _, p := range parts {
		size += 1 + protowire.SizeBytes(len(p))
	}
	b = grow(b, envelopeSize(f.listHead, size))
	b = append(b, f.listHead...)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, head)
	for _, p := range parts {
		b = append(b, 2<<3|2)
		b = protowire.AppendBytes(b, p)
	}
	return append(b, envelopeTail...), nil
}

// Event appends one frame of a watch.
func (f *Frames) Event(b []byte, eventType string, item *store.Item) ([]byte, error) {
	data, err := f.bytes(item)
	if err != nil {
		return b, err
	}
	switch f.encoding {
	case Proto:
		return appendProtoEvent(b, eventType, f.protoHead, data), nil
	case CBOR:
		return appendItemCBOR(beginCBOREvent(b, eventType), f.cborHead, data)
	}
	return appendJSONEvent(b, eventType, data), nil
}

// Bookmark appends a bookmark frame: an empty object of the kind with only a resourceVersion, and the annotation that
// marks the end of the initial events (KEP-3157).
func (f *Frames) Bookmark(b []byte, revision int64, initialEventsEnd bool) ([]byte, error) {
	obj := f.kind.New()
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	if initialEventsEnd {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	item := &store.Item{Object: obj, Revision: revision}
	frames := *f
	if f.view == Full && f.kind.convert != nil {
		kind := *f.kind
		kind.convert = nil
		frames.kind = &kind
	}
	return frames.Event(b, "BOOKMARK", item)
}

func appendJSONEvent(b []byte, eventType string, object []byte) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, eventType...)
	b = append(b, `","object":`...)
	b = append(b, object...)
	return append(b, "}\n"...)
}

// ErrorEvent appends the frame that ends a watch with an error.
func ErrorEvent(b []byte, e Encoding, status *metav1.Status) ([]byte, error) {
	if e == Proto {
		data, err := marshalProto(status)
		if err != nil {
			return b, err
		}
		return appendProtoEvent(b, "ERROR", statusHead, data), nil
	}
	return ObjectEvent(b, e, "ERROR", status)
}

// ObjectEvent appends a frame around an object that is not an item, in JSON or CBOR.
func ObjectEvent(b []byte, e Encoding, eventType string, obj runtime.Object) ([]byte, error) {
	if e == CBOR {
		return appendObjectCBOR(beginCBOREvent(b, eventType), obj)
	}
	data, err := json.Marshal(obj)
	if err != nil {
		return b, err
	}
	return appendJSONEvent(b, eventType, data), nil
}

var statusHead = envelopeHead("v1", "Status")

func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	return append(make([]byte, 0, len(b)+n), b...)
}
