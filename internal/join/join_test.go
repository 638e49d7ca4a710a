package join

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"

	"github.com/mini-k8s/mini/internal/bootstrap"
	"github.com/mini-k8s/mini/internal/pki"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newCA(t testing.TB) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// serverPair is a serving certificate of ca, with the certificates of chain behind it.
func serverPair(t testing.TB, ca *pki.CA, name string, chain ...*x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	dns, ips := pki.ParseNames(name)
	der, err := ca.Sign(pki.Subject{CommonName: "server", DNSNames: dns, IPs: ips, Server: true}, key.Public(), 0)
	if err != nil {
		t.Fatal(err)
	}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

func tokenFor(t testing.TB, ca *pki.CA) bootstrap.Token {
	t.Helper()
	var hash []byte
	if ca != nil {
		sum := ca.Hash()
		hash = sum[:]
	}
	token, err := bootstrap.New(hash)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// eavesdropper is a TLS server that keeps what clients send after the handshake.
type eavesdropper struct {
	listener net.Listener
	mu       sync.Mutex
	heard    bytes.Buffer
	conns    []net.Conn
	wait     sync.WaitGroup
}

func listen(t testing.TB, pair tls.Certificate) *eavesdropper {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	e := &eavesdropper{listener: l}
	e.wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.conns = append(e.conns, conn)
			e.mu.Unlock()
			e.wait.Go(func() {
				buf := make([]byte, 4096)
				for {
					n, err := conn.Read(buf)
					e.mu.Lock()
					e.heard.Write(buf[:n])
					e.mu.Unlock()
					if err != nil {
						conn.Close()
						return
					}
				}
			})
		}
	})
	return e
}

// close returns everything that was heard.
func (e *eavesdropper) close() string {
	// Clients that break off the handshake close the connection: what they sent before is read to its end. Those that the
	// server is good for wait for an answer.
	e.listener.Close()
	e.mu.Lock()
	for _, conn := range e.conns {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	}
	e.mu.Unlock()
	e.wait.Wait()
	return e.heard.String()
}

func (e *eavesdropper) config(t testing.TB, token bootstrap.Token) Config {
	return Config{Server: "https://" + e.listener.Addr().String(), Token: token, Name: "node-a", Dir: t.TempDir(), Logger: quiet()}
}

// Whatever chain a server shows: unless the CA of the token's hash signed its certificate, it hears nothing.
func TestNothingIsSentToAStranger(t *testing.T) {
	ours, theirs := newCA(t), newCA(t)
	rapid.Check(t, func(r *rapid.T) {
		signer := rapid.SampledFrom([]*pki.CA{ours, theirs}).Draw(r, "signer")
		var chain []*x509.Certificate
		for _, ca := range rapid.SliceOfN(rapid.SampledFrom([]*pki.CA{ours, theirs}), 0, 3).Draw(r, "chain") {
			chain = append(chain, ca.Certificate())
		}
		name := rapid.SampledFrom([]string{"127.0.0.1", "elsewhere"}).Draw(r, "name")
		shown := false
		for _, c := range chain {
			shown = shown || c == ours.Certificate()
		}
		good := signer == ours && shown && name == "127.0.0.1"

		e := listen(t, serverPair(t, signer, name, chain...))
		config := e.config(t, tokenFor(t, ours))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if good { // it is spoken to then, and does not answer
			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
		}
		_, err := Join(ctx, config)
		heard := e.close()
		if err == nil {
			r.Fatal("joined an eavesdropper")
		}
		if good {
			return
		}
		if heard != "" {
			r.Fatalf("a stranger heard %q", heard)
		}
		if Temporary(err) || errors.Is(err, context.DeadlineExceeded) {
			r.Fatalf("waiting for what cannot change: %v", err)
		}
	})
}

