// Package pki is the certificate authority of a cluster and the keys of its server.
//
// A CA signs; a Certificate is a key pair that stays current: it is loaded from its file when that still fits, issued
// when it does not, and issued again in the running process once 70-80 % of its life has passed. TLS configurations made
// from a Certificate read the current pair at every handshake, so nothing restarts when one is renewed.
//
// OpenServer gives a server everything it needs from DATA-DIR/server/tls:
//
//	ca.key, ca.crt                  the cluster CA: signs every certificate of the cluster, ten years
//	service-account.key             signs ServiceAccount tokens; further keys in the file only verify
//	apiserver.pem                   what the API server presents (chain with the CA, then the key)
//	apiserver-kubelet-client.pem    what the API server shows to kubelets
//	admin.pem                       cluster-admin (group system:masters), the credential of the kubeconfig
//	NAME.pem                        further clients, made by Server.Client
//
// All files are 0600 and replaced atomically. Only the CA and the ServiceAccount key are precious: every other file is
// made again when it is missing, unreadable, too old, of another CA, or for other names than those wanted now.
//
// The only goroutine is the one that runs Server.Run (or Certificate.Run).
package pki
