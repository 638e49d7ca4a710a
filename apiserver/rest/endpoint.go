package rest

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/store"
)

// MaxBodyBytes is the largest request body that is read: upstream's limit.
const MaxBodyBytes = 3 << 20

// Config is what an Endpoint serves and with what.
type Config struct {
	Resource   *registry.Resource
	Collection store.Collection // nil for create-only kinds
	Scheme     *runtime.Scheme
	Admission  admission.Interface // may be nil
	// TypeConverter gives server-side apply the schema of the kind; called when first needed. nil tracks no fields and
	// answers apply with 415.
	TypeConverter func() managedfields.TypeConverter
	Logger        *slog.Logger
	Now           func() time.Time // for tests; nil is time.Now
}

// Endpoint serves one row.
type Endpoint struct {
	Config
	res     *registry.Resource
	kind    *codec.Kind
	group   schema.GroupResource
	main    *view
	status  *view
	scale   *view
	subs    map[string]*subresource
	selects map[string]bool // what a fieldSelector may name
	plugins admission.ObjectInterfaces

	deprecated bool
}

// view is the parent's kind as seen and written through the main resource or one of its subresources.
type view struct {
	name     string // "" for the resource itself
	strategy *registry.Strategy
	fields   *fieldTracker
}

type subresource struct {
	registry.Subresource
	view *view // for those with a Strategy
}

// limitCopies bounds what the "copy" operations of one JSON patch may add up to, as upstream does: the library has only a
// global for it.
var limitCopies = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = MaxBodyBytes })

// New checks the row and returns its endpoint.
func New(c Config) (*Endpoint, error) {
	limitCopies()
	res := c.Resource
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	var convert func(store.Object) (store.Object, error)
	if res.FromStored != nil {
		convert = res.FromStored
	}
	var kind *codec.Kind
	if res.Unstructured {
		kind = codec.NewUnstructuredKind(res.GVK, res.ListKind, res.State, convert)
	} else {
		var err error
		if kind, err = codec.NewKind(c.Scheme, res.GVK, convert); err != nil {
			return nil, fmt.Errorf("resource %s: %w", res.Name, err)
		}
	}
	if (c.Collection == nil) != (res.Create != nil) {
		return nil, fmt.Errorf("resource %s: exactly one of a collection and Create is needed", res.Name)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	e := &Endpoint{
		Config: c, res: res, kind: kind,
		group:   schema.GroupResource{Group: res.GVK.Group, Resource: res.Name},
		subs:    map[string]*subresource{},
		plugins: newObjectInterfaces(c.Scheme),
		selects: map[string]bool{"metadata.name": true},
	}
	e.deprecated = deprecated(kind.New())
	if res.Namespaced {
		e.selects["metadata.namespace"] = true
	}
	if res.Fields != nil {
		for name := range res.Fields(kind.New()) {
			e.selects[name] = true
		}
	}
	e.main = &view{strategy: &res.Strategy, fields: e.newFieldTracker("", res.Status != nil)}
	if res.Status != nil {
		e.status = &view{name: "status", strategy: res.Status, fields: e.newFieldTracker("status", true)}
	}
	if res.Scale != nil { // writes the parent by its own strategy
		e.scale = &view{name: "scale", strategy: &res.Strategy, fields: e.newFieldTracker("scale", false)}
	}
	for _, sub := range res.Subresources {
		s := &subresource{Subresource: sub}
		if sub.Strategy != nil {
			s.view = &view{name: sub.Name, strategy: sub.Strategy, fields: e.newFieldTracker(sub.Name, false)}
		}
		e.subs[sub.Name] = s
	}
	return e, nil
}

// Verbs are those the resource itself serves, in discovery's order.
func (e *Endpoint) Verbs() []string {
	switch {
	case e.res.Create != nil:
		return []string{"create"}
	case e.res.Verbs != nil:
		return e.res.Verbs
	}
	return []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
}

// ServeHTTP answers a request whose Info names this resource.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info := request.InfoFrom(r.Context())
	if e.deprecated {
		AnnotateDeprecated(r)
	}
	if err := e.serve(w, r, info); err != nil {
		var closed *connectionDone
		if errors.As(err, &closed) {
			return
		}
		status := Status(err, e.group, info.Name)
		if status.Reason == metav1.StatusReasonInternalError {
			e.Logger.Error("a request failed", "verb", info.Verb, "path", info.Path, "error", err)
		}
		WriteStatus(w, r, status)
	}
}

// connectionDone says that the answer has begun, so that no Status can be sent any more.
type connectionDone struct{ cause error }

func (c *connectionDone) Error() string { return fmt.Sprintf("the connection ended: %v", c.cause) }

func (e *Endpoint) serve(w http.ResponseWriter, r *http.Request, info request.Info) error {
	if e.res.Namespaced && info.Namespace == "" && (info.Name != "" && !info.IsCollection() || info.Verb == "create") {
		return notFoundPath()
	}
	if info.Subresource != "" {
		return e.serveSubresource(w, r, info)
	}
	if !slices.Contains(e.Verbs(), info.Verb) || info.Name == "" && (info.Verb == "update" || info.Verb == "patch") {
		return e.notSupported(info.Verb)
	}
	switch info.Verb {
	case "get":
		return e.get(w, r, info)
	case "list":
		return e.list(w, r, info)
	case "watch":
		return e.watch(w, r, info)
	case "create":
		if info.Name != "" {
			return e.notSupported("POST")
		}
		return e.create(w, r, info)
	case "update":
		return e.update(w, r, info, e.main)
	case "patch":
		return e.patch(w, r, info, e.main)
	case "delete":
		return e.delete(w, r, info)
	case "deletecollection":
		return e.deleteCollection(w, r, info)
	}
	return e.notSupported(info.Verb)
}

func (e *Endpoint) notSupported(verb string) error {
	return apierrors.NewMethodNotSupported(e.group, verb)
}

// notFoundPath is upstream's answer for a URL that nothing serves.
func notFoundPath() error {
	return withCode(http.StatusNotFound, "NotFound", "the server could not find the requested resource")
}

// key is where the object lies in the collection.
func (e *Endpoint) key(namespace, name string) string {
	return e.res.ObjectKey(namespace, name)
}

// scope is the namespace that a list or watch is of; a request for a Namespace names that as its own.
func (e *Endpoint) scope(info request.Info) string {
	if e.res.Namespaced {
		return info.Namespace
	}
	return ""
}

func (e *Endpoint) invalidKind() schema.GroupKind { return e.res.GVK.GroupKind() }
