package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	// CALifetime is how long a new CA lasts.
	CALifetime = 10 * 365 * 24 * time.Hour
	// LeafLifetime is how long a certificate lasts that names no lifetime.
	LeafLifetime = 365 * 24 * time.Hour
	// caBackdate and leafBackdate let machines with slow clocks join.
	caBackdate   = 24 * time.Hour
	leafBackdate = time.Hour
)

// CA is a certificate authority: its certificate and its key. It is safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
	pool *x509.CertPool
}

// Subject is what a certificate says of its holder and what it may be used for.
type Subject struct {
	CommonName    string   // the user name, in Kubernetes's terms
	Organizations []string // the user's groups
	DNSNames      []string
	IPs           []net.IP
	Client        bool // usable as a TLS client
	Server        bool // usable as a TLS server
}

// OpenCA loads ca.key and ca.crt of dir, or makes them. A key without a certificate (a crash between the two files)
// gets a new certificate; a certificate without a key is an error, and so is a CA that has expired.
func OpenCA(dir, commonName string) (*CA, error) {
	keyFile, certFile := filepath.Join(dir, "ca.key"), filepath.Join(dir, "ca.crt")
	certPEM, certErr := os.ReadFile(certFile)
	keyPEM, keyErr := os.ReadFile(keyFile)
	switch {
	case certErr == nil && keyErr == nil:
		ca, err := ParseCA(certPEM, keyPEM)
		if err != nil {
			return nil, fmt.Errorf("cluster CA in %s: %w", dir, err)
		}
		return ca, nil
	case certErr == nil && errors.Is(keyErr, fs.ErrNotExist):
		return nil, fmt.Errorf("cluster CA: %s exists and %s does not: put the key back, or remove both to make a new CA (every node must then join again)", certFile, keyFile)
	case keyErr != nil && !errors.Is(keyErr, fs.ErrNotExist):
		return nil, fmt.Errorf("cluster CA: %w", keyErr)
	case certErr != nil && !errors.Is(certErr, fs.ErrNotExist):
		return nil, fmt.Errorf("cluster CA: %w", certErr)
	}

	var key crypto.Signer
	var err error
	if keyErr == nil {
		key, err = ParseKey(keyPEM)
	} else {
		key, err = NewKey()
	}
	if err != nil {
		return nil, fmt.Errorf("cluster CA: %w", err)
	}
	if keyErr != nil {
		if keyPEM, err = EncodeKey(key); err != nil {
			return nil, fmt.Errorf("cluster CA: %w", err)
		}
		if err := WriteFile(keyFile, keyPEM, true); err != nil {
			return nil, fmt.Errorf("cluster CA: %w", err)
		}
	}
	ca, err := newCA(commonName, key)
	if err != nil {
		return nil, fmt.Errorf("cluster CA: %w", err)
	}
	if err := WriteFile(certFile, ca.PEM(), true); err != nil {
		return nil, fmt.Errorf("cluster CA: %w", err)
	}
	return ca, nil
}

// NewCA makes a CA with a new key, kept in no file.
func NewCA(commonName string) (*CA, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	return newCA(commonName, key)
}

// ParseCA makes a CA of PEM data. It fails if the two do not belong together, if the certificate is not a CA's, or if it
// is not valid now.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	certs, err := ParseCertificates(certPEM)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	cert := certs[0]
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return nil, errors.New("certificate and key do not belong together")
	}
	if !cert.IsCA {
		return nil, errors.New("the certificate is not of a certificate authority")
	}
	if now := time.Now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return nil, fmt.Errorf("valid from %s to %s, and it is %s: check the clock", cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return makeCA(cert, key), nil
}

func newCA(commonName string, key crypto.Signer) (*CA, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-caBackdate).UTC(),
		NotAfter:              now.Add(CALifetime).UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return makeCA(cert, key), nil
}

func makeCA(cert *x509.Certificate, key crypto.Signer) *CA {
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &CA{cert: cert, key: key, pool: pool}
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// Certificate is the CA's own certificate. It must not be changed.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// PEM is the CA's certificate as PEM: what kube-root-ca.crt and kubeconfigs carry.
func (ca *CA) PEM() []byte { return EncodeCertificates(ca.cert.Raw) }

// Pool holds the CA alone. It must not be changed.
func (ca *CA) Pool() *x509.CertPool { return ca.pool }

// Hash is PublicKeyHash of the CA.
func (ca *CA) Hash() [sha256.Size]byte { return PublicKeyHash(ca.cert) }

// PublicKeyHash is the SHA-256 of a certificate's subject public key info, the number that kubeadm calls
// discovery-token-ca-cert-hash. It stays when a CA is renewed with the same key.
func PublicKeyHash(cert *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// Sign issues a certificate for a public key, valid from about an hour ago for the lifetime (0: LeafLifetime), but never
// longer than the CA. It checks nothing about the subject: whoever asks has been judged before.
func (ca *CA) Sign(subject Subject, public crypto.PublicKey, lifetime time.Duration) (der []byte, err error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	if lifetime == 0 {
		lifetime = LeafLifetime
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: subject.CommonName, Organization: subject.Organizations},
		DNSNames:              subject.DNSNames,
		IPAddresses:           subject.IPs,
		NotBefore:             later(now.Add(-leafBackdate), ca.cert.NotBefore).UTC(),
		NotAfter:              earlier(now.Add(lifetime), ca.cert.NotAfter).UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	if subject.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if subject.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	return x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
}

// SignRequest signs the PEM certificate request of a CertificateSigningRequest object, with its names and the uses
// given, and returns PEM: the certificate alone. The request's signature is checked, its wishes for anything else are not
// heard.
func (ca *CA) SignRequest(requestPEM []byte, client, server bool, lifetime time.Duration) (certPEM []byte, err error) {
	request, err := ParseRequest(requestPEM)
	if err != nil {
		return nil, err
	}
	der, err := ca.Sign(Subject{
		CommonName:    request.Subject.CommonName,
		Organizations: request.Subject.Organization,
		DNSNames:      request.DNSNames,
		IPs:           request.IPAddresses,
		Client:        client,
		Server:        server,
	}, request.PublicKey, lifetime)
	if err != nil {
		return nil, err
	}
	return EncodeCertificates(der), nil
}

// issue makes a new key and a certificate for it; the pair presents the chain with the CA.
func (ca *CA) issue(subject Subject, lifetime time.Duration) (*tls.Certificate, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	der, err := ca.Sign(subject, key.Public(), lifetime)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// signed says whether the CA signed the certificate: the same name is not enough, data directories get mixed up.
func (ca *CA) signed(leaf *x509.Certificate) bool {
	return bytes.Equal(leaf.RawIssuer, ca.cert.RawSubject) && leaf.CheckSignatureFrom(ca.cert) == nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
