package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"

	"github.com/mini-k8s/mini/internal/bootstrap"
	"github.com/mini-k8s/mini/internal/pki"
)

// Config says who joins what.
type Config struct {
	Server string          // https://HOST:PORT
	Token  bootstrap.Token // the zero Token: only what was saved before counts
	Name   string          // of the node
	// Addresses and Names go into the serving certificate. The cluster approves those that the Node object has.
	Addresses []net.IP
	Names     []string // besides Name
	Dir       string   // DATA-DIR/agent/tls; made if missing
	Logger    *slog.Logger
	// Dial connects to the server; nil is the network of this process.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Node is the identity of a node that has joined. It is safe for concurrent use.
type Node struct {
	config  Config
	server  *url.URL
	ca      *x509.Certificate
	pool    *x509.CertPool
	dialer  *connrotation.Dialer
	client  *credential // as system:node:NAME
	serving *credential // of the kubelet's HTTPS server
	api     kubernetes.Interface
}

// Pauses between attempts: doubling, with jitter.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// Join returns the node's identity: the saved one if it is still good for the server, else a new one got with the token.
// It tries until that works or ctx ends, and logs why it waits. The error is an *Error that waiting cannot mend, or
// ctx's.
func Join(ctx context.Context, config Config) (*Node, error) {
	server, err := url.Parse(config.Server)
	if err != nil || server.Scheme != "https" || server.Host == "" {
		return nil, fmt.Errorf("join: %q is no server: want https://HOST:PORT", config.Server)
	}
	if server.Port() == "" {
		server.Host = net.JoinHostPort(server.Hostname(), "6443")
	}
	if config.Name == "" || config.Dir == "" || config.Logger == nil {
		return nil, errors.New("join: Name, Dir and Logger must be set")
	}
	if config.Dial == nil {
		config.Dial = (&net.Dialer{Timeout: handshakeTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	told := ""
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		node, err := attempt(ctx, config, server)
		if err == nil {
			return node, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		err = explain(server.Host, err)
		if !Temporary(err) {
			return nil, err
		}
		if text := err.Error(); text != told {
			config.Logger.Warn("Cannot join yet, trying again", "err", text)
			told = text
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(jitter(pause)):
		}
	}
}

func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}

// attempt joins once.
func attempt(ctx context.Context, config Config, server *url.URL) (*Node, error) {
	n := &Node{config: config, server: server}
	n.dialer = connrotation.NewDialer(config.Dial)
	saved := n.load()
	if !saved && config.Token.ID == "" {
		return nil, &Error{Message: fmt.Sprintf("join %s: this node has not joined before, or its certificate has ended: give a join token", server.Host)}
	}
	if !saved {
		ca, err := findCA(ctx, server, config.Token, config.Dial)
		if err != nil {
			return nil, err
		}
		n.trust(ca)
		if err := n.bootstrap(ctx); err != nil {
			return nil, err
		}
	}
	return n, n.open()
}

// trust makes ca the CA of the node, and new credentials below it.
func (n *Node) trust(ca *x509.Certificate) {
	n.ca = ca
	n.pool = x509.NewCertPool()
	n.pool.AddCert(ca)
	user := "system:node:" + n.config.Name
	n.client = &credential{
		path: filepath.Join(n.config.Dir, "kubelet-client.pem"), logger: n.config.Logger,
		signer: certificatesv1.KubeAPIServerClientKubeletSignerName, usage: certificatesv1.UsageClientAuth,
		subject: pki.Subject{CommonName: user, Organizations: []string{"system:nodes"}, Client: true},
	}
	n.serving = &credential{
		path: filepath.Join(n.config.Dir, "kubelet-serving.pem"), logger: n.config.Logger,
		signer: certificatesv1.KubeletServingSignerName, usage: certificatesv1.UsageServerAuth,
		subject: n.servingSubject(n.config.Addresses),
	}
}

func (n *Node) servingSubject(addresses []net.IP) pki.Subject {
	dns, _ := pki.ParseNames(append([]string{n.config.Name}, n.config.Names...)...)
	return pki.Subject{CommonName: "system:node:" + n.config.Name, Organizations: []string{"system:nodes"}, DNSNames: dns, IPs: addresses, Server: true}
}

// load takes what was saved, if it is whole, for this node, not of another cluster than the token's, and lasts a while.
func (n *Node) load() bool {
	data, err := os.ReadFile(filepath.Join(n.config.Dir, "ca.crt"))
	if err != nil {
		return false
	}
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return false
	}
	if want := n.config.Token.CAHash; want != nil {
		if have := pki.PublicKeyHash(certs[0]); string(have[:]) != string(want) {
			n.config.Logger.Warn("The token is of another cluster than the one this node joined before: joining again", "dir", n.config.Dir)
			return false
		}
	}
	n.trust(certs[0])
	n.serving.load(n.pool, x509.ExtKeyUsageServerAuth)
	return n.client.load(n.pool, x509.ExtKeyUsageClientAuth)
}

// bootstrap gets the client certificate with the token.
func (n *Node) bootstrap(ctx context.Context) error {
	transport := &http.Transport{
		DialContext:         n.config.Dial,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: n.pool},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: handshakeTimeout,
	}
	defer transport.CloseIdleConnections()
	api, err := kubernetes.NewForConfig(n.restConfig(transport, n.config.Token.Bearer()))
	if err != nil {
		return err
	}
	if err := n.client.renew(ctx, api, n.pool); err != nil {
		return err
	}
	// The CA last: without it the rest does not count.
	if err := pki.WriteFile(filepath.Join(n.config.Dir, "ca.crt"), n.CAPEM(), true); err != nil {
		return fmt.Errorf("save the cluster CA: %w", err)
	}
	n.config.Logger.Info("Joined the cluster", "server", n.server.Host, "node", n.config.Name)
	return nil
}

// open makes the client of the joined node.
func (n *Node) open() (err error) {
	n.api, err = kubernetes.NewForConfig(n.RESTConfig())
	return err
}

// RESTConfig is for clients that act as the node. Each call makes a transport of its own; the connections of all of them
// are closed when the certificate is renewed.
func (n *Node) RESTConfig() *rest.Config {
	return n.restConfig(&http.Transport{
		DialContext:         n.dialer.DialContext,
		TLSClientConfig:     n.ClientTLS(),
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: handshakeTimeout,
		IdleConnTimeout:     90 * time.Second,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}, "")
}

// restConfig is for clients over the transport, as the bearer of the token or as whoever the transport says.
func (n *Node) restConfig(transport *http.Transport, token string) *rest.Config {
	return &rest.Config{
		Host:        n.server.Scheme + "://" + n.server.Host,
		Transport:   transport,
		BearerToken: token,
		QPS:         -1,
		UserAgent:   "mini-agent",
		ContentConfig: rest.ContentConfig{
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
			ContentType:        "application/vnd.kubernetes.protobuf",
		},
	}
}

// ClientTLS is for connections to the API server as the node.
func (n *Node) ClientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    n.pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return n.client.get()
		},
	}
}

// ServingTLS is for the kubelet's HTTPS server. Handshakes fail until the cluster has signed the certificate. Client
// certificates are asked for; those that come must be the cluster CA's.
func (n *Node) ServingTLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: n.GetCertificate,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      n.pool,
	}
}

// GetCertificate has the shape of tls.Config's field, for the kubelet's HTTPS server.
func (n *Node) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return n.serving.get()
}

// CAPool holds the cluster CA. It must not be changed.
func (n *Node) CAPool() *x509.CertPool { return n.pool }

// CAPEM is the cluster CA as PEM.
func (n *Node) CAPEM() []byte { return pki.EncodeCertificates(n.ca.Raw) }

// SetAddresses asks for another serving certificate if the addresses are other ones.
func (n *Node) SetAddresses(addresses []net.IP) { n.serving.setSubject(n.servingSubject(addresses)) }

// Run keeps both certificates current until ctx ends, and gets the serving certificate in the first place. It then returns
// nil. What fails is tried again.
func (n *Node) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	wait.Go(func() { n.client.keep(ctx, n.api, n.pool, n.dialer.CloseAll) })
	wait.Go(func() { n.serving.keep(ctx, n.api, n.pool, func() {}) })
	wait.Wait()
	return nil
}
