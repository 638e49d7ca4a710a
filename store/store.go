package store

import (
	"context"
	"errors"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// The closed set of errors a caller can act on. Everything else is an unexpected failure of etcd and is returned wrapped.
var (
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("already exists")
	ErrConflict    = errors.New("the object changed meanwhile")                      // only where the caller forbade a retry
	ErrCompacted   = errors.New("the requested revision has been compacted")         // 410 Expired
	ErrFuture      = errors.New("the requested revision is larger than the store's") // 504 with cause ResourceVersionTooLarge
	ErrTooLarge    = errors.New("the object is larger than the store accepts")       // 413
	ErrUnavailable = errors.New("the store does not answer")                         // 503, retry
	ErrBadContinue = errors.New("the continue token is not valid")                   // 400
	ErrBadRevision = errors.New("the resourceVersion is not valid")                  // 400
)

// Object is what the store keeps: an API object with its metadata. Typed objects and *unstructured.Unstructured both are.
type Object interface {
	runtime.Object
	metav1.Object
}

// Codec turns an object into the bytes etcd holds and back: upstream's storage encoding, `k8s\0` protobuf for built-in
// kinds and JSON for custom resources. The resourceVersion is never part of the bytes; the store sets it on decode.
type Codec interface {
	Encode(Object) ([]byte, error)
	Decode([]byte) (Object, error)
}

// Item is one object at one revision. It is shared by every reader and never changes: who wants to change the Object
// takes a DeepCopy. Object carries Revision as its resourceVersion.
type Item struct {
	Key      string // below the collection's prefix: "namespace/name" or "name"
	Object   Object
	Revision int64

	size  int32 // of the storage encoding
	stale bool  // the bytes in etcd should be written anew even if nothing changes (an old encryption key)

	mu        sync.Mutex
	idle      bool // no encoding was asked for since the last rest
	encodings []encoding
}

type encoding struct {
	format string
	bytes  []byte
}

// Encoding returns the object's bytes in the named format (for instance "application/json;v1"), calling encode once per
// format; again only after minutes in which nobody asked. The bytes are shared and must not be changed.
func (i *Item) Encoding(format string, encode func(Object) ([]byte, error)) ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.idle = false
	for _, e := range i.encodings {
		if e.format == format {
			return e.bytes, nil
		}
	}
	b, err := encode(i.Object)
	if err != nil {
		return nil, err
	}
	i.encodings = append(i.encodings, encoding{format, b})
	return b, nil
}

// rest forgets the encodings if nobody has asked for one since the last rest, minutes ago.
func (i *Item) rest() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.idle {
		i.encodings = nil
	}
	i.idle = true
}

// Collection is the objects of one resource: etcd behind, a watch cache in front.
//
// Keys are "namespace/name" or "name". A write has been acknowledged by etcd's quorum when the call returns, and a read
// without a resourceVersion that starts after it sees it.
type Collection interface {
	// Create stores obj under key; ErrExists if there is one. obj must carry no resourceVersion; it is not kept or changed.
	Create(ctx context.Context, key string, obj Object) (*Item, error)

	// Get answers with resourceVersion semantics: "" is the latest committed state, "0" whatever the cache holds, any
	// other a state at least as new (waits briefly for it, then ErrFuture). ErrNotFound if there is none.
	Get(ctx context.Context, key, resourceVersion string) (*Item, error)

	// Mutate is the one read-modify-write: decide sees the current item (nil if there is none) and says what to do. It
	// may be called several times, first with the cached state and again with a newer one when another writer came in
	// between, and must not change the item it is given. An error of decide ends the call and is returned as it is
	// (never on the strength of a stale cached item: it is first asked again with the latest). A Put whose bytes equal
	// the stored ones writes nothing and returns the current item. After a Delete the returned item is the last state
	// with the revision of its deletion.
	Mutate(ctx context.Context, key string, decide func(current *Item) (Change, error)) (*Item, error)

	// List answers from the cache wherever resourceVersion semantics allow, without decoding anything; pages of an older
	// revision are read from etcd.
	List(ctx context.Context, opts ListOptions) (*List, error)

	// Watch delivers every change after opts.ResourceVersion in revision order until ctx ends. ErrCompacted if the
	// history is gone, at start or later as a Failed event, after which Events is closed; ErrFuture if the revision does not
	// come to be within seconds. A watcher that does not keep up is
	// dropped: its channel is closed without waiting for it.
	Watch(ctx context.Context, opts WatchOptions) (Watch, error)
}

// Change says what Mutate shall do; the zero Change leaves everything as it is.
type Change struct {
	Put    Object // store this; creates if there was none
	Delete bool   // remove the key
}

// ListOptions selects objects; zero is everything, latest state.
type ListOptions struct {
	Namespace            string           // "" is all
	Name                 string           // with a name at most one item is looked at
	Match                func(*Item) bool // nil matches all
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	Limit                int64
	Continue             string
}

// List is a page of items in key order at one revision.
type List struct {
	Items     []*Item
	Revision  int64
	Continue  string // "" on the last page
	Remaining *int64 // nil where it is not known exactly (Match is set)
	// Inconsistent is set with ErrCompacted for an expired continue token: a token that goes on at the newest revision.
	Inconsistent string
}

// WatchOptions selects events; Match is applied to the object before and after a change, so that an object that starts
// or stops matching is Added or Deleted.
type WatchOptions struct {
	Namespace       string
	Name            string
	Match           func(*Item) bool
	ResourceVersion string // "" and "0" start with Added for what exists, anything else starts after it
	// InitialEvents asks for Added events of what exists, at least as new as ResourceVersion, then a Bookmark with
	// InitialEventsEnd set (the WatchList protocol, KEP-3157).
	InitialEvents bool
	// FromNow leaves out the Added events with which ResourceVersion "" and "0" start (sendInitialEvents=false).
	FromNow   bool
	Bookmarks bool // a Bookmark about once a minute and before the watch ends
}

// Watch is a running watch. Events is closed when it ends.
type Watch interface {
	Events() <-chan Event
}

// EventType says what happened to the object as seen through the watch's Match.
type EventType uint8

// The kinds of event.
const (
	Added EventType = iota + 1
	Modified
	Deleted
	Bookmark
	Failed // Err is set; the last event
)

// Event is one change. Item is shared: for Deleted it is the last state with the revision of the deletion; for Bookmark
// it is nil and only Revision counts.
type Event struct {
	Type             EventType
	Item             *Item
	Revision         int64
	InitialEventsEnd bool
	Err              error
}

// CollectionConfig describes one resource to the store.
type CollectionConfig struct {
	Prefix string // whole etcd prefix with both slashes: "/registry/pods/"
	Codec  Codec
	TTL    time.Duration // objects disappear this long after their last write; 0 keeps them (Events: 1 h)
	// Transformer encrypts what the codec made on its way to etcd; nil stores it as it is.
	Transformer Transformer
}

// Transformer is encryption at rest. key is the whole etcd key, so that a value cannot be moved to another.
type Transformer interface {
	ToStorage(key string, plain []byte) ([]byte, error)
	// FromStorage also says whether the value should be written anew at the next chance: another key or provider is
	// the first one now.
	FromStorage(key string, stored []byte) (plain []byte, stale bool, err error)
}
