// Package admission changes and refuses writes that are well-formed and authorized, before they are stored.
//
// New gives the chain of plugins in upstream's order (the names are upstream's, plugin/pkg/admission):
//
//	NamespaceLifecycle          nothing is made in a namespace that is missing or being terminated
//	LimitRanger                 containers get requests and limits, pods and claims are held to them
//	ServiceAccount              pods get an account, its image pull secrets, and the kube-api-access volume
//	NodeRestriction             a kubelet writes only its own node, lease, and the pods bound to it
//	TaintNodesByCondition       a new node is not ready until somebody says so
//	PodSecurity                 pods keep to the standard that their namespace's labels name
//	Priority                    the number of a pod's priority class
//	DefaultTolerationSeconds    pods stay five minutes on a node that is not ready or unreachable
//	DefaultStorageClass, DefaultIngressClass    what names no class gets the default one
//	PersistentVolumeClaimResize claims grow if they are bound and their class lets them
//	RuntimeClass                pods get the overhead and the nodes of their class
//	CertificateApproval, CertificateSigning, CertificateSubjectRestriction
//	RBACEscalation              nobody grants what he does not have (part of the RBAC storage upstream)
//	ResourceQuota               what is let in is charged to the namespace's quotas; always the last
//
// Each plugin is a small type that implements admission.MutationInterface (it may change the object) or
// admission.ValidationInterface of k8s.io/apiserver. They read listers, and the API where a lister may lag behind what a
// client has just been told. There are no goroutines of their own.
package admission
