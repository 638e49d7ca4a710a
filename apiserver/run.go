package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
)

// drainTime is how long requests under way may take to end once the server stops.
const drainTime = 4 * time.Second

// Run serves until ctx ends, then for at most five seconds more what is under way. It returns nil then, and an error if the
// server cannot listen or one of its own parts fails.
func (s *Server) Run(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(s.LoopbackConfig())
	if err != nil {
		return fmt.Errorf("apiserver: %w", err)
	}
	listener := s.config.Listener
	if listener == nil {
		if listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.config.BindAddress); err != nil {
			return fmt.Errorf("apiserver: %w", err)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serve(ctx, listener) })
	group.Go(func() error { return s.allocators.Run(ctx) })
	group.Go(func() error { return s.custom.Run(ctx) })
	if s.plugins.Run != nil {
		group.Go(func() error { return s.plugins.Run(ctx) })
	}
	group.Go(func() error { return s.bootstrap(ctx, client) })
	group.Go(func() error { return s.keepKubernetesService(ctx, client) })
	group.Go(func() error { return s.keepServiceCIDR(ctx, client) })
	group.Go(func() error { return s.keepFlowControl(ctx, client) })
	group.Go(func() error { return s.followFlowControl(ctx, client) })
	group.Go(func() error { return s.makeAPIServices(ctx) })
	group.Go(func() error { return s.keepCustomAPIServices(ctx) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("apiserver: %w", err)
	}
	return nil
}

// serve runs the HTTPS server. Long-running requests are ended first, and then the others have drainTime.
func (s *Server) serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s.handler,
		TLSConfig:         withHTTP2(s.config.TLS),
		ReadHeaderTimeout: 32 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    1 << 20,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1000},
		ErrorLog:          log.New(httpLog{s.logger}, "", 0),
	}
	served := make(chan error, 1)
	go func() {
		if server.TLSConfig == nil {
			served <- server.Serve(listener)
			return
		}
		served <- server.ServeTLS(listener, "", "")
	}()
	s.logger.Info("the API is served", "address", listener.Addr().String())
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	s.endLong()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		s.logger.Warn("requests were cut off at shutdown", "error", err)
		server.Close() //nolint:errcheck // nothing is left to do about it
	}
	<-served
	return nil
}

func withHTTP2(c *tls.Config) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	for _, proto := range []string{"h2", "http/1.1"} {
		if !slices.Contains(c.NextProtos, proto) {
			c.NextProtos = append(c.NextProtos, proto)
		}
	}
	return c
}

// httpLog takes what net/http has to say about connections: of interest only when one looks for it.
type httpLog struct{ logger *slog.Logger }

func (l httpLog) Write(b []byte) (int, error) {
	l.logger.Debug("http", "message", string(b))
	return len(b), nil
}
