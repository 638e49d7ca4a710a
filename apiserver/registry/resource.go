package registry

import (
	"context"
	"net/http"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/store"
)

// Resource is one row of the API: everything the generic REST handlers need to serve a kind. Functions may be nil where
// the generic behaviour is enough.
type Resource struct {
	GVK        schema.GroupVersionKind
	Name       string // plural, as in the URL: "deployments"
	Singular   string
	ShortNames []string
	Categories []string
	Namespaced bool

	// Unstructured kinds have no Go type: their objects are *unstructured.Unstructured, in JSON only. The fields below are for
	// them alone. ListKind is empty where it is the kind with "List". Versions are all versions of the kind, which differ in
	// their name only as far as field managers are concerned. State tells what is served under the same names apart when it
	// changes at run time: encodings of one state are not given out in another.
	Unstructured bool
	ListKind     string
	Versions     []string
	State        string
	// Coerce does with a decoded request what decoding into a Go type does: it drops fields that do not exist and returns
	// their paths; an error refuses the request.
	Coerce func(obj store.Object) (unknown []string, err error)

	// Key is the resource's place in etcd below /registry/ where it is not "Name": upstream keeps nodes in "minions",
	// services in "services/specs". Rows with the same Key share one collection (events of both groups).
	Key string
	// Stored is the kind that Key holds where it is not GVK; ToStored and FromStored convert.
	Stored     schema.GroupVersionKind
	ToStored   func(store.Object) (store.Object, error)
	FromStored func(store.Object) (store.Object, error)
	TTLSeconds int64
	// StoredVersion is the version that etcd holds where upstream writes an older one than GVK, so that the release before
	// can read it; the protobuf messages of the two must be the same, field by field. Both are read.
	StoredVersion string
	// StoredJSON says that etcd holds JSON, as upstream does for the kinds of its aggregator.
	StoredJSON bool
	// Codec is how objects of Stored lie in etcd where the above does not say it (CustomResourceDefinitions).
	Codec store.Codec
	// Verbs are the verbs served where they are not all of create, delete, deletecollection, get, list, patch, update, watch.
	Verbs []string

	Default  func(store.Object) // fills defaults, on requests and on what is read from etcd
	Strategy Strategy
	// Fields are the selectable fields besides metadata.name and metadata.namespace. The set has the same keys for every
	// object, so that those of an empty object are the labels a fieldSelector may use.
	Fields func(store.Object) fields.Set
	Table  Table

	Status       *Strategy // the status subresource; nil if there is none. PrepareForUpdate keeps everything but status.
	Scale        *Scale    // the scale subresource
	Subresources []Subresource
	// Computed are the objects of a kind that only exists while it is asked for; its verbs are get and list.
	Computed func(ctx context.Context) []store.Object
	// Create answers a create-only kind that is not stored (SubjectAccessReview, TokenReview, Binding): no other verb exists. The
	// answer is an object of the kind, or a metav1.Status. A dry run changes nothing.
	Create func(ctx context.Context, obj store.Object, dryRun bool) (runtime.Object, error)
}

// Answer is the Create of a kind whose objects are questions; nil if nobody answers it.
func Answer(review func(ctx context.Context, obj store.Object) (store.Object, error)) func(context.Context, store.Object, bool) (runtime.Object, error) {
	if review == nil {
		return nil
	}
	return func(ctx context.Context, obj store.Object, _ bool) (runtime.Object, error) { return review(ctx, obj) }
}

