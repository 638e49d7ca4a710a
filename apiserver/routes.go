package apiserver

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"sort"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/negotiate"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/apiserver/rest"
	"github.com/mini-k8s/mini/internal/version"
)

// routes sends a request to who serves its path.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			s.serveIndex(w, r)
			return
		}
		notFound(w, r)
	})
	for _, path := range []string{"/api", "/api/", "/apis", "/apis/"} {
		mux.Handle(path, readOnly(s.discovery))
	}
	mux.Handle("/version", readOnly(http.HandlerFunc(serveVersion)))
	mux.Handle("/version/", readOnly(http.HandlerFunc(serveVersion)))
	for _, kind := range []string{"/healthz", "/livez", "/readyz"} {
		mux.Handle(kind, readOnly(s.health))
		mux.Handle(kind+"/", readOnly(s.health))
	}
	mux.Handle("/metrics", readOnly(s.metrics.handler()))
	// As upstream's --profiling: only masters and whom a ClusterRole names these paths may ask.
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/api_priority_and_fairness/dump_priority_levels", s.dump(s.fairness.DumpLevels))
	mux.HandleFunc("/debug/api_priority_and_fairness/dump_queues", s.dump(s.fairness.DumpQueues))
	for path, handler := range s.plugins.Handlers {
		mux.Handle(path, handler)
	}
	if s.config.OpenAPI != nil {
		mux.Handle("/openapi/", readOnly(s.config.OpenAPI))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := request.InfoFrom(r.Context())
		if !info.IsResource {
			mux.ServeHTTP(w, r)
			return
		}
		gvr := schema.GroupVersionResource{Group: info.Group, Version: info.Version, Resource: info.Resource}
		if endpoint, ok := s.endpoints[gvr]; ok {
			endpoint.ServeHTTP(w, r)
			return
		}
		switch custom, err := s.custom.Handler(r.Context(), gvr); {
		case err != nil:
			rest.WriteError(w, r, err)
		case custom == nil:
			notFound(w, r)
		default:
			custom.ServeHTTP(w, r)
		}
	})
}

// readOnly answers 405 to everything but GET and HEAD.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			rest.WriteStatus(w, r, &metav1.Status{
				TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
				Status:   metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
				Message: "the server does not allow this method on the requested resource",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func notFound(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/api") {
		rest.WriteError(w, r, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
			Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
		}})
		return
	}
	http.NotFound(w, r)
}

func serveVersion(w http.ResponseWriter, r *http.Request) {
	body, err := json.MarshalIndent(version.Info(), "", "  ")
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	rest.WriteBody(w, r, negotiate.Format{}, body)
}

// serveIndex lists the paths, as upstream does at "/".
func (s *Server) serveIndex(w http.ResponseWriter, r *http.Request) {
	known := map[string]bool{
		"/api": true, "/api/v1": true, "/apis": true, "/healthz": true, "/livez": true, "/readyz": true,
		"/debug/pprof": true, "/metrics": true, "/version": true, "/openapi/v2": s.config.OpenAPI != nil, "/openapi/v3": s.config.OpenAPI != nil,
	}
	for gvr := range s.endpoints {
		if gvr.Group != "" {
			known["/apis/"+gvr.Group] = true
			known["/apis/"+gvr.Group+"/"+gvr.Version] = true
		}
	}
	paths := make([]string, 0, len(known))
	for path, served := range known {
		if served {
			paths = append(paths, path)
		}
	}
	sort.Strings(paths)
	body, err := json.MarshalIndent(metav1.RootPaths{Paths: paths}, "", "  ")
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	rest.WriteBody(w, r, negotiate.Format{}, body)
}
