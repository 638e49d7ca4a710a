// Package certificates holds the row of CertificateSigningRequests.
//
// A request records who made it, and from then on only its status changes: /approval sets the Approved and Denied
// conditions, which are never taken back, /status sets everything else, the certificate among it. Behaviour follows
// pkg/apis/certificates and pkg/registry/certificates of Kubernetes; who may approve and sign for a signer is for
// admission to decide. Apart from the user, which comes from the request, everything here is a pure function of the
// objects handed in, and nothing runs.
package certificates
