// Command testserver is what the end-to-end tests run in pods: a server whose answers say who answered, and whose health
// can be switched from outside.
//
//	HTTP on PORT (8080): / answers "POD VERSION", /healthz 200 or 500, /ready 200 or 503,
//	POST /set?healthy=false&ready=false switches them, /slow?d=2s waits before it answers,
//	/client answers with the caller's address, /exit?code=3 ends the process
//	UDP and TCP on ECHO_PORT (9090): echo, with the pod's name in front
//	gRPC health on GRPC_PORT (9091)
//
// `testserver get URL` is a client, for use inside pods: the static busybox's wget cannot resolve names.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "get" {
		if err := get(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("testserver ended", "err", err)
		os.Exit(1)
	}
}

// get prints what a URL answers; anything but a 200 within three seconds is an error.
func get(url string) error {
	resp, err := (&http.Client{Timeout: 3 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

type server struct {
	name, version  string
	healthy, ready atomic.Bool
	grpc           *health.Server
}

func run(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	s := &server{name: host, version: env("VERSION", "1"), grpc: health.NewServer()}
	s.healthy.Store(env("HEALTHY", "true") == "true")
	s.ready.Store(env("READY", "true") == "true")
	s.tellGRPC()
	if delay, err := time.ParseDuration(env("START_DELAY", "0s")); err == nil && delay > 0 {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
	fmt.Printf("testserver %s version %s\n", s.name, s.version)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.http(ctx, ":"+env("PORT", "8080")) })
	group.Go(func() error { return s.tcpEcho(ctx, ":"+env("ECHO_PORT", "9090")) })
	group.Go(func() error { return s.udpEcho(ctx, ":"+env("ECHO_PORT", "9090")) })
	group.Go(func() error { return s.health(ctx, ":"+env("GRPC_PORT", "9091")) })
	return group.Wait()
}

func env(name, value string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return value
}

func (s *server) tellGRPC() {
	status := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if s.healthy.Load() {
		status = grpc_health_v1.HealthCheckResponse_SERVING
	}
	s.grpc.SetServingStatus("", status)
}

func (s *server) http(ctx context.Context, addr string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "%s %s\n", s.name, s.version) })
	mux.HandleFunc("/client", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, s.healthy.Load(), http.StatusInternalServerError)
	})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.ready.Load(), http.StatusServiceUnavailable) })
	mux.HandleFunc("/set", func(w http.ResponseWriter, r *http.Request) {
		if v := r.URL.Query().Get("healthy"); v != "" {
			s.healthy.Store(v == "true")
			s.tellGRPC()
		}
		if v := r.URL.Query().Get("ready"); v != "" {
			s.ready.Store(v == "true")
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.URL.Query().Get("d"))
		select {
		case <-r.Context().Done():
		case <-time.After(min(d, time.Minute)):
			fmt.Fprintf(w, "%s %s\n", s.name, s.version)
		}
	})
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		os.Exit(code)
	})
	server := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = server.Shutdown(ending)
	})
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func answer(w http.ResponseWriter, good bool, bad int) {
	if good {
		fmt.Fprintln(w, "ok")
		return
	}
	http.Error(w, "no", bad)
}

func (s *server) tcpEcho(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		conn, err := l.Accept()
		if err != nil {
			return ignoreClosed(ctx, err)
		}
		go func() {
			defer conn.Close()
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if _, err := fmt.Fprintf(conn, "%s %s\n", s.name, lines.Text()); err != nil {
					return
				}
			}
		}()
	}
}

func (s *server) udpEcho(ctx context.Context, addr string) error {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return ignoreClosed(ctx, err)
		}
		if _, err := conn.WriteTo(fmt.Appendf(nil, "%s %s", s.name, buf[:n]), from); err != nil {
			slog.Warn("UDP answer failed", "err", err)
		}
	}
}

func (s *server) health(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, s.grpc)
	context.AfterFunc(ctx, server.Stop)
	return ignoreClosed(ctx, server.Serve(l))
}

func ignoreClosed(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}
