// Package admission changes and refuses writes that are well-formed and authorized, before they are stored.
//
// New gives the chain of plugins in upstream's order (the names are upstream's, plugin/pkg/admission):
//
//	NamespaceLifecycle          nothing is made in a namespace that is missing or being terminated
//	ServiceAccount              pods get an account, its image pull secrets, and the kube-api-access volume
//	TaintNodesByCondition       a new node is not ready until somebody says so
//	Priority                    the number of a pod's priority class
//	DefaultTolerationSeconds    pods stay five minutes on a node that is not ready or unreachable
//	NodeRestriction             a kubelet writes only its own node, lease, and the pods bound to it
//	CertificateApproval, CertificateSigning, CertificateSubjectRestriction
//	RBACEscalation              nobody grants what he does not have (part of the RBAC storage upstream)
//
// Each plugin is a small type that implements admission.MutationInterface (it may change the object) or
// admission.ValidationInterface of k8s.io/apiserver. They read listers, and the API where a lister may lag behind what a
// client has just been told. There are no goroutines of their own.
package admission
