package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// health answers on a Service's health check node port: a load balancer asks there whether this node has endpoints of a
// Service whose external traffic stays on the node it reaches.
type health struct {
	namespace, name string
	port            int32
	local           atomic.Int64 // endpoints on this node
	server          *http.Server
}

// healthAnswer is upstream's, which load balancer controllers and people read.
type healthAnswer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int64 `json:"localEndpoints"`
	ServiceProxyHealthy bool  `json:"serviceProxyHealthy"`
}

func (h *health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	answer := healthAnswer{LocalEndpoints: h.local.Load(), ServiceProxyHealthy: true}
	answer.Service.Namespace, answer.Service.Name = h.namespace, h.name
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(answer.LocalEndpoints, 10))
	if answer.LocalEndpoints == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer) // the client has gone
}

// healthPort is the port to answer on for a Service, or 0.
func healthPort(svc *corev1.Service) int32 {
	if svc == nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer ||
		svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return 0
	}
	return svc.Spec.HealthCheckNodePort
}

// setHealth brings the health check of the Service key to port (0 is none) and the number of its local endpoints.
func (p *Proxy) setHealth(key, namespace, name string, port int32, local int) error {
	h := p.health[key]
	if h != nil && h.port != port {
		delete(p.health, key)
		if err := h.server.Close(); err != nil {
			return fmt.Errorf("close health check port %d: %w", h.port, err)
		}
		h = nil
	}
	if port == 0 {
		return nil
	}
	if h == nil {
		listener, err := net.Listen("tcp4", ":"+strconv.Itoa(int(port)))
		if err != nil {
			return fmt.Errorf("open health check port of service %s: %w", key, err)
		}
		h = &health{namespace: namespace, name: name, port: port}
		h.server = &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
		p.health[key] = h
		go func() {
			if err := h.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				p.cfg.Logger.Error("health check port ended", "service", key, "port", port, "err", err)
			}
		}()
	}
	h.local.Store(int64(local))
	return nil
}

// closeHealth ends all health checks.
func (p *Proxy) closeHealth() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var errs []error
	for key, h := range p.health {
		if err := h.server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			errs = append(errs, fmt.Errorf("close health check port of service %s: %w", key, err))
		}
	}
	clear(p.health)
	return errors.Join(errs...)
}
