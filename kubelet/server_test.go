// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/mini-k8s/mini/kubelet/container"
)

// serverRig is a kubelet in real time with its API on loopback.
func serverRig(t *testing.T) (*rig, *httptest.Server) {
	t.Helper()
	r := newRig(t)
	k, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	r.k = k
	srv := httptest.NewServer(k.Handler())
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	p := testPod("p", corev1.Container{Name: "c", Image: "app:1", Stdin: true}, corev1.Container{Name: "tty", Image: "app:1", TTY: true, Stdin: true})
	if _, err := r.cs.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return cond(r.get("p"), corev1.PodReady).Status == corev1.ConditionTrue })
	return r, srv
}

func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatal("did not happen within 10 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func executors(t *testing.T, srv *httptest.Server, path string, q url.Values) map[string]remotecommand.Executor {
	t.Helper()
	u, err := url.Parse(srv.URL + path + "?" + q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	cfg := &rest.Config{Host: srv.URL}
	s, err := remotecommand.NewSPDYExecutor(cfg, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	w, err := remotecommand.NewWebSocketExecutor(cfg, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	w4, err := remotecommand.NewWebSocketExecutorForProtocols(cfg, "GET", u.String(), "v4.channel.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"spdy": s, "websocket-v5": w, "websocket-v4": w4}
}

func TestExecStreams(t *testing.T) {
	r, srv := serverRig(t)
	r.rt.OnExec = func(id string, cmd []string, s container.Streams) (int, error) {
		switch cmd[0] {
		case "cat":
			if _, err := io.Copy(s.Stdout, s.Stdin); err != nil { // ends only if the client's end of stdin gets here
				return 0, err
			}
			fmt.Fprint(s.Stderr, "done")
			return 0, nil
		case "fail":
			return 42, nil
		}
		return 0, errors.New("no such program")
	}
	for _, proto := range []string{"spdy", "websocket-v5"} {
		t.Run(proto, func(t *testing.T) {
			e := executors(t, srv, "/exec/default/p/c", url.Values{"command": {"cat"}, "input": {"1"}, "output": {"1"}, "error": {"1"}})[proto]
			var out, errOut bytes.Buffer
			in := strings.Repeat("0123456789", 100_000)
			if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(in), Stdout: &out, Stderr: &errOut}); err != nil {
				t.Fatal(err)
			}
			if out.String() != in || errOut.String() != "done" {
				t.Errorf("%d bytes out of %d, stderr %q", out.Len(), len(in), errOut.String())
			}
		})
	}
	for proto, e := range executors(t, srv, "/exec/default/p/c", url.Values{"command": {"fail"}, "output": {"1"}}) {
		err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
		var exit utilexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 42 {
			t.Errorf("%s: exit %v", proto, err)
		}
	}
	for proto, e := range executors(t, srv, "/exec/default/p/c", url.Values{"command": {"nope"}, "output": {"1"}}) {
		if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), "no such program") {
			t.Errorf("%s: %v", proto, err)
		}
	}
}

// sizes is a terminal whose size was asked for once.
type sizes struct {
	ch chan remotecommand.TerminalSize
}

func (s sizes) Next() *remotecommand.TerminalSize {
	z, ok := <-s.ch
	if !ok {
		return nil
	}
	return &z
}

func TestAttachTerminal(t *testing.T) {
	r, srv := serverRig(t)
	r.rt.OnAttach = func(_ string, s container.Streams) error {
		if !s.TTY || s.Stderr != nil {
			return fmt.Errorf("tty %v, stderr %v", s.TTY, s.Stderr)
		}
		z := <-s.Resize
		_, err := fmt.Fprintf(s.Stdout, "%dx%d", z.Width, z.Height)
		return err
	}
	for proto, e := range executors(t, srv, "/attach/default/p/tty", url.Values{"input": {"1"}, "output": {"1"}, "tty": {"1"}}) {
		q := sizes{make(chan remotecommand.TerminalSize, 1)}
		q.ch <- remotecommand.TerminalSize{Width: 80, Height: 24}
		pr, pw := io.Pipe()
		var out bytes.Buffer
		if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: pr, Stdout: &out, Tty: true, TerminalSizeQueue: q}); err != nil {
			t.Errorf("%s: %v", proto, err)
		}
		if out.String() != "80x24" {
			t.Errorf("%s: %q", proto, out.String())
		}
		pw.Close()
		close(q.ch)
	}
}

