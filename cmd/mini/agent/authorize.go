package agent

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"

	"github.com/mini-k8s/mini/internal/pki"
)

// KubeletTLS is for a kubelet's server: its own certificate, and client certificates of the cluster's CA.
func KubeletTLS(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), clients *x509.CertPool) *tls.Config {
	return &tls.Config{GetCertificate: get, ClientCAs: clients, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12}
}

// OnlyAPIServer lets nobody but the API server at a kubelet, known by its client certificate: it has asked already who may do what.
func OnlyAPIServer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		if user := r.TLS.VerifiedChains[0][0].Subject.CommonName; user != pki.KubeletClientUser {
			http.Error(w, "Forbidden: go through the API server", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
