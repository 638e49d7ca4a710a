// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// script answers probes by kind of command.
type script struct {
	mu      sync.Mutex
	answers map[string]Result
	runs    map[string]int
}

func (s *script) Probe(_ context.Context, _ Target, p *corev1.Probe) (Result, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := p.Exec.Command[0]
	s.runs[name]++
	return s.answers[name], "out-" + name
}

func (s *script) set(name string, r Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[name] = r
}

func (s *script) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs[name]
}

func spec(name string, period, success, failure, delay int32) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}}, PeriodSeconds: period, SuccessThreshold: success, FailureThreshold: failure, InitialDelaySeconds: delay}
}

type bench struct {
	*Scheduler
	s        *script
	mu       sync.Mutex
	verdicts []string
}

func (b *bench) said() string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.verdicts, " ")
}

func newBench(t *testing.T) *bench {
	b := &bench{s: &script{answers: map[string]Result{}, runs: map[string]int{}}}
	b.Scheduler = NewScheduler(t.Context(), Config{Runner: b.s, OnVerdict: func(v Verdict) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.verdicts = append(b.verdicts, fmt.Sprintf("%s=%v", v.Kind, v.OK))
	}})
	return b
}

func target(id string, c corev1.Container) Target {
	return Target{Pod: &corev1.Pod{}, Container: &c, ID: id, StartedAt: time.Now()}
}

func TestThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.Add(target("a", corev1.Container{ReadinessProbe: spec("r", 2, 2, 3, 5)}), false, false)
		b.s.set("r", Success)
		time.Sleep(4 * time.Second)
		if synctest.Wait(); b.s.count("r") != 0 {
			t.Fatal("ran during its initial delay")
		}
		time.Sleep(2 * time.Second) // t=6: one success of two
		if b.said() != "" {
			t.Fatal("ready after one success")
		}
		time.Sleep(2 * time.Second)
		if got := b.said(); got != "Readiness=true" {
			t.Fatal(got)
		}
		b.s.set("r", Failure)
		time.Sleep(4 * time.Second)
		b.s.set("r", Unknown) // counts for nothing
		time.Sleep(2 * time.Second)
		if got := b.said(); got != "Readiness=true" {
			t.Fatal("unready after two failures of three:", got)
		}
		b.s.set("r", Failure)
		time.Sleep(2 * time.Second)
		if got := b.said(); got != "Readiness=true Readiness=false" {
			t.Fatal(got)
		}
		b.Remove("a")
		n := b.s.count("r")
		time.Sleep(time.Minute)
		if b.s.count("r") != n || b.Len() != 0 {
			t.Error("probes go on after Remove")
		}
	})
}

func TestStartupHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.s.set("s", Failure)
		b.s.set("l", Success)
		b.Add(target("a", corev1.Container{StartupProbe: spec("s", 1, 1, 10, 0), LivenessProbe: spec("l", 1, 1, 1, 0), ReadinessProbe: spec("r", 1, 1, 1, 0)}), false, false)
		time.Sleep(3500 * time.Millisecond)
		if synctest.Wait(); b.s.count("l")+b.s.count("r") != 0 || b.s.count("s") != 4 {
			t.Fatalf("runs %v", b.s.runs)
		}
		b.s.set("s", Success)
		b.s.set("r", Success)
		time.Sleep(2 * time.Second)
		if got := b.said(); got != "Startup=true Readiness=true" {
			t.Fatal(got)
		}
		n := b.s.count("s")
		b.s.set("l", Failure)
		time.Sleep(10 * time.Second)
		if got := b.said(); got != "Startup=true Readiness=true Liveness=false" {
			t.Fatal(got)
		}
		if b.s.count("s") != n {
			t.Error("the startup probe ran after it passed")
		}
	})
}

func TestStartupFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.s.set("s", Failure)
		b.Add(target("a", corev1.Container{StartupProbe: spec("s", 1, 1, 3, 0), LivenessProbe: spec("l", 1, 1, 1, 0)}), false, false)
		time.Sleep(time.Minute)
		if got := b.said(); got != "Startup=false" || b.s.count("s") != 3 || b.s.count("l") != 0 {
			t.Fatalf("%q, runs %v", got, b.s.runs)
		}
	})
}

func TestAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		c := target("a", corev1.Container{StartupProbe: spec("s", 1, 1, 3, 0), ReadinessProbe: spec("r", 10, 1, 1, 0)})
		time.Sleep(time.Hour)
		b.s.set("r", Success)
		b.Add(c, true, true)
		time.Sleep(11 * time.Second)
		if got := b.said(); got != "" || b.s.count("s") != 0 || b.s.count("r") == 0 {
			t.Fatalf("a container that was ready is told anew: %q, runs %v", got, b.s.runs)
		}
		b.s.set("r", Failure)
		time.Sleep(11 * time.Second)
		if got := b.said(); got != "Readiness=false" {
			t.Fatal(got)
		}
	})
}

func TestKeepReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.s.set("r", Success)
		b.Add(target("a", corev1.Container{LivenessProbe: spec("l", 1, 1, 1, 0), ReadinessProbe: spec("r", 1, 1, 1, 0)}), true, false)
		b.Keep("a", Readiness)
		b.s.set("l", Failure)
		time.Sleep(5 * time.Second)
		if got := b.said(); got != "Readiness=true" || b.Len() != 1 {
			t.Fatal(got, b.Len())
		}
	})
}

// TestIdle: without probes there is nothing that could wake the process.
func TestIdle(t *testing.T) {
	b := newBench(t)
	if b.timer != nil {
		t.Error("a timer without probes")
	}
}

func handler(h corev1.ProbeHandler) *corev1.Probe { return &corev1.Probe{ProbeHandler: h} }

func local(t *testing.T, addr string) (Target, int) {
	t.Helper()
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return Target{Pod: &corev1.Pod{}, Container: &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}, IP: host}, port
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("User-Agent"), "|", r.Host, "|", strings.Join(r.Header["X-Two"], ","))
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 503) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://elsewhere.test/", 302) })
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", 302) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for _, secure := range []bool{false, true} {
		srv := httptest.NewUnstartedServer(mux)
		scheme := corev1.URISchemeHTTP
		if secure {
			srv.StartTLS()
			scheme = corev1.URISchemeHTTPS
		} else {
			srv.Start()
		}
		tg, _ := local(t, srv.Listener.Addr().String())
		p := &Prober{UserAgent: "kube-probe/1.36"}
		for path, want := range map[string]Result{"/ok": Success, "/bad": Failure, "/away": Success, "/here": Failure, "/absent": Failure} {
			r, out := p.Probe(t.Context(), tg, handler(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("web"), Scheme: scheme,
				HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "me.test"}, {Name: "X-Two", Value: "a"}, {Name: "x-two", Value: "b"}}}}))
			if r != want {
				t.Errorf("%s %s: %v %q", scheme, path, r, out)
			}
			if path == "/ok" && out != "kube-probe/1.36|me.test|a,b" {
				t.Errorf("answer %q", out)
			}
			if path == "/bad" && out != "HTTP probe failed with statuscode: 503" {
				t.Errorf("output %q", out)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if r, _ := p.Probe(ctx, tg, handler(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/slow", Port: intstr.FromString("web"), Scheme: scheme}})); r != Failure {
			t.Errorf("a probe that timed out: %v", r)
		}
		cancel()
		srv.Close()
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tg, port := local(t, l.Addr().String())
	act := handler(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}})
	p := &Prober{}
	if r, out := p.Probe(t.Context(), tg, act); r != Success {
		t.Errorf("%v %q", r, out)
	}
	l.Close()
	if r, _ := p.Probe(t.Context(), tg, act); r != Failure {
		t.Error("a closed port passes")
	}
	if r, out := p.Probe(t.Context(), tg, handler(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("nope")}})); r != Unknown {
		t.Errorf("%v %q", r, out)
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := health.NewServer()
	hs.SetServingStatus("up", healthpb.HealthCheckResponse_SERVING)
	hs.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, hs)
	go srv.Serve(l)
	defer srv.Stop()
	tg, port := local(t, l.Addr().String())
	p := &Prober{UserAgent: "kube-probe/1.36"}
	for service, want := range map[string]Result{"": Success, "up": Success, "down": Failure, "unknown": Failure} {
		r, out := p.Probe(t.Context(), tg, handler(corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port), Service: &service}}))
		if r != want {
			t.Errorf("%q: %v %q", service, r, out)
		}
	}
	srv.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if r, _ := p.Probe(ctx, tg, handler(corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port)}})); r != Failure {
		t.Error("a stopped server passes")
	}
}

type execFunc func(ctx context.Context, id string, cmd []string) (string, int, error)

func (f execFunc) ExecProbe(ctx context.Context, id string, cmd []string) (string, int, error) {
	return f(ctx, id, cmd)
}

func TestExec(t *testing.T) {
	for _, tt := range []struct {
		code int
		err  error
		want Result
	}{{0, nil, Success}, {1, nil, Failure}, {0, errors.New("runtime"), Unknown}} {
		p := &Prober{Exec: execFunc(func(context.Context, string, []string) (string, int, error) { return "out", tt.code, tt.err })}
		if r, _ := p.Probe(t.Context(), Target{}, handler(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}})); r != tt.want {
			t.Errorf("%+v: %v", tt, r)
		}
	}
	p := &Prober{Exec: execFunc(func(ctx context.Context, _ string, _ []string) (string, int, error) {
		<-ctx.Done()
		return "", 0, ctx.Err()
	})}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if r, out := p.Probe(ctx, Target{}, handler(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}})); r != Failure || !strings.HasPrefix(out, "command timed out") {
		t.Errorf("%v %q", r, out)
	}
}
