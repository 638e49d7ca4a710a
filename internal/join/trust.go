package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/internal/bootstrap"
	"github.com/mini-k8s/mini/internal/pki"
)

// dialFunc connects to the server.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

const (
	handshakeTimeout = 10 * time.Second
	requestTimeout   = 20 * time.Second
	maxClusterInfo   = 1 << 20
)

// findCA returns the CA of the server, believed for the token's sake: by the hash in it, or because its secret has signed
// cluster-info. Nothing but a TLS handshake, and for a short token a request without credentials, is sent.
func findCA(ctx context.Context, server *url.URL, token bootstrap.Token, dial dialFunc) (*x509.Certificate, error) {
	if token.CAHash != nil {
		return presentedCA(ctx, server, token.CAHash, dial)
	}
	info, err := readClusterInfo(ctx, server, dial)
	if err != nil {
		return nil, err
	}
	caPEM, err := bootstrap.VerifyClusterInfo(info, token)
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCertificates(caPEM)
	if err != nil {
		return nil, fmt.Errorf("cluster-info: %w", err)
	}
	return certs[0], nil
}

// presentedCA shakes hands with the server and returns the CA that it presents if its public key has the hash and the
// server's certificate leads to it. Otherwise the handshake is broken off.
func presentedCA(ctx context.Context, server *url.URL, hash []byte, dial dialFunc) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := dial(ctx, "tcp", server.Host)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var ca *x509.Certificate
	client := tls.Client(conn, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         server.Hostname(),
		InsecureSkipVerify: true, // VerifyConnection does it, with the CA that it finds first
		VerifyConnection: func(state tls.ConnectionState) error {
			ca, err = pinnedCA(state.PeerCertificates, hash, server)
			return err
		},
	})
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return ca, nil
}

// pinnedCA finds the CA with the hash in a chain and verifies the chain's first certificate by it.
func pinnedCA(chain []*x509.Certificate, hash []byte, server *url.URL) (*x509.Certificate, error) {
	for _, cert := range chain {
		have := pki.PublicKeyHash(cert)
		if !cert.IsCA || !bytes.Equal(have[:], hash) {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(cert)
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: server.Hostname()})
		if errors.As(err, new(x509.UnknownAuthorityError)) { // anybody can show a CA that is not his
			return nil, &Error{Message: fmt.Sprintf("join %s: the server shows the right cluster CA, but its certificate is not of it: something stands between", server.Host), Err: fmt.Errorf("%w: %w", ErrWrongCA, err)}
		}
		return cert, err
	}
	seen := "none"
	for _, cert := range chain {
		if cert.IsCA {
			have := pki.PublicKeyHash(cert)
			seen = hex.EncodeToString(have[:])
		}
	}
	return nil, &Error{
		Message: fmt.Sprintf("join %s: the token is for the cluster CA %s, but the server presents %s: the token is of another cluster, or something stands between", server.Host, hex.EncodeToString(hash), seen),
		Err:     ErrWrongCA,
	}
}

// readClusterInfo reads a ConfigMap that proves itself, from a server that is not known yet.
func readClusterInfo(ctx context.Context, server *url.URL, dial dialFunc) (*corev1.ConfigMap, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	transport := &http.Transport{
		DialContext:       dial,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}
	path := "/api/v1/namespaces/kube-public/configmaps/" + bootstrap.ClusterInfo
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.JoinPath(path).String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("the server redirects") }}
	response, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("cluster-info: %s", response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxClusterInfo))
	if err != nil {
		return nil, err
	}
	info := &corev1.ConfigMap{}
	if err := json.Unmarshal(body, info); err != nil {
		return nil, fmt.Errorf("cluster-info: %w", err)
	}
	return info, nil
}
