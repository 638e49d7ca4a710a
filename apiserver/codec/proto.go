package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The envelope is runtime.Unknown (apimachinery pkg/runtime/generated.proto): 1 TypeMeta{1 apiVersion, 2 kind}, 2 raw,
// 3 contentEncoding, 4 contentType. Upstream always writes the last two, empty.
var envelopeTail = []byte{3<<3 | 2, 0, 4<<3 | 2, 0}

func envelopeHead(apiVersion, kind string) []byte {
	var meta []byte
	meta = protowire.AppendTag(meta, 1, protowire.BytesType)
	meta = protowire.AppendString(meta, apiVersion)
	meta = protowire.AppendTag(meta, 2, protowire.BytesType)
	meta = protowire.AppendString(meta, kind)
	b := bytes.Clone(protoMagic)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	return protowire.AppendBytes(b, meta)
}

func appendEnvelope(b, head, message []byte) []byte {
	b = append(b, head...)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendBytes(b, message)
	return append(b, envelopeTail...)
}

func envelopeSize(head []byte, message int) int {
	return len(head) + 1 + protowire.SizeBytes(message) + len(envelopeTail)
}

// encodeEnvelope encodes obj with its envelope in one allocation.
func encodeEnvelope(head []byte, obj any) ([]byte, error) {
	m, ok := obj.(protoMessage)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf encoding", obj)
	}
	size := m.Size()
	b := make([]byte, 0, envelopeSize(head, size))
	b = append(b, head...)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	end := len(b) + size
	if _, err := m.MarshalToSizedBuffer(b[len(b):end]); err != nil {
		return nil, fmt.Errorf("encode %T: %w", obj, err)
	}
	return append(b[:end], envelopeTail...), nil
}

// EncodeProto encodes any API object that has a protobuf encoding, with its envelope.
func EncodeProto(obj runtime.Object) ([]byte, error) {
	gvk := obj.GetObjectKind().GroupVersionKind()
	return encodeEnvelope(envelopeHead(gvk.GroupVersion().String(), gvk.Kind), obj)
}

var errNotProto = errors.New("not a protobuf object: it does not start with k8s\\x00")

// openEnvelope returns the kind and the message inside, which stays part of data.
func openEnvelope(data []byte) (apiVersion, kind string, message []byte, err error) {
	data, ok := bytes.CutPrefix(data, protoMagic)
	if !ok {
		return "", "", nil, errNotProto
	}
	err = eachBytesField(data, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			return eachBytesField(v, func(n protowire.Number, v []byte) error {
				switch n {
				case 1:
					apiVersion = string(v)
				case 2:
					kind = string(v)
				}
				return nil
			})
		case 2:
			message = v
		case 3:
			if len(v) > 0 {
				return fmt.Errorf("unsupported content encoding %q", v)
			}
		}
		return nil
	})
	return apiVersion, kind, message, err
}

func eachBytesField(data []byte, visit func(protowire.Number, []byte) error) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fmt.Errorf("protobuf envelope: %w", protowire.ParseError(n))
		}
		data = data[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, data); n < 0 {
				return fmt.Errorf("protobuf envelope: %w", protowire.ParseError(n))
			}
			data = data[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return fmt.Errorf("protobuf envelope: %w", protowire.ParseError(n))
		}
		if err := visit(num, v); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// appendProtoEvent appends one frame of a watch: its length in four bytes, then a metav1.WatchEvent of 1 type and 2 object,
// a runtime.RawExtension whose field 1 is the object with its envelope.
func appendProtoEvent(b []byte, eventType string, head, message []byte) []byte {
	object := envelopeSize(head, len(message))
	raw := 1 + protowire.SizeBytes(object)
	size := 1 + protowire.SizeBytes(len(eventType)) + 1 + protowire.SizeBytes(raw)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, eventType)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(raw))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(object))
	return appendEnvelope(b, head, message)
}

// gvkOf reads the two strings of a TypeMeta.
func gvkOf(apiVersion, kind string) (schema.GroupVersionKind, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return gv.WithKind(kind), nil
}
