package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	clientrest "k8s.io/client-go/rest"

	"github.com/mini-k8s/mini/apiserver/customresource"
	"github.com/mini-k8s/mini/apiserver/discovery"
	"github.com/mini-k8s/mini/apiserver/fairness"
	"github.com/mini-k8s/mini/apiserver/fieldschema"
	"github.com/mini-k8s/mini/apiserver/openapi"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/apiextensions"
	"github.com/mini-k8s/mini/apiserver/registry/builtin"
	"github.com/mini-k8s/mini/apiserver/registry/core"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/apiserver/rest"
	"github.com/mini-k8s/mini/store"
)

// Store is what the server needs of package store.
type Store interface {
	Collection(store.CollectionConfig) store.Collection
	Drop(prefix string)
	Healthy(context.Context) error
}

// Config is a server's surroundings. Store and Plugins are required.
type Config struct {
	Store  Store
	Logger *slog.Logger

	// Plugins makes what decides about requests; loopback is a client of the server being built, usable once Run is under
	// way (clients and informers may be made before).
	Plugins func(loopback *clientrest.Config) (*Plugins, error)

	// Listener is where Run serves; nil listens on BindAddress. TLS brings the certificates, and for client certificates
	// ClientAuth and ClientCAs; "h2" is added to its NextProtos (a GetConfigForClient adds it itself).
	Listener    net.Listener
	BindAddress string // "0.0.0.0:6443"
	TLS         *tls.Config

	// Advertise is the server's address as pods and nodes reach it: the endpoint of default/kubernetes.
	Advertise netip.AddrPort
	// ServiceCIDRs are the ranges of cluster addresses, the primary first; the first address of the primary is the
	// kubernetes Service's.
	ServiceCIDRs []netip.Prefix
	NodePorts    registry.PortRange

	// TypeConverter gives server-side apply its schemas; called once, when first needed. nil is package fieldschema's.
	TypeConverter func() managedfields.TypeConverter
	OpenAPI       *openapi.Handler // serves /openapi/v2 and /openapi/v3…; nil answers 404

	Checks []Check // more lines of /livez and /readyz
	// Public are paths served before authentication, by exact path (the cluster's CA for joining nodes).
	Public map[string]http.Handler
	// MaxInFlight and MaxMutatingInFlight together are the seats that priority levels share; 0 is upstream's 400 and 200.
	MaxInFlight, MaxMutatingInFlight int
}

