// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mini-k8s/mini/kubelet/container"
)

// serve starts the HTTPS API that the API server and metrics readers use.
func (k *Kubelet) serve(ctx context.Context, g *errgroup.Group) error {
	if k.cfg.Listener == nil && k.cfg.ListenAddress == "" {
		return nil
	}
	if k.cfg.Listener == nil {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", k.cfg.ListenAddress)
		if err != nil {
			return fmt.Errorf("kubelet: %w", err)
		}
		k.cfg.Listener = l
	}
	l := k.cfg.Listener
	if k.cfg.TLS != nil {
		// SPDY and WebSocket take over connections, which HTTP/2 does not let them.
		cfg := k.cfg.TLS.Clone()
		cfg.NextProtos = []string{"http/1.1"}
		l = tls.NewListener(l, cfg)
	}
	srv := &http.Server{Handler: k.Handler(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 4 * time.Minute,
		ErrorLog: slog.NewLogLogger(k.log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return ctx }}
	g.Go(func() error {
		err := srv.Serve(l)
		if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("kubelet: %w", err)
	})
	g.Go(func() error {
		<-ctx.Done()
		srv.Close()
		return nil
	})
	return nil
}

// Handler is the kubelet's HTTP API. Paths are those of upstream's kubelet, which the API server and tools know.
func (k *Kubelet) Handler() http.Handler {
	inner := http.NewServeMux()
	inner.HandleFunc("GET /pods", k.servePods)
	inner.HandleFunc("GET /runningpods/", k.servePods)
	inner.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
	for _, m := range []string{"GET", "POST"} {
		inner.HandleFunc(m+" /exec/{namespace}/{pod}/{container}", k.serveExec)
		inner.HandleFunc(m+" /exec/{namespace}/{pod}/{uid}/{container}", k.serveExec)
		inner.HandleFunc(m+" /attach/{namespace}/{pod}/{container}", k.serveAttach)
		inner.HandleFunc(m+" /attach/{namespace}/{pod}/{uid}/{container}", k.serveAttach)
		inner.HandleFunc(m+" /portForward/{namespace}/{pod}", k.servePortForward)
		inner.HandleFunc(m+" /portForward/{namespace}/{pod}/{uid}", k.servePortForward)
	}
	inner.HandleFunc("GET /stats/summary", k.serveSummary)
	inner.Handle("GET /metrics", k.metrics.handler())
	inner.HandleFunc("GET /metrics/resource", k.serveResourceMetrics)
	inner.HandleFunc("GET /metrics/cadvisor", k.serveCadvisor)
	inner.HandleFunc("GET /healthz/syncloop", serveOK)
	var guarded http.Handler = inner
	if k.cfg.Middleware != nil {
		guarded = k.cfg.Middleware(inner)
	}
	outer := http.NewServeMux()
	outer.HandleFunc("GET /healthz", serveOK)
	outer.HandleFunc("GET /healthz/ping", serveOK)
	outer.Handle("/", guarded)
	return outer
}

func serveOK(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte("ok"))
}

// servePods lists the pods of this node as it knows them, status included.
func (k *Kubelet) servePods(w http.ResponseWriter, _ *http.Request) {
	k.mu.Lock()
	all := k.podListLocked()
	k.mu.Unlock()
	list := corev1.PodList{}
	list.APIVersion, list.Kind = "v1", "PodList"
	list.Items = []corev1.Pod{}
	for _, p := range byCreation(all) {
		p.mu.Lock()
		if p.pod != nil && !p.gone {
			pod := *p.pod
			pod.ManagedFields = nil
			if p.want != nil {
				pod.Status = *p.want
			}
			list.Items = append(list.Items, pod)
		}
		p.mu.Unlock()
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(&list); err != nil {
		k.log.Debug("answer not sent", "err", err)
	}
}

// findPod finds a pod by name, or by uid if the request gives one.
func (k *Kubelet) findPod(namespace, name string, uid types.UID) *podState {
	k.mu.Lock()
	all := k.podListLocked()
	k.mu.Unlock()
	var found *podState
	for _, p := range all {
		p.mu.Lock()
		match := p.ref.Namespace == namespace && p.ref.Name == name && (uid == "" || p.hasUID(uid)) && p.pod != nil
		better := found == nil || !p.gone
		p.mu.Unlock()
		if match && better {
			found = p
		}
	}
	return found
}

// target is the running container that exec or attach is for.
func (k *Kubelet) target(r *http.Request) (id string, spec *corev1.Container, err *httpError) {
	namespace, name, c := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	p := k.findPod(namespace, name, types.UID(r.PathValue("uid")))
	if p == nil {
		return "", nil, &httpError{http.StatusNotFound, "pod does not exist"}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	spec = containerSpec(p.pod, c)
	l := latest(p.containers, c)
	if spec == nil || l == nil || l.State != container.Running {
		return "", nil, &httpError{http.StatusNotFound, fmt.Sprintf("container not found (%q)", c)}
	}
	return l.ID, spec, nil
}

// httpError is an answer that is not 200.
type httpError struct {
	code    int
	message string
}

func (e *httpError) Error() string { return e.message }

func (e *httpError) write(w http.ResponseWriter) {
	http.Error(w, strings.TrimSuffix(e.message, "\n"), e.code)
}