func TestShortTokenIsNotSentBeforeTheAnswerProvesItself(t *testing.T) {
	ours, theirs := newCA(t), newCA(t)
	token := tokenFor(t, nil)
	other := tokenFor(t, nil)
	other.ID = token.ID
	info := func(ca *pki.CA, signer bootstrap.Token) *corev1.ConfigMap {
		cm, err := bootstrap.MakeClusterInfo(ca.PEM(), "https://x", []bootstrap.Record{{Token: signer, Signing: true}})
		if err != nil {
			t.Fatal(err)
		}
		return cm
	}
	unsigned, _ := bootstrap.MakeClusterInfo(ours.PEM(), "https://x", nil)
	cases := map[string]struct {
		info   *corev1.ConfigMap
		serves *pki.CA
		want   error
		sent   bool
	}{
		"right":                         {info: info(ours, token), serves: ours, sent: true},
		"signed with another secret":    {info: info(theirs, other), serves: theirs, want: bootstrap.ErrSignature},
		"not signed":                    {info: unsigned, serves: ours, want: bootstrap.ErrUnknownToken},
		"right answer, stranger serves": {info: info(ours, token), serves: theirs, want: ErrWrongCA},
	}
	for name, c := range cases {
		var mu sync.Mutex
		var credentials []string
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if a := r.Header.Get("Authorization"); a != "" {
				credentials = append(credentials, a)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			writeJSON(w, c.info)
		}))
		server.TLS = &tls.Config{Certificates: []tls.Certificate{serverPair(t, c.serves, "127.0.0.1", c.serves.Certificate())}}
		server.StartTLS()
		_, err := Join(t.Context(), Config{Server: server.URL, Token: token, Name: "a", Dir: t.TempDir(), Logger: quiet()})
		server.Close()
		if err == nil || Temporary(err) {
			t.Errorf("%s: %v", name, err)
		}
		if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if sent := len(credentials) > 0; sent != c.sent {
			t.Errorf("%s: sent %v", name, credentials)
		}
		if strings.Contains(err.Error(), token.Secret) {
			t.Errorf("%s: the error tells the secret", name)
		}
	}
}

func TestExplanations(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	refuse := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	refuse.TLS = &tls.Config{Certificates: []tls.Certificate{serverPair(t, ca, "127.0.0.1", ca.Certificate())}}
	refuse.StartTLS()
	defer refuse.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	cases := map[string]struct {
		server    string
		token     bootstrap.Token
		want      string
		temporary bool
	}{
		"wrong token":    {refuse.URL, tokenFor(t, ca), "does not accept the token", false},
		"wrong CA":       {refuse.URL, tokenFor(t, other), "the token is of another cluster", false},
		"no token":       {refuse.URL, bootstrap.Token{}, "give a join token", false},
		"wrong name":     {strings.Replace(refuse.URL, "127.0.0.1", "localhost", 1), tokenFor(t, ca), "--tls-san", false},
		"nobody there":   {"https://" + closed.Addr().String(), tokenFor(t, ca), "connection refused", true},
		"no such name":   {"https://does-not-exist.invalid:1", tokenFor(t, ca), "cannot be resolved", true},
		"not TLS at all": {"https://" + plain(t), tokenFor(t, ca), "does not look like a TLS handshake", true},
	}
	for name, c := range cases {
		logged := &logs{}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, err := Join(ctx, Config{Server: c.server, Token: c.token, Name: "a", Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(logged, nil)), Dial: logged.onDial(cancel, c.temporary)})
		cancel()
		text := logged.String()
		if !c.temporary {
			var e *Error
			if !errors.As(err, &e) || e.Temporary {
				t.Errorf("%s: %v", name, err)
				continue
			}
			text = err.Error()
		}
		if !strings.Contains(text, c.want) || strings.Contains(strings.TrimSpace(text), "\n") {
			t.Errorf("%s: %q", name, text)
		}
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// logs keeps what is logged, and ends the test at the second attempt.
type logs struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	dials int
}

func (l *logs) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.buf.Write(p) }
func (l *logs) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.buf.String() }
func (l *logs) onDial(cancel func(), stop bool) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		l.mu.Lock()
		l.dials++
		again := l.dials > 1
		l.mu.Unlock()
		if again && stop {
			cancel()
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
}