// Plugins are what other packages bring to the server.
type Plugins struct {
	Authenticator authenticator.Request
	Authorizer    authorizer.UnconditionalAuthorizer
	Admission     admission.Interface
	// Connect serves streaming subresources: "pods/log", "pods/exec", "nodes/proxy", …
	Connect map[string]registry.ConnectFunc
	// Handlers serve more paths, by exact path, to whom authorization lets (the OpenID documents).
	Handlers map[string]http.Handler
	// CreateToken and Review are handed to the rows: see registry.Deps.
	CreateToken func(ctx context.Context, namespace, name string, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	Review      map[string]func(ctx context.Context, obj store.Object) (store.Object, error)
	// Wrap may change the rows before they are served, for instance to check privilege escalation in a Validate.
	Wrap func([]registry.Resource) []registry.Resource
	// Bootstrap makes the objects the plugins need (default roles); it is repeated until it succeeds, before Ready.
	Bootstrap func(context.Context) error
	// Run is the plugins' own work (informers); it ends with ctx.
	Run func(context.Context) error
	// Synced is closed when the plugins can decide; nil is at once.
	Synced <-chan struct{}
}

// Server is the API server.
type Server struct {
	config         Config
	logger         *slog.Logger
	scheme         *runtime.Scheme
	plugins        *Plugins
	allocators     *core.Allocators
	endpoints      map[schema.GroupVersionResource]*rest.Endpoint
	custom         *customresource.Manager
	customVersions customVersions
	discovery      *discovery.Handler
	handler        http.Handler
	health         *health
	metrics        *metrics
	fairness       *fairness.Dispatcher

	ready        chan struct{}
	bootstrapped chan struct{}
	ending       context.Context // of long-running requests
	endLong      context.CancelFunc

	mu          sync.Mutex
	rows        []registry.Resource
	collections map[string]store.Collection
}

// New checks the config and builds all handlers; nothing is read or written yet.
func New(config Config) (*Server, error) {
	if config.Store == nil || config.Plugins == nil {
		return nil, errors.New("apiserver: Store and Plugins are required")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		config: config, logger: config.Logger.With("component", "apiserver"), scheme: builtin.NewScheme(),
		endpoints: map[schema.GroupVersionResource]*rest.Endpoint{}, collections: map[string]store.Collection{},
		ready: make(chan struct{}), bootstrapped: make(chan struct{}), metrics: newMetrics(),
		customVersions: customVersions{changed: make(chan struct{}, 1)},
	}
	s.fairness = s.newFairness()
	s.metrics.registry.MustRegister(s.fairness.Collector())
	s.ending, s.endLong = context.WithCancel(context.Background())
	var err error
	if s.plugins, err = config.Plugins(s.LoopbackConfig()); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	if s.plugins.Authenticator == nil || s.plugins.Authorizer == nil {
		return nil, errors.New("apiserver: an authenticator and an authorizer are required")
	}
	rows, allocators := builtin.Resources(registry.Deps{
		Collection: s.collection, ServiceCIDRs: config.ServiceCIDRs, NodePorts: config.NodePorts,
		StoreHealthy: config.Store.Healthy, CreateToken: s.plugins.CreateToken, Review: s.plugins.Review, Authorizer: s.plugins.Authorizer, Logger: s.logger,
		User: func(ctx context.Context) (user.Info, bool) { u := request.UserFrom(ctx); return u, u != nil },
	})
	if s.plugins.Wrap != nil {
		rows = s.plugins.Wrap(rows)
	}
	s.allocators = allocators
	if err := s.install(rows); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	if err := s.installCustom(); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	s.health = s.newHealth()
	s.handler = s.chain(s.routes())
	return s, nil
}

// install makes an endpoint of each row.
func (s *Server) install(rows []registry.Resource) error {
	for i := range rows {
		rows[i].Subresources = connected(rows[i], s.plugins.Connect)
	}
	s.rows = rows
	convert := sync.OnceValue(func() managedfields.TypeConverter {
		if s.config.TypeConverter != nil {
			return s.config.TypeConverter()
		}
		return fieldschema.New(s.scheme)
	})
	for i := range rows {
		row := &rows[i]
		c := rest.Config{Resource: row, Scheme: s.scheme, Admission: s.plugins.Admission, TypeConverter: convert, Logger: s.logger}
		switch {
		case row.Computed != nil:
			c.Collection = computed(row.Computed)
		case row.Create == nil:
			c.Collection = s.collection(row.StorageKey(), row.StoredKind())
		}
		endpoint, err := rest.New(c)
		if err != nil {
			return err
		}
		s.endpoints[row.GVK.GroupVersion().WithResource(row.Name)] = endpoint
	}
	s.discovery = &discovery.Handler{Write: rest.WriteBody, NotFound: notFound}
	return s.discovery.Set(rows, s.config.Advertise.String())
}

// installCustom makes the manager of custom resources.
func (s *Server) installCustom() error {
	builtin := map[schema.GroupResource]bool{}
	for gvr := range s.endpoints {
		builtin[gvr.GroupResource()] = true
	}
	var err error
	s.custom, err = customresource.New(customresource.Config{
		Store: s.config.Store, Definitions: s.collection(apiextensions.Key, apiextensions.Kind),
		REST:     rest.Config{Scheme: s.scheme, Admission: s.plugins.Admission},
		Reserved: func(gr schema.GroupResource) bool { return builtin[gr] },
		Changed:  s.changed,
		User:     loopbackUser, Logger: s.logger,
	})
	return err
}

// changed tells clients about custom resources.
func (s *Server) changed(served []customresource.Served) {
	rows, kinds := make([]registry.Resource, len(served)), make([]openapi.Kind, len(served))
	for i, c := range served {
		rows[i] = c.Row
		kinds[i] = openapi.Kind{ID: c.ID, Row: c.Row, Schemas: c.Schemas, Model: s.modelsFor(c.Row)}
	}
	s.discovery.Extend(rows)
	s.customVersions.set(served)
	if s.config.OpenAPI != nil {
		s.config.OpenAPI.Extend(kinds)
	}
}

// modelsFor returns what OpenAPI documents call a custom kind, its list, and the built-in kinds of its subresources.
func (s *Server) modelsFor(row registry.Resource) func(schema.GroupVersionKind) string {
	return func(gvk schema.GroupVersionKind) string {
		if gvk.Group == row.GVK.Group {
			if gvk.Kind == row.GVK.Kind+"List" {
				gvk.Kind = row.ListKind
			}
			return customresource.ModelName(gvk)
		}
		name, err := s.scheme.ToOpenAPIDefinitionName(gvk)
		if err != nil {
			return customresource.ModelName(gvk)
		}
		return name
	}
}

// connected gives a row's streaming subresources their handlers.
func connected(row registry.Resource, connect map[string]registry.ConnectFunc) []registry.Subresource {
	subs := make([]registry.Subresource, 0, len(row.Subresources))
	for _, sub := range row.Subresources {
		if f, ok := connect[row.Name+"/"+sub.Name]; ok && row.GVK.Group == "" {
			sub.Connect = f
		}
		subs = append(subs, sub)
	}
	return subs
}

// collection returns the one collection below /registry/KEY/.
func (s *Server) collection(key string, stored schema.GroupVersionKind) store.Collection {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.collections[key]; ok {
		return c
	}
	config, err := registry.Collection(s.scheme, s.rows, key, stored)
	if err != nil { // a row of our own that names a kind without metadata: found by the first test that builds a server
		panic(err.Error())
	}
	c := s.config.Store.Collection(config)
	s.collections[key] = c
	return c
}

// Handler is the whole server as a handler, for tests and for serving it elsewhere.
func (s *Server) Handler() http.Handler { return s.handler }

// Ready is closed when the server answers, its objects are there and its plugins can decide.
func (s *Server) Ready() <-chan struct{} { return s.ready }
