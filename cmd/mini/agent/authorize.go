package agent

import (
	"crypto/tls"
	"crypto/x509"
)

// KubeletTLS is for a kubelet's server: its own certificate, and client certificates of the cluster's CA.
func KubeletTLS(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), clients *x509.CertPool) *tls.Config {
	return &tls.Config{GetCertificate: get, ClientCAs: clients, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12}
}