// Strategy is what is particular to writes of one kind. Hooks run in this order: Default, Prepare, admission, Validate,
// Allocate, store. New objects may be changed by Prepare hooks; old ones never.
type Strategy struct {
	PrepareForCreate func(ctx context.Context, obj store.Object)
	PrepareForUpdate func(ctx context.Context, obj, old store.Object) // clears what a client may not set, bumps generation
	Validate         func(ctx context.Context, obj store.Object) field.ErrorList
	ValidateUpdate   func(ctx context.Context, obj, old store.Object) field.ErrorList
	Warnings         func(ctx context.Context, obj, old store.Object) []string // old is nil on create
	// Allocate takes things outside the object (cluster IPs, node ports) and writes them into obj. old is nil on create,
	// obj is nil on delete (also when an update removes the last finalizer). dryRun takes nothing that lasts. finish, if
	// not nil, is called exactly once after the write, saying whether it succeeded: only then is what old held and obj no
	// longer does given back, and only on failure what was taken.
	Allocate func(ctx context.Context, obj, old store.Object, dryRun bool) (finish func(ok bool), err error)
	// GracePeriod decides a graceful delete: the seconds to wait, 0 to remove at once. nil removes at once.
	GracePeriod func(obj store.Object, opts *metav1.DeleteOptions) int64
	// PrepareForDelete changes an object that a delete is about to mark with a deletionTimestamp instead of removing it
	// (a Namespace becomes Terminating).
	PrepareForDelete func(ctx context.Context, obj store.Object)
	// OrphanDependents keeps the dependents of an object that is deleted without a word about them, as the oldest kinds do
	// for their first clients (ReplicationController, Job).
	OrphanDependents bool
	// Held says that something besides metadata.finalizers and the grace period keeps a deleted object (a Namespace's
	// spec.finalizers). It is asked on delete and after every update of an object being deleted, which removes it once
	// nothing holds it any more.
	Held func(obj store.Object) bool
	// ReturnDeleted makes DELETE of an object that is gone at once answer with the object rather than a Status (Pod,
	// Service, ServiceAccount, PersistentVolume, PersistentVolumeClaim, PodTemplate, ReplicationController, ResourceQuota).
	ReturnDeleted bool
	// CreateOnUpdate lets PUT create (Leases, Endpoints, EndpointSlices, Events, …), UnconditionalUpdate lets it go
	// without a resourceVersion.
	CreateOnUpdate      bool
	UnconditionalUpdate bool
}

// Table is how kubectl sees the kind: the columns after Name, and a row's cells for them. Age is a column like another.
type Table struct {
	Columns []metav1.TableColumnDefinition // including Name
	Cells   func(store.Object) []any       // one per column
}

// Scale maps an object to its autoscaling/v1 Scale and back.
type Scale struct {
	Get func(store.Object) (replicas, statusReplicas int32, selector string)
	// Check says what is wrong with an object that cannot be shown (or, with write, scaled); nil is nothing ever.
	Check func(obj store.Object, write bool) error
	Set   func(obj store.Object, replicas int32)
}

// Subresource is any other one. Exactly one of Strategy, Change, Evict, Create and Connect is set.
type Subresource struct {
	Name  string // "binding", "token", "approval", "eviction", "ephemeralcontainers"
	Kind  schema.GroupVersionKind
	Verbs []string // for discovery and routing: "create", "get", "update", "patch", "delete"
	// Strategy makes it a view on the parent (get, update, patch), like status: the body is the parent's kind.
	Strategy *Strategy
	// Change answers POST parent/name/sub by writing the body into a copy of the parent (pods/binding); the answer is a
	// Status of Success with 201. An error is sent as it is; it is asked again when another writer came in between.
	Change func(ctx context.Context, parent store.Object, body runtime.Object) error
	// Evict answers POST parent/name/sub by deleting the parent with the options it returns (pods/eviction). With dryRun
	// it changes nothing.
	Evict func(ctx context.Context, parent store.Object, body runtime.Object, dryRun bool) (*metav1.DeleteOptions, error)
	// Create answers POST parent/name/sub: body is of Kind; the answer is sent back with 201.
	Create func(ctx context.Context, namespace, name string, body runtime.Object, dryRun bool) (runtime.Object, error)
	// Connect answers with a handler that takes the connection over: log, exec, attach, portforward, proxy. The handler
	// is given the original request. Rows leave it nil where the server's Config brings it (apiserver.Config.Connect).
	Connect ConnectFunc
}

// ConnectFunc finds who serves a streaming subresource; an error is sent as a Status. The user is in ctx (package
// apiserver/request) and has passed authorization: "get" for GET, "create" for POST, and so on for each method.
type ConnectFunc func(ctx context.Context, namespace, name string, opts ConnectOptions) (http.Handler, error)

// ConnectOptions is what the request says beyond the object's name.
type ConnectOptions struct {
	Method string
	Path   string // what follows the subresource in the URL, with its leading slash: "" or "/metrics" for …/proxy/metrics
	Query  url.Values
}
