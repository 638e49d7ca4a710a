// Package bootstrap is the tokens with which nodes join a cluster.
//
// A Token is Kubernetes's bootstrap token, ID.SECRET, kept as the Secret bootstrap-token-ID in kube-system, so that
// kubeadm's habits work: such a Secret may be made and deleted with kubectl, may expire, and may carry more groups. In
// front of it a join token carries the hash of the cluster CA's public key:
//
//	mini1.<64 hex digits>.<id>.<secret>
//
// With that hash a node knows its server before it sends it anything. Without it (the short token) the node learns the CA
// from the ConfigMap cluster-info in kube-public, whose content each token signs (JWS, HS256, as kubeadm's does).
//
// Parse and String are inverse. Secret and FromSecret map tokens to their Secrets; Ensure keeps the first one, which
// never expires, in a file. There is no goroutine.
package bootstrap
