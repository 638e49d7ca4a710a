package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// maxCertificates bounds what is remembered; beyond it everything is forgotten, which costs a verification each.
const maxCertificates = 4096

// certificates knows users by client certificates: CN is the name, O the groups.
type certificates struct {
	roots *x509.CertPool

	mu    sync.Mutex
	known map[[sha256.Size]byte]*verified // by hash of the leaf
}

type verified struct {
	response *authenticator.Response
	from, to time.Time // of the whole chain
}

func newCertificates(roots *x509.CertPool) *certificates {
	return &certificates{roots: roots, known: map[[sha256.Size]byte]*verified{}}
}

// authenticate returns false for a certificate that names nobody.
func (c *certificates) authenticate(presented []*x509.Certificate) (*authenticator.Response, bool, error) {
	leaf := presented[0]
	if leaf.Subject.CommonName == "" {
		return nil, false, nil
	}
	id := sha256.Sum256(leaf.Raw)
	now := time.Now()
	c.mu.Lock()
	v := c.known[id]
	c.mu.Unlock()
	if v != nil && now.After(v.from) && now.Before(v.to) {
		return v.response, true, nil
	}

	intermediates := x509.NewCertPool()
	for _, cert := range presented[1:] {
		intermediates.AddCert(cert)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: c.roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, false, fmt.Errorf("verifying certificate SN=%d failed: %w", leaf.SerialNumber, err)
	}
	v = &verified{from: leaf.NotBefore, to: leaf.NotAfter, response: authenticated(&authenticator.Response{User: &user.DefaultInfo{
		Name:   leaf.Subject.CommonName,
		Groups: leaf.Subject.Organization,
		Extra:  map[string][]string{user.CredentialIDKey: {"X509SHA256=" + hex.EncodeToString(id[:])}},
	}})}
	for _, cert := range chains[0] {
		if cert.NotBefore.After(v.from) {
			v.from = cert.NotBefore
		}
		if cert.NotAfter.Before(v.to) {
			v.to = cert.NotAfter
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxCertificates {
		clear(c.known)
	}
	c.known[id] = v
	return v.response, true, nil
}
