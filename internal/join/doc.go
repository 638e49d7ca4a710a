// Package join makes a machine a node of a cluster and keeps it one: it finds out whether the server is the right one, gets
// the kubelet's client certificate with a bootstrap token, and renews that and the kubelet's serving certificate while the
// process runs.
//
// Trust comes first. The server presents its certificate chain with the cluster CA in it. Before a byte of a request is
// sent, the CA of a chain that leads to the server's own certificate must be the one that the token names, or the one that
// was saved when the node joined. With a short token the CA comes from the ConfigMap cluster-info, read without any
// credential, and is believed only if the token's secret has signed it.
//
// Files below Config.Dir (DATA-DIR/agent/tls), all 0600 and replaced atomically:
//
//	ca.crt                the cluster CA
//	kubelet-client.pem    certificate and key of system:node:NAME
//	kubelet-serving.pem   certificate and key of the kubelet's HTTPS server
//
// Certificates are asked for as CertificateSigningRequests and waited for by a watch. They are renewed at 70-80 % of their
// life. Connections made with an old client certificate are closed then, since the server judges each request by the
// certificate of its connection.
//
// Join tries again, with growing pauses, what waiting can mend (a server that does not answer, one that is starting), and
// returns an *Error for the rest (a wrong token, another cluster's CA). Node.Run is the only goroutine's function.
package join
