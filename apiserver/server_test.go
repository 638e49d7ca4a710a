package apiserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// tokens authenticates "Bearer NAME" as NAME; "Bearer admin" is a master, "Bearer user-node" a node.
type tokens struct{}

func (tokens) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, false, nil
	}
	u := &user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated}}
	if name == "admin" {
		u.Groups = append(u.Groups, user.SystemPrivilegedGroup)
	}
	if name == "user-node" {
		u.Groups = append(u.Groups, user.NodesGroup)
	}
	return &authenticator.Response{User: u}, true, nil
}

// masters allows the masters and "user-…" everything, and others to read the version.
type masters struct{}

func (masters) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	for _, g := range a.GetUser().GetGroups() {
		if g == user.SystemPrivilegedGroup {
			return authorizer.DecisionAllow, "", nil
		}
	}
	if a.GetPath() == "/version" || strings.HasPrefix(a.GetUser().GetName(), "user-") {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

type cluster struct {
	*apiserver.Server
	URL    string
	config *clientrest.Config // a network client, as admin
	client kubernetes.Interface
	stop   func() // ends the server and waits for it; done at the end of the test anyway
}

// start runs a server on an embedded etcd for the length of the test.
func start(t testing.TB, change ...func(*apiserver.Config)) *cluster {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("MINI_TEST_LOG") != "" {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	st, err := store.Open(t.Context(), store.Config{DataDir: t.TempDir(), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	certificate := certs.TLS.Certificates[0]
	certs.Close()
	config := apiserver.Config{
		Store: st, Logger: logger, Listener: l,
		TLS:          &tls.Config{Certificates: []tls.Certificate{certificate}},
		Advertise:    netip.MustParseAddrPort("192.0.2.1:6443"),
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		NodePorts:    registry.PortRange{From: 30000, To: 32767},
		Plugins: func(*clientrest.Config) (*apiserver.Plugins, error) {
			return &apiserver.Plugins{Authenticator: tokens{}, Authorizer: masters{}}, nil
		},
	}
	for _, f := range change {
		f(&config)
	}
	server, err := apiserver.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	storeCtx, cancelStore := context.WithCancel(context.Background())
	storeDone, done := make(chan error, 1), make(chan error, 1)
	go func() { storeDone <- st.Run(storeCtx) }()
	go func() { done <- server.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		begun := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(begun); took > 30*time.Second {
			t.Errorf("Run took %v to end", took)
		}
	})
	t.Cleanup(func() {
		stop()
		cancelStore()
		if err := <-storeDone; err != nil {
			t.Errorf("store: %v", err)
		}
	})
	select {
	case <-server.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("the server is not ready after 20 s")
	}
	c := &cluster{Server: server, URL: "https://" + l.Addr().String(), stop: stop}
	c.config = &clientrest.Config{
		Host: c.URL, BearerToken: "admin", TLSClientConfig: clientrest.TLSClientConfig{Insecure: true}, QPS: -1,
	}
	if c.client, err = kubernetes.NewForConfig(c.config); err != nil {
		t.Fatal(err)
	}
	return c
}

// http is a client of the network side.
func (c *cluster) http(t testing.TB) *http.Client {
	t.Helper()
	transport, err := clientrest.TransportFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: transport}
}

// answer is what a plain request got.
type answer struct {
	code   int
	header http.Header
	body   string
}

// do sends a request to the handler as admin; headers are pairs.
func (c *cluster) do(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer admin")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	c.Handler().ServeHTTP(w, r)
	return answer{w.Code, w.Header(), w.Body.String()}
}

// field reads a value of a JSON body: "metadata.name".
func (a answer) field(t testing.TB, path string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%v in %q", err, a.body)
	}
	for _, key := range strings.Split(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// kubectl runs the machine's kubectl against the server.
func (c *cluster) kubectl(t testing.TB, stdin string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("no kubectl on this machine")
	}
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	text := "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: {server: " + c.URL +
		", insecure-skip-tls-verify: true}\nusers:\n- name: u\n  user: {token: admin}\ncontexts:\n- name: c\n  context: {cluster: c, user: u}\n"
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "HOME="+dir)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

func readAll(t testing.TB, r io.ReadCloser) string {
	t.Helper()
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
