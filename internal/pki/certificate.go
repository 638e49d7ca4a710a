package pki

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxNap bounds every wait for a renewal: timers stand still while a machine sleeps, and clocks get corrected.
const maxNap = 12 * time.Hour

// Certificate is a key pair in a file that stays current, issued by a CA of this process. It is safe for concurrent use.
type Certificate struct {
	ca       *CA
	path     string
	lifetime time.Duration
	logger   *slog.Logger
	current  atomic.Pointer[tls.Certificate]

	mu      sync.Mutex // one renewal at a time
	subject Subject
}

// Keep loads the pair at path, and issues a new one if there is none, or none that is right for the subject now.
// A lifetime of 0 is LeafLifetime.
func (ca *CA) Keep(path string, subject Subject, lifetime time.Duration, logger *slog.Logger) (*Certificate, error) {
	c := &Certificate{ca: ca, path: path, lifetime: lifetime, logger: logger, subject: subject}
	if pair, err := readPair(path); err == nil {
		c.current.Store(pair)
	}
	if _, err := c.Renew(); err != nil {
		return nil, err
	}
	return c, nil
}

// Current is the pair to use now. It must not be changed.
func (c *Certificate) Current() *tls.Certificate { return c.current.Load() }

// GetCertificate has the shape of tls.Config's field.
func (c *Certificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.Current(), nil
}

// GetClientCertificate has the shape of tls.Config's field.
func (c *Certificate) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return c.Current(), nil
}

// SetSubject changes whom the certificate is for, and issues it again at once if that makes a difference.
func (c *Certificate) SetSubject(subject Subject) error {
	c.mu.Lock()
	c.subject = subject
	c.mu.Unlock()
	_, err := c.Renew()
	return err
}

// Renew issues the certificate again if it is due or wrong, and says whether it did. When the file cannot be written
// the new pair is used all the same: a full disk must not end a server.
func (c *Certificate) Renew() (renewed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pair := c.current.Load(); pair != nil && c.ca.signed(pair.Leaf) && Fits(pair.Leaf, c.subject) && time.Now().Before(RenewAt(pair.Leaf)) {
		return false, nil
	}
	pair, err := c.ca.issue(c.subject, c.lifetime)
	if err != nil {
		return false, err
	}
	first := c.current.Swap(pair) == nil
	data, err := encodePair(pair)
	if err == nil {
		err = WriteFile(c.path, data, false)
	}
	if err != nil && first {
		return true, err
	}
	if err != nil {
		c.logger.Error("Certificate renewed, but not saved", "path", c.path, "err", err)
	}
	return true, nil
}

// Run renews the certificate until ctx ends. It then returns nil.
func (c *Certificate) Run(ctx context.Context) error {
	return keepCurrent(ctx, c.logger, []*Certificate{c}, nil)
}

// keepCurrent renews the certificates when they are due and calls renewed after every one.
func keepCurrent(ctx context.Context, logger *slog.Logger, certificates []*Certificate, renewed func(*Certificate)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		nap := maxNap
		for _, c := range certificates {
			changed, err := c.Renew()
			if err != nil {
				logger.Error("Cannot renew certificate", "path", c.path, "err", err)
			}
			if changed {
				logger.Info("Renewed certificate", "path", c.path, "until", c.Current().Leaf.NotAfter)
				if renewed != nil {
					renewed(c)
				}
			}
			nap = min(nap, max(time.Until(RenewAt(c.Current().Leaf)), time.Minute))
		}
		timer.Reset(nap)
	}
}

// RenewAt is the time to renew a certificate: 70 to 80 % into its life. The place in that window comes from the serial
// number, so that nodes made together do not renew together and a restart does not change the time.
func RenewAt(leaf *x509.Certificate) time.Time {
	sum := sha256.Sum256(leaf.SerialNumber.Bytes())
	jitter := float64(binary.BigEndian.Uint32(sum[:4])) / (1 << 32)
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return leaf.NotBefore.Add(time.Duration(float64(life) * (0.7 + 0.1*jitter)))
}

// SameSubject says whether two subjects make the same certificate; the order of names does not matter.
func SameSubject(a, b Subject) bool {
	return a.CommonName == b.CommonName && a.Client == b.Client && a.Server == b.Server &&
		slices.Equal(sorted(a.Organizations), sorted(b.Organizations)) &&
		slices.Equal(sorted(a.DNSNames), sorted(b.DNSNames)) && sameIPs(a.IPs, b.IPs)
}

// Fits says whether the certificate is for exactly this subject.
func Fits(leaf *x509.Certificate, s Subject) bool {
	return leaf.Subject.CommonName == s.CommonName &&
		slices.Equal(sorted(leaf.Subject.Organization), sorted(s.Organizations)) &&
		slices.Equal(sorted(leaf.DNSNames), sorted(s.DNSNames)) &&
		sameIPs(leaf.IPAddresses, s.IPs) &&
		slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) == s.Client &&
		slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) == s.Server
}

func sorted(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

func sameIPs(a, b []net.IP) bool {
	normal := func(in []net.IP) [][]byte {
		var out [][]byte
		for _, ip := range in {
			out = append(out, ip.To16())
		}
		slices.SortFunc(out, bytes.Compare)
		return slices.CompactFunc(out, bytes.Equal)
	}
	return slices.EqualFunc(normal(a), normal(b), bytes.Equal)
}

// ParseNames splits names given by a user (--tls-san) into DNS names and addresses, without repeats.
func ParseNames(names ...string) (dns []string, ips []net.IP) {
	for _, name := range names {
		name = strings.ToLower(strings.TrimSpace(name))
		if ip := net.ParseIP(name); ip != nil {
			if !slices.ContainsFunc(ips, ip.Equal) {
				ips = append(ips, ip)
			}
		} else if name != "" && !slices.Contains(dns, name) {
			dns = append(dns, name)
		}
	}
	return dns, ips
}
