// Package certificates approves, signs and cleans up CertificateSigningRequests.
//
// Approved without a person are only the certificates that nodes need: the client certificate of a kubelet, asked for by a
// joining node (group system:bootstrappers) or, for itself, by a node that has one; and the serving certificate of a
// kubelet, asked for by that node, for addresses and names that its Node object has. Everything else waits for
// kubectl certificate approve.
//
// Signed is what is approved for the signers kubernetes.io/kube-apiserver-client, kube-apiserver-client-kubelet and
// kubelet-serving, each with the checks of its definition
// (https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers). A request that
// breaks them gets the condition Failed. Other signers' requests are left to them.
//
// Deleted are requests that were issued, denied or failed more than an hour ago, pending ones after a day, and those whose
// certificate has expired. One queue of request names, one worker; time is served by the queue's timers.
package certificates