func plain(t *testing.T) string {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// signing is a clientset whose cluster approves and signs each request with ca, for life.
func signing(ca *pki.CA, life time.Duration) *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("create", "certificatesigningrequests", func(action clienttesting.Action) (bool, runtime.Object, error) {
		csr := action.(clienttesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
		csr.Name = csr.GenerateName + rand.Text()
		csr.UID = types.UID(csr.Name)
		server := csr.Spec.SignerName == certificatesv1.KubeletServingSignerName
		cert, err := ca.SignRequest(csr.Spec.Request, !server, server, life)
		if err != nil {
			return true, nil, err
		}
		csr.Status.Certificate = cert
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
		return false, nil, nil
	})
	return client
}

// TestNobodyThere: what the kernel says of an address that does not answer becomes advice, and the node goes on trying.
func TestNobodyThere(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"no-machine": {syscall.EHOSTUNREACH, "no machine answers at that address (no route to host): check the address"},
		"no-route":   {syscall.ENETUNREACH, "this machine has no route there (network is unreachable): check the address"},
		"dropped":    {syscall.ETIMEDOUT, "nothing answers there in time: check the address, and that no firewall drops TCP"},
		"patience":   {context.DeadlineExceeded, "nothing answers there in time"},
	} {
		t.Run(name, func(t *testing.T) {
			err := explain("https://192.0.2.1:6443", fmt.Errorf("get: %w", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", tt.err)}))
			var known *Error
			if !errors.As(err, &known) || !known.Temporary || !strings.HasPrefix(known.Message, "join https://192.0.2.1:6443: "+tt.want) {
				t.Errorf("%#v, want a temporary one with %q", err, tt.want)
			}
		})
	}
}

func TestRenewalInTheRunningProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newCA(t)
		client := signing(ca, 24*time.Hour)
		config := Config{Name: "node-a", Addresses: []net.IP{net.IPv4(192, 0, 2, 1)}, Dir: t.TempDir(), Logger: quiet()}
		n := &Node{config: config}
		n.trust(ca.Certificate())
		if err := n.client.renew(t.Context(), client, n.pool); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		renewals := 0
		wait.Go(func() { n.client.keep(ctx, client, n.pool, func() { renewals++ }) })
		wait.Go(func() { n.serving.keep(ctx, client, n.pool, func() {}) })
		for range 10 * 24 {
			time.Sleep(time.Hour)
			synctest.Wait()
			for what, c := range map[string]*credential{"client": n.client, "serving": n.serving} {
				pair, err := c.get()
				if err != nil {
					t.Fatal(what, err)
				}
				if left := time.Until(pair.Leaf.NotAfter); left < 4*time.Hour {
					t.Fatalf("%s: %v left", what, left)
				}
			}
		}
		if renewals < 11 || renewals > 16 { // 10 days of certificates that last 25 hours
			t.Errorf("renewed %d times in ten days", renewals)
		}
		// Another address: another serving certificate at once.
		n.SetAddresses([]net.IP{net.IPv4(192, 0, 2, 9)})
		synctest.Wait()
		pair, err := n.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: "192.0.2.9", CurrentTime: time.Now()}); err != nil {
			t.Error(err)
		}
		cancel()
		wait.Wait()
	})
}

func TestSavedIdentityIsUsedAgain(t *testing.T) {
	ca := newCA(t)
	config := Config{Name: "node-a", Dir: t.TempDir(), Logger: quiet(), Token: tokenFor(t, ca)}
	first := &Node{config: config}
	first.trust(ca.Certificate())
	if err := first.client.renew(t.Context(), signing(ca, 0), first.pool); err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteFile(filepath.Join(config.Dir, "ca.crt"), ca.PEM(), true); err != nil {
		t.Fatal(err)
	}
	loads := func(change func(*Config)) bool {
		c := config
		if change != nil {
			change(&c)
		}
		return (&Node{config: c}).load()
	}
	if !loads(nil) {
		t.Error("not used")
	}
	if !loads(func(c *Config) { c.Token = bootstrap.Token{} }) {
		t.Error("not used without a token")
	}
	if loads(func(c *Config) { c.Name = "node-b" }) {
		t.Error("used for another node")
	}
	if loads(func(c *Config) { c.Token = tokenFor(t, newCA(t)) }) {
		t.Error("used with another cluster's token")
	}
	info, err := os.Stat(filepath.Join(config.Dir, "kubelet-client.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if err := os.WriteFile(filepath.Join(config.Dir, "kubelet-client.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if loads(nil) {
		t.Error("garbage was used")
	}
}

func TestDeniedRequestIsFinal(t *testing.T) {
	csr := &certificatesv1.CertificateSigningRequest{}
	if cert, err := outcome(csr); cert != nil || err != nil {
		t.Error("pending:", cert, err)
	}
	csr.Status.Certificate = []byte("x")
	if cert, err := outcome(csr); cert != nil || err != nil {
		t.Error("signed but not approved:", cert, err)
	}
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue}}
	if _, err := outcome(csr); err == nil || Temporary(err) {
		t.Error("denied:", err)
	}
	csr.Status.Conditions[0].Type = certificatesv1.CertificateFailed
	if _, err := outcome(csr); err == nil {
		t.Error("failed: no error")
	} else if !Temporary(explain("x", err)) {
		t.Error("failed: final")
	}
}
