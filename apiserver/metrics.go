package apiserver

import (
	"bufio"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/request"
)

// metrics are the server's series, under upstream's names where the meaning is the same.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inflight *prometheus.GaugeVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total", Help: "Requests by verb, resource and HTTP code.",
		}, []string{"verb", "group", "resource", "subresource", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "Time to answer, long-running requests aside.",
			Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30},
		}, []string{"verb"}),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_current_inflight_requests", Help: "Requests being answered now.",
		}, []string{"request_kind"}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.inflight,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// withMetrics counts and times requests.
func (s *Server) withMetrics(next http.Handler) http.Handler {
	short, long := s.metrics.inflight.WithLabelValues("short"), s.metrics.inflight.WithLabelValues("longRunning")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := request.From(r.Context()).Info
		gauge, isLong := short, longRunning(&info)
		if isLong {
			gauge = long
		}
		gauge.Inc()
		defer gauge.Dec()
		start := time.Now()
		cw := &codeWriter{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(cw, r)
		verb, resource, group, sub := info.Verb, info.Resource, info.Group, info.Subresource
		if !info.IsResource {
			resource, group, sub = "", "", ""
		} else if cw.code == http.StatusNotFound || cw.code == http.StatusForbidden || cw.code == http.StatusUnauthorized {
			sub = "" // whoever invents names must not invent series
			if !s.knows(&info) {
				resource, group = "", ""
			}
		}
		s.metrics.requests.WithLabelValues(verb, group, resource, sub, strconv.Itoa(cw.code)).Inc()
		if !isLong {
			s.metrics.duration.WithLabelValues(verb).Observe(time.Since(start).Seconds())
		}
	})
}

// knows says whether a resource of that name is served.
func (s *Server) knows(info *request.Info) bool {
	return s.serves(schema.GroupVersionResource{Group: info.Group, Version: info.Version, Resource: info.Resource})
}

// codeWriter remembers the answer's code. Flush and Hijack reach the writer below.
type codeWriter struct {
	http.ResponseWriter
	code int
}

func (w *codeWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

func (w *codeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush is for handlers that look for an http.Flusher.
func (w *codeWriter) Flush() { http.NewResponseController(w.ResponseWriter).Flush() } //nolint:errcheck // as http.Flusher is

// Hijack is for handlers that take the connection over.
func (w *codeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}
