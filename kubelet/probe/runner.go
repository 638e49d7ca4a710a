// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// maxOutput is how much of an answer is kept for the event, as upstream.
const maxOutput = 10 << 10

// Execer runs a command in a container and returns its output, both streams together.
type Execer interface {
	ExecProbe(ctx context.Context, containerID string, command []string) (output string, exitCode int, err error)
}

// Prober is the Runner that asks real containers.
type Prober struct {
	Exec      Execer
	UserAgent string // "kube-probe/1.36"
}

var _ Runner = (*Prober)(nil)

// Probe implements Runner.
func (p *Prober) Probe(ctx context.Context, t Target, spec *corev1.Probe) (Result, string) {
	switch {
	case spec.Exec != nil:
		return p.command(ctx, t, spec.Exec.Command)
	case spec.HTTPGet != nil:
		return p.httpGet(ctx, t, spec.HTTPGet)
	case spec.TCPSocket != nil:
		return p.tcp(ctx, t, spec.TCPSocket)
	case spec.GRPC != nil:
		return p.grpc(ctx, t, spec.GRPC)
	}
	return Unknown, "missing probe handler"
}

func (p *Prober) command(ctx context.Context, t Target, command []string) (Result, string) {
	began := time.Now()
	out, code, err := p.Exec.ExecProbe(ctx, t.ID, command)
	switch {
	case ctx.Err() == context.DeadlineExceeded:
		return Failure, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), time.Since(began).Round(time.Second))
	case err != nil:
		return Unknown, err.Error()
	case code != 0:
		return Failure, clip(out)
	}
	return Success, clip(out)
}

// HTTPRequest makes the request of an httpGet action, of a probe or of a lifecycle hook.
func HTTPRequest(ctx context.Context, t Target, a *corev1.HTTPGetAction, agent string) (*http.Request, error) {
	port, err := ResolvePort(a.Port, t.Container)
	if err != nil {
		return nil, err
	}
	host := a.Host
	if host == "" {
		host = t.IP
	}
	scheme := strings.ToLower(string(a.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path} // a path like "%zz" is sent as it is
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range a.HTTPHeaders {
		req.Header[http.CanonicalHeaderKey(h.Name)] = append(req.Header[http.CanonicalHeaderKey(h.Name)], h.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", agent)
	}
	if _, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	}
	if h := req.Header.Get("Host"); h != "" {
		req.Host = h
	}
	return req, nil
}

// HTTPTransport is for one request: no proxy, no kept connections, certificates not checked, as the API promises.
func HTTPTransport() *http.Transport {
	return &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // probes do not verify: they ask whether the container serves, not who it is
		DialContext:        (&net.Dialer{KeepAlive: -1}).DialContext,
	}
}

func (p *Prober) httpGet(ctx context.Context, t Target, a *corev1.HTTPGetAction) (Result, string) {
	req, err := HTTPRequest(ctx, t, a, p.UserAgent)
	if err != nil {
		return Unknown, err.Error()
	}
	tr := HTTPTransport()
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		// Another host is not what was asked about: the redirect itself is the answer.
		if next.URL.Hostname() != req.URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	res, err := client.Do(req)
	if err != nil {
		return Failure, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	if err != nil {
		return Failure, err.Error()
	}
	if res.StatusCode >= 200 && res.StatusCode < 400 {
		return Success, string(body)
	}
	return Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", res.StatusCode)
}

func (p *Prober) tcp(ctx context.Context, t Target, a *corev1.TCPSocketAction) (Result, string) {
	port, err := ResolvePort(a.Port, t.Container)
	if err != nil {
		return Unknown, err.Error()
	}
	host := a.Host
	if host == "" {
		host = t.IP
	}
	conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Failure, err.Error()
	}
	conn.Close()
	return Success, ""
}

func (p *Prober) grpc(ctx context.Context, t Target, a *corev1.GRPCAction) (Result, string) {
	addr := net.JoinHostPort(t.IP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(p.UserAgent), grpc.WithNoProxy())
	if err != nil {
		return Failure, err.Error()
	}
	defer conn.Close()
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(false))
	if err != nil {
		switch status.Code(err) {
		case codes.Unimplemented:
			return Failure, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + status.Convert(err).Message()
		case codes.DeadlineExceeded:
			return Failure, fmt.Sprintf("timeout: health rpc did not complete within %q", addr)
		}
		return Failure, "error: health rpc probe failed: " + err.Error()
	}
	if res.Status != healthpb.HealthCheckResponse_SERVING {
		return Failure, fmt.Sprintf("service unhealthy (responded with %q)", res.Status)
	}
	return Success, ""
}

// ResolvePort turns a port number or the name of one of the container's ports into a number.
func ResolvePort(p intstr.IntOrString, c *corev1.Container) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		n = 0
		for _, cp := range c.Ports {
			if cp.Name == p.StrVal {
				n = int(cp.ContainerPort)
			}
		}
		if n == 0 {
			v, err := strconv.Atoi(p.StrVal)
			if err != nil {
				return 0, fmt.Errorf("couldn't find port: %q in %q", p.StrVal, c.Name)
			}
			n = v
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", p.String())
	}
	return n, nil
}

func clip(s string) string {
	if len(s) > maxOutput {
		return s[:maxOutput]
	}
	return s
}