func TestPortForward(t *testing.T) {
	r, srv := serverRig(t)
	r.rt.OnPortForward = func(_ string, port int32, conn io.ReadWriteCloser) error {
		if port != 8080 {
			return fmt.Errorf("connection refused: %d", port)
		}
		buf := make([]byte, 5)
		if _, err := io.ReadFull(conn, buf); err != nil {
			return err
		}
		_, err := conn.Write(bytes.ToUpper(buf))
		return err
	}
	u, err := url.Parse(srv.URL + "/portForward/default/p")
	if err != nil {
		t.Fatal(err)
	}
	cfg := &rest.Config{Host: srv.URL}
	tr, up, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(u, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for proto, dialer := range map[string]httpstream.Dialer{"spdy": spdy.NewDialer(up, &http.Client{Transport: tr}, "POST", u), "tunnel": tunnel} {
		t.Run(proto, func(t *testing.T) {
			stop, ready := make(chan struct{}), make(chan struct{})
			fw, err := portforward.New(dialer, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- fw.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-done:
				t.Fatal(err)
			}
			ports, err := fw.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(c)
				if err != nil || string(got) != "HELLO" {
					t.Errorf("%q, %v", got, err)
				}
				c.Close()
			}
			close(stop)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func body(t *testing.T, u string) (int, string) {
	t.Helper()
	res, err := http.Get(u)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

func TestLogs(t *testing.T) {
	r, srv := serverRig(t)
	c := r.container("p", "c")
	if err := os.MkdirAll(filepath.Dir(c.LogPath), 0o755); err != nil {
		t.Fatal(err)
	}
	line := func(s string) string { return time.Now().UTC().Format(time.RFC3339Nano) + " stdout F " + s + "\n" }
	if err := os.WriteFile(c.LogPath, []byte(line("one")+line("two")), 0o644); err != nil {
		t.Fatal(err)
	}
	base := srv.URL + "/containerLogs/default/p/c"
	for q, want := range map[string]string{"": "one\ntwo\n", "?tailLines=1": "two\n", "?limitBytes=2": "on", "?sinceSeconds=3600": "one\ntwo\n"} {
		if code, got := body(t, base+q); code != 200 || got != want {
			t.Errorf("%q: %d %q", q, code, got)
		}
	}
	for path, want := range map[string]string{
		"/containerLogs/default/nope/c":                  "404 pod \"nope\" does not exist\n",
		"/containerLogs/default/p/nope":                  "404 container \"nope\" not found in pod \"p\"\n",
		"/containerLogs/default/p/c?previous=true":       "400 previous terminated container \"c\" in pod \"p\" not found\n",
		"/containerLogs/default/p/c?tailLines=x":         "422 invalid log options: tailLines: Invalid value: \"x\": must be a number of at least 0\n",
		"/exec/default/p/nope?command=x&output=1":        "404 container not found (\"nope\")\n",
		"/exec/default/p/c?command=x":                    "400 you must specify at least 1 of stdin, stdout, stderr\n",
		"/portForward/default/nope":                      "404 pod does not exist\n",
		"/healthz":                                       "200 ok",
		"/containerLogs/default/p/c?sinceTime=yesterday": "422 invalid log options: sinceTime: Invalid value: \"yesterday\": must be a time in RFC 3339\n",
	} {
		if code, got := body(t, srv.URL+path); fmt.Sprint(code, " ", got) != want {
			t.Errorf("%s: %d %q, want %q", path, code, got, want)
		}
	}
	// A follower gets what is written, and ends with the container.
	res, err := http.Get(base + "?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 8)
	if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != "one\ntwo\n" {
		t.Fatalf("%q, %v", buf, err)
	}
	f, err := os.OpenFile(c.LogPath, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line("three")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, buf[:6]); err != nil || string(buf[:6]) != "three\n" {
		t.Fatalf("%q, %v", buf, err)
	}
	r.rt.Exit(c.ID, 0)
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
	eventually(t, func() bool { c, _ := r.rt.Find("p", "c"); return c.Attempt == 1 })
	if code, got := body(t, base+"?previous=true"); code != 200 || got != "one\ntwo\nthree\n" {
		t.Errorf("previous: %d %q", code, got)
	}
}

func TestMiddlewareGuardsEverything(t *testing.T) {
	r := newRig(t)
	r.cfg.Middleware = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) })
	}
	k, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/healthz": 200, "/pods": 401, "/exec/a/b/c": 401, "/containerLogs/a/b/c": 401, "/stats/summary": 401, "/metrics/resource": 401, "/": 401} {
		w := httptest.NewRecorder()
		k.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
