// Package server is a control node: etcd, the API server, the scheduler and the controllers, and this machine's own node.
//
// Run starts everything side by side. What depends on something else waits for its channel, never for a time: the
// controllers' informers for the API server, the node for its credentials, the kubeconfig for the certificates. The first
// component that fails ends all, and its error is what Run returns.
package server
