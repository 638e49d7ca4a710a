package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/mini-k8s/mini/internal/pki"
)

// maxNap bounds every wait: timers stand still while a machine sleeps.
const maxNap = 12 * time.Hour

// minLife is how much a saved certificate must have left to be used.
const minLife = time.Minute

// credential is a certificate that the cluster signs, with its key, in a file.
type credential struct {
	path   string
	signer string
	usage  certificatesv1.KeyUsage
	logger *slog.Logger

	mu      sync.Mutex
	subject pki.Subject
	current *tls.Certificate
	changed chan struct{} // closed by setSubject
}

// load takes the file's certificate if the CA signed it for the subject's name and use, and it has not ended.
func (c *credential) load(roots *x509.CertPool, usage x509.ExtKeyUsage) bool {
	data, err := os.ReadFile(c.path)
	if err != nil {
		return false
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return false
	}
	if !c.good(&pair, roots, usage) {
		return false
	}
	c.current = &pair
	return true
}

func (c *credential) good(pair *tls.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage) bool {
	_, err := pair.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: time.Now().Add(minLife), KeyUsages: []x509.ExtKeyUsage{usage},
	})
	return err == nil && pair.Leaf.Subject.CommonName == c.subject.CommonName
}

func (c *credential) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return nil, errors.New("the cluster has not signed this node's certificate yet")
	}
	return c.current, nil
}

func (c *credential) setSubject(subject pki.Subject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pki.SameSubject(c.subject, subject) {
		return
	}
	c.subject = subject
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// due returns when the certificate is to be renewed, now if there is none or it is for another subject, and a channel that
// is closed when that may have changed.
func (c *credential) due() (time.Time, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	if c.current == nil || !pki.Fits(c.current.Leaf, c.subject) {
		return time.Time{}, c.changed
	}
	return pki.RenewAt(c.current.Leaf), c.changed
}

// renew makes a new key and has the cluster sign it.
func (c *credential) renew(ctx context.Context, api kubernetes.Interface, roots *x509.CertPool) error {
	c.mu.Lock()
	subject := c.subject
	c.mu.Unlock()
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	request, err := pki.NewRequest(subject, key)
	if err != nil {
		return err
	}
	certPEM, err := sign(ctx, api, c.signer, c.usage, request)
	if err != nil {
		return err
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("the cluster's answer is no certificate for this node's key: %w", err)
	}
	usage := x509.ExtKeyUsageClientAuth
	if subject.Server {
		usage = x509.ExtKeyUsageServerAuth
	}
	if !c.good(&pair, roots, usage) {
		return errors.New("the certificate that the cluster has signed is not for this node, or not of the cluster's CA")
	}
	c.mu.Lock()
	c.current = &pair
	c.mu.Unlock()
	if err := pki.WriteFile(c.path, append(certPEM, keyPEM...), true); err != nil {
		// It is good for as long as the process runs, which is better than none.
		c.logger.Error("Certificate not saved", "path", c.path, "err", err)
	}
	return nil
}

// keep renews the certificate until ctx ends, and calls renewed each time.
func (c *credential) keep(ctx context.Context, api kubernetes.Interface, roots *x509.CertPool, renewed func()) {
	pause := firstPause
	told := ""
	for {
		at, changed := c.due()
		if nap := min(time.Until(at), maxNap); nap > 0 {
			if !sleep(ctx, nap, changed) {
				return
			}
			continue
		}
		err := c.renew(ctx, api, roots)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			pause, told = firstPause, ""
			if pair, err := c.get(); err == nil {
				c.logger.Info("Got certificate", "path", c.path, "until", pair.Leaf.NotAfter)
			}
			renewed()
			continue
		}
		if text := err.Error(); text != told {
			c.logger.Warn("Cannot get certificate, trying again", "path", c.path, "err", text)
			told = text
		}
		if !sleep(ctx, jitter(pause), changed) {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// sleep returns false when ctx has ended.
func sleep(ctx context.Context, d time.Duration, changed <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-changed:
	}
	return true
}
