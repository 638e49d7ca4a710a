package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
)

const (
	groupBootstrappers = "system:bootstrappers"
	groupNodes         = "system:nodes"
	groupMasters       = "system:masters"
	nodeUserPrefix     = "system:node:"

	// How long requests are kept; upstream's csrcleaner has the same.
	keepSettled = time.Hour
	keepPending = 24 * time.Hour
)

// parse reads the request in the object and checks that it was made by the holder of its key.
func parse(csr *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return req, req.CheckSignature()
}

// signable checks an object against the rules of its signer.
func signable(signer string, usages []certificatesv1.KeyUsage, req *x509.CertificateRequest) error {
	switch signer {
	case certificatesv1.KubeAPIServerClientSignerName:
		if slices.Contains(req.Subject.Organization, groupMasters) {
			return fmt.Errorf("use of %s is not allowed", groupMasters)
		}
		return checkUsages(usages, certificatesv1.UsageClientAuth)
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if len(req.DNSNames)+len(req.IPAddresses)+len(req.EmailAddresses)+len(req.URIs) > 0 {
			return errors.New("subjectAltNames are not allowed in a kubelet's client certificate")
		}
		return errors.Join(checkNodeSubject(req), checkUsages(usages, certificatesv1.UsageClientAuth))
	case certificatesv1.KubeletServingSignerName:
		switch {
		case len(req.DNSNames)+len(req.IPAddresses) == 0:
			return errors.New("DNS or IP subjectAltName is required")
		case len(req.EmailAddresses)+len(req.URIs) > 0:
			return errors.New("only DNS and IP subjectAltNames are allowed")
		}
		return errors.Join(checkNodeSubject(req), checkUsages(usages, certificatesv1.UsageServerAuth))
	}
	return fmt.Errorf("signer %s is not served here", signer)
}

func checkNodeSubject(req *x509.CertificateRequest) error {
	if !slices.Equal(req.Subject.Organization, []string{groupNodes}) {
		return fmt.Errorf("subject organization is not %s", groupNodes)
	}
	if name, ok := strings.CutPrefix(req.Subject.CommonName, nodeUserPrefix); !ok || name == "" {
		return fmt.Errorf("subject common name does not begin with %s", nodeUserPrefix)
	}
	return nil
}

// checkUsages demands the purpose and digital signature and allows key encipherment (for RSA keys) beside them.
func checkUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	for _, u := range usages {
		switch u {
		case purpose, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		default:
			return fmt.Errorf("usage %q is not allowed", u)
		}
	}
	if !slices.Contains(usages, purpose) {
		return fmt.Errorf("usage %q is required", purpose)
	}
	return nil
}

// approvable says whether the request may be approved without a person, and why. node is the Node of the name in the
// subject, nil if there is none.
func approvable(csr *certificatesv1.CertificateSigningRequest, req *x509.CertificateRequest, node *corev1.Node) (message string, ok bool) {
	if !slices.Contains(csr.Spec.Usages, certificatesv1.UsageDigitalSignature) || signable(csr.Spec.SignerName, csr.Spec.Usages, req) != nil {
		return "", false
	}
	self := csr.Spec.Username == req.Subject.CommonName && slices.Contains(csr.Spec.Groups, groupNodes)
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if self {
			return "Auto approving self kubelet client certificate", true
		}
		if slices.Contains(csr.Spec.Groups, groupBootstrappers) {
			return "Auto approving kubelet client certificate for a bootstrap token", true
		}
	case certificatesv1.KubeletServingSignerName:
		if self && node != nil && namesOf(node).cover(req) {
			return "Auto approving kubelet serving certificate for the node's own addresses", true
		}
	}
	return "", false
}

// names are what a node may put into its serving certificate.
type names struct {
	dns []string
	ips []net.IP
}

func namesOf(node *corev1.Node) names {
	n := names{dns: []string{node.Name}}
	for _, a := range node.Status.Addresses {
		if ip := net.ParseIP(a.Address); ip != nil {
			n.ips = append(n.ips, ip)
		} else {
			n.dns = append(n.dns, a.Address)
		}
	}
	return n
}

func (n names) cover(req *x509.CertificateRequest) bool {
	for _, d := range req.DNSNames {
		if !slices.Contains(n.dns, d) {
			return false
		}
	}
	for _, ip := range req.IPAddresses {
		if !slices.ContainsFunc(n.ips, ip.Equal) {
			return false
		}
	}
	return true
}

// condition returns the object's condition of type t, nil if it is not there.
func condition(csr *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range csr.Status.Conditions {
		if csr.Status.Conditions[i].Type == t {
			return &csr.Status.Conditions[i]
		}
	}
	return nil
}

// settled says whether nothing remains to be decided.
func settled(csr *certificatesv1.CertificateSigningRequest) bool {
	return len(csr.Status.Certificate) > 0 || condition(csr, certificatesv1.CertificateDenied) != nil || condition(csr, certificatesv1.CertificateFailed) != nil
}

// deleteAt is when the object has served its time.
func deleteAt(csr *certificatesv1.CertificateSigningRequest) time.Time {
	if !settled(csr) {
		if c := condition(csr, certificatesv1.CertificateApproved); c != nil {
			return changedAt(csr, c).Add(keepPending) // approved, but its signer has not come
		}
		return csr.CreationTimestamp.Add(keepPending)
	}
	at := csr.CreationTimestamp.Time
	for i := range csr.Status.Conditions {
		if t := changedAt(csr, &csr.Status.Conditions[i]); t.After(at) {
			at = t
		}
	}
	at = at.Add(keepSettled)
	if block, _ := pem.Decode(csr.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.Before(at) {
			at = cert.NotAfter
		}
	}
	return at
}

func changedAt(csr *certificatesv1.CertificateSigningRequest, c *certificatesv1.CertificateSigningRequestCondition) time.Time {
	switch {
	case !c.LastUpdateTime.IsZero():
		return c.LastUpdateTime.Time
	case !c.LastTransitionTime.IsZero():
		return c.LastTransitionTime.Time
	}
	return csr.CreationTimestamp.Time
}
