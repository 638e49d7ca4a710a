// Package codec turns API objects into bytes and back: the bodies of requests and answers, and what etcd holds.
//
// A Kind knows one group, version and kind: how to make an empty object, and how to encode a store.Item. It encodes an item
// at most once per format (the bytes live in the item) and frames those bytes for each use without encoding again: alone,
// as part of a list, as a watch event. The framing rules:
//
//	JSON   an object is {"kind":K,"apiVersion":V, …}; in a list of a built-in kind the two leave, as upstream does
//	proto  an object is "k8s\0" and a runtime.Unknown holding the message; a list is the same around a message with
//	       ListMeta as field 1 and each item as field 2; a watch event is a bare WatchEvent message
//	CBOR   an object is a map in the tag 55799, a list likewise around its items without the tag, and without kind and
//	       apiVersion for built-in kinds; a watch event is one item of a sequence, whose object has its tag too
//
// Body decodes what a client sent: JSON, YAML, protobuf or CBOR, with the strict errors (unknown and duplicate fields) apart from
// the fatal ones, so that the caller can refuse, warn or ignore.
//
// Storage is the store.Codec of a kind: upstream's storage encoding, protobuf for built-in kinds and JSON for the others.
// It reads JSON too, which upstream does as well.
//
// Nothing here starts a goroutine, and everything is safe for concurrent use.
package codec
