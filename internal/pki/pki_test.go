package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func testConfig(dir string) ServerConfig {
	return ServerConfig{
		Dir:           filepath.Join(dir, "tls"),
		ClusterDomain: "cluster.local",
		NodeName:      "node-a",
		NodeIPs:       []net.IP{net.IPv4(192, 0, 2, 7)},
		ServiceIP:     net.IPv4(10, 43, 0, 1),
		SANs:          []string{"api.example.org", "198.51.100.1", "localhost"},
		Kubeconfig:    filepath.Join(dir, "kubeconfig"),
		URL:           "https://192.0.2.7:6443",
		Logger:        quiet(),
	}
}

func open(t *testing.T, config ServerConfig) *Server {
	t.Helper()
	s, err := OpenServer(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestServerFiles(t *testing.T) {
	dir := t.TempDir()
	open(t, testConfig(dir))
	want := []string{"tls/admin.pem", "tls/apiserver-kubelet-client.pem", "tls/apiserver.pem", "tls/ca.crt", "tls/ca.key", "tls/service-account.key", "kubeconfig"}
	for _, name := range want {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "tls"))
	if len(entries) != len(want)-1 {
		t.Errorf("files left over: %v", entries)
	}
}

func TestServerIsReused(t *testing.T) {
	dir := t.TempDir()
	first := open(t, testConfig(dir))
	second := open(t, testConfig(dir))
	for name, pair := range map[string][2]*Certificate{
		"serving": {first.Serving, second.Serving}, "kubelet": {first.KubeletClient, second.KubeletClient}, "admin": {first.Admin, second.Admin},
	} {
		if !bytes.Equal(pair[0].Current().Certificate[0], pair[1].Current().Certificate[0]) {
			t.Errorf("%s was issued again", name)
		}
	}
	if first.Hash() != second.Hash() {
		t.Error("the CA changed")
	}
	if !first.ServiceAccountKeys[0].Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(second.ServiceAccountKeys[0].Public()) {
		t.Error("the ServiceAccount key changed")
	}
}

func (s *Server) Hash() [32]byte { return s.CA.Hash() }

func TestServerRepairs(t *testing.T) {
	cases := map[string]struct {
		harm    func(t *testing.T, tls string)
		config  func(*ServerConfig)
		renewed bool
	}{
		"nothing":         {harm: func(*testing.T, string) {}},
		"file is gone":    {harm: func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "apiserver.pem")) }, renewed: true},
		"file is empty":   {harm: func(t *testing.T, dir string) { os.WriteFile(filepath.Join(dir, "apiserver.pem"), nil, 0o600) }, renewed: true},
		"file is garbage": {harm: func(t *testing.T, dir string) { os.WriteFile(filepath.Join(dir, "apiserver.pem"), []byte("x"), 0o600) }, renewed: true},
		"other pair": {harm: func(t *testing.T, dir string) {
			data, _ := os.ReadFile(filepath.Join(dir, "admin.pem"))
			os.WriteFile(filepath.Join(dir, "apiserver.pem"), data, 0o600)
		}, renewed: true},
		"other CA of the same name": {harm: func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, "ca.key"))
			os.Remove(filepath.Join(dir, "ca.crt"))
		}, renewed: true},
		"new SAN":          {config: func(c *ServerConfig) { c.SANs = append(c.SANs, "more.example.org") }, renewed: true},
		"new node IP":      {config: func(c *ServerConfig) { c.NodeIPs = []net.IP{net.IPv4(192, 0, 2, 8)} }, renewed: true},
		"SANs reordered":   {config: func(c *ServerConfig) { c.SANs = []string{"198.51.100.1", "api.example.org"} }},
		"new service CIDR": {config: func(c *ServerConfig) { c.ServiceIP = net.IPv4(10, 99, 0, 1) }, renewed: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			config := testConfig(dir)
			before := open(t, config).Serving.Current().Leaf
			if c.harm != nil {
				c.harm(t, config.Dir)
			}
			if c.config != nil {
				c.config(&config)
			}
			s := open(t, config)
			after := s.Serving.Current().Leaf
			if got := !bytes.Equal(before.Raw, after.Raw); got != c.renewed {
				t.Errorf("issued again: %v, want %v", got, c.renewed)
			}
			for _, name := range []string{"localhost", "node-a", "kubernetes.default.svc.cluster.local", "kubernetes.default.svc", "api.example.org", "198.51.100.1", "127.0.0.1", config.ServiceIP.String(), config.NodeIPs[0].String()} {
				if _, err := after.Verify(x509.VerifyOptions{DNSName: name, Roots: s.CA.Pool()}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := after.Verify(x509.VerifyOptions{Roots: s.CA.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
				t.Error("the serving certificate is usable as a client")
			}
		})
	}
}

func TestCAFiles(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenCA(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	// A crash after the key was written: the CA keeps its identity.
	os.Remove(filepath.Join(dir, "ca.crt"))
	second, err := OpenCA(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	if first.Hash() != second.Hash() {
		t.Error("the CA has another key")
	}
	// A lost key is never papered over.
	os.Remove(filepath.Join(dir, "ca.key"))
	if _, err := OpenCA(dir, "test"); err == nil || !strings.Contains(err.Error(), "put the key back") {
		t.Errorf("lost key: %v", err)
	}
	other, _ := NewCA("test")
	key, _ := EncodeKey(other.key)
	os.WriteFile(filepath.Join(dir, "ca.key"), key, 0o600)
	if _, err := OpenCA(dir, "test"); err == nil || !strings.Contains(err.Error(), "belong together") {
		t.Errorf("wrong key: %v", err)
	}
}

func TestExpiredCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		if _, err := OpenCA(dir, "test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(CALifetime + time.Second)
		if _, err := OpenCA(dir, "test"); err == nil || !strings.Contains(err.Error(), "check the clock") {
			t.Errorf("expired CA: %v", err)
		}
	})
}

func TestRenewalWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, testConfig(dir))
		extra, err := s.Client("scheduler", Subject{CommonName: "system:kube-scheduler", Client: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		late, err := s.Client("late", Subject{CommonName: "late", Client: true})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		all := map[string]*Certificate{"serving": s.Serving, "admin": s.Admin, "kubelet": s.KubeletClient, "client": extra, "late client": late}
		first := map[string]*tls.Certificate{}
		for name, c := range all {
			first[name] = c.Current()
		}
		conf := s.ServingTLS()
		for time.Since(start) < 9*365*24*time.Hour {
			time.Sleep(7 * 24 * time.Hour)
			synctest.Wait()
			for name, c := range all {
				leaf := c.Current().Leaf
				if left := time.Until(leaf.NotAfter); left < 60*24*time.Hour {
					t.Fatalf("%s has %v left", name, left)
				}
				if age := time.Since(start); age < 250*24*time.Hour && c.Current() != first[name] {
					t.Fatalf("%s was renewed after %v", name, age)
				}
			}
			if served, _ := conf.GetCertificate(nil); served != s.Serving.Current() {
				t.Fatal("the listener serves an old certificate")
			}
		}
		data, err := os.ReadFile(filepath.Join(dir, "kubeconfig"))
		if err != nil {
			t.Fatal(err)
		}
		config, err := clientcmd.RESTConfigFromKubeConfig(data)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(config.CertData)
		if !bytes.Equal(block.Bytes, s.Admin.Current().Certificate[0]) {
			t.Error("the kubeconfig has an old certificate")
		}
		saved, err := readPair(filepath.Join(dir, "tls", "apiserver.pem"))
		if err != nil || !bytes.Equal(saved.Certificate[0], s.Serving.Current().Certificate[0]) {
			t.Errorf("the file has an old certificate (%v)", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRenewSurvivesUnwritableDir(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		config := testConfig(dir)
		s := open(t, config)
		if err := os.RemoveAll(config.Dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * 24 * time.Hour)
		if renewed, err := s.Serving.Renew(); !renewed || err != nil {
			t.Fatalf("renewed %v, err %v", renewed, err)
		}
		if left := time.Until(s.Serving.Current().Leaf.NotAfter); left < 360*24*time.Hour {
			t.Errorf("only %v left", left)
		}
	})
}

func TestHandshakes(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	listener, err := tls.Listen("tcp", "127.0.0.1:0", s.ServingTLS())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	peers := make(chan tls.ConnectionState, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if err := conn.(*tls.Conn).Handshake(); err == nil {
				peers <- conn.(*tls.Conn).ConnectionState()
			}
			conn.Close()
		}
	}()
	conn, err := tls.Dial("tcp", listener.Addr().String(), s.KubeletTLS())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	chain := conn.ConnectionState().PeerCertificates
	if len(chain) != 2 || PublicKeyHash(chain[1]) != s.CA.Hash() {
		t.Errorf("the chain of %d certificates does not end with the CA", len(chain))
	}
	if got := (<-peers).PeerCertificates[0].Subject.CommonName; got != KubeletClientUser {
		t.Errorf("client is %q", got)
	}
}

func TestSignRequest(t *testing.T) {
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	key, _ := NewKey()
	request, err := NewRequest(Subject{CommonName: "system:node:a", Organizations: []string{"system:nodes"}, DNSNames: []string{"a"}, IPs: []net.IP{net.IPv4(192, 0, 2, 1)}}, key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := ca.SignRequest(request, false, true, 100*365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := ParseCertificates(out)
	if err != nil {
		t.Fatal(err)
	}
	leaf := certs[0]
	if leaf.NotAfter.After(ca.Certificate().NotAfter) {
		t.Error("the certificate outlives its CA")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: "192.0.2.1"}); err != nil {
		t.Error(err)
	}
	if leaf.Subject.CommonName != "system:node:a" || leaf.IsCA {
		t.Errorf("subject %v, CA %v", leaf.Subject, leaf.IsCA)
	}
	// A request that was tampered with is refused.
	block, _ := pem.Decode(request)
	block.Bytes[len(block.Bytes)-1] ^= 1
	if _, err := ca.SignRequest(pem.EncodeToMemory(block), true, false, 0); err == nil {
		t.Error("a broken signature was accepted")
	}
}

func TestRenewAtSpreads(t *testing.T) {
	ca, _ := NewCA("test")
	var lo, hi time.Duration
	for i := range 50 {
		pair, err := ca.issue(Subject{CommonName: "x", Client: true}, 0)
		if err != nil {
			t.Fatal(err)
		}
		life := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore)
		at := RenewAt(pair.Leaf).Sub(pair.Leaf.NotBefore)
		if at < life*7/10-time.Second || at > life*8/10+time.Second {
			t.Fatalf("renewal after %v of %v", at, life)
		}
		if i == 0 {
			lo, hi = at, at
		}
		lo, hi = min(lo, at), max(hi, at)
	}
	if hi-lo < 24*time.Hour {
		t.Errorf("50 certificates are all renewed within %v", hi-lo)
	}
}

func BenchmarkOpenServer(b *testing.B) {
	for b.Loop() {
		if _, err := OpenServer(testConfig(b.TempDir())); err != nil {
			b.Fatal(err)
		}
	}
}
