package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/mini-k8s/mini/apiserver/authz"
	"github.com/mini-k8s/mini/internal/pki"
)

// nodeRestriction holds the writes of a kubelet to its own objects: the authorizer saw names, this plugin sees contents.
type nodeRestriction struct {
	client kubernetes.Interface
	pods   corelisters.PodLister
}

var _ admission.ValidationInterface = (*nodeRestriction)(nil)

func (*nodeRestriction) Handles(op admission.Operation) bool {
	return writes(op) || op == admission.Delete
}

func (n *nodeRestriction) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := authz.NodeName(a.GetUserInfo())
	if !ok {
		return nil
	}
	var err error
	switch a.GetResource().GroupResource() {
	case podResource:
		err = n.pod(ctx, node, a)
	case nodeResource:
		err = restrictNode(node, a)
	case corev1.Resource("serviceaccounts"):
		err = n.token(ctx, node, a)
	case coordinationv1.Resource("leases"):
		err = restrictLease(node, a)
	case csrResource:
		err = restrictRequest(a)
	case schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}:
		if name := objectName(a); name != node {
			err = fmt.Errorf("can only access CSINode with the same name as the requesting node")
		}
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	return nil
}

func objectName(a admission.Attributes) string {
	if obj, ok := a.GetObject().(metav1.Object); ok && a.GetOperation() == admission.Create {
		return obj.GetName()
	}
	return a.GetName()
}

func (n *nodeRestriction) pod(ctx context.Context, node string, a admission.Attributes) error {
	pod, _ := a.GetObject().(*corev1.Pod)
	old, _ := a.GetOldObject().(*corev1.Pod)
	switch {
	case a.GetSubresource() == "" && a.GetOperation() == admission.Create && pod != nil:
		return restrictMirror(node, pod)
	case a.GetSubresource() == "" && a.GetOperation() == admission.Delete:
		if old == nil || old.Spec.NodeName != node {
			return fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node)
		}
		return nil
	case a.GetSubresource() == "status" && a.GetOperation() == admission.Update && old != nil && pod != nil:
		if old.Spec.NodeName != node {
			return fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node)
		}
		if !equality.Semantic.DeepEqual(old.Labels, pod.Labels) {
			return fmt.Errorf("node %q cannot update labels through pod status", node)
		}
		return nil
	case a.GetSubresource() == "eviction" && a.GetOperation() == admission.Create:
		name := a.GetName()
		if eviction, ok := a.GetObject().(*policyv1.Eviction); ok && name == "" {
			name = eviction.Name
		}
		evicted, err := n.getPod(ctx, a.GetNamespace(), name, "")
		if err != nil {
			return err
		}
		if evicted.Spec.NodeName != node {
			return fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node)
		}
		return nil
	}
	return fmt.Errorf("unexpected operation %q on pods/%s, node user %q", a.GetOperation(), a.GetSubresource(), a.GetUserInfo().GetName())
}

// restrictMirror: a node makes pods only to show what it runs of its own accord, and those ask the API for nothing.
func restrictMirror(node string, pod *corev1.Pod) error {
	if !isMirror(pod) {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node)
	}
	if len(pod.OwnerReferences) != 1 || pod.OwnerReferences[0].APIVersion != "v1" || pod.OwnerReferences[0].Kind != "Node" || pod.OwnerReferences[0].Name != node {
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	}
	if pod.Spec.ServiceAccountName != "" {
		return fmt.Errorf("node %q can not create pods that reference a service account", node)
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.Secret != nil:
			return fmt.Errorf("node %q can not create pods that reference secrets", node)
		case v.ConfigMap != nil:
			return fmt.Errorf("node %q can not create pods that reference configmaps", node)
		case v.PersistentVolumeClaim != nil:
			return fmt.Errorf("node %q can not create pods that reference persistentvolumeclaims", node)
		case v.Projected != nil:
			return fmt.Errorf("node %q can not create pods that reference projected volumes", node)
		}
	}
	return nil
}

func restrictNode(node string, a admission.Attributes) error {
	if name := objectName(a); name != node {
		return fmt.Errorf("node %q is not allowed to modify node %q", node, name)
	}
	object, _ := a.GetObject().(*corev1.Node)
	old, _ := a.GetOldObject().(*corev1.Node)
	if object == nil {
		return nil
	}
	var had map[string]string
	if old != nil {
		had = old.Labels
	}
	if forbidden := forbiddenLabels(had, object.Labels); len(forbidden) > 0 {
		verb := "set"
		if old != nil {
			verb = "modify"
		}
		return fmt.Errorf("is not allowed to %s the following labels: %s", verb, strings.Join(forbidden, ", "))
	}
	if old == nil {
		return nil
	}
	if !equality.Semantic.DeepEqual(object.Spec.Taints, old.Spec.Taints) {
		return fmt.Errorf("node %q is not allowed to modify taints", node)
	}
	if !equality.Semantic.DeepEqual(object.OwnerReferences, old.OwnerReferences) {
		return fmt.Errorf("node %q is not allowed to modify ownerReferences", node)
	}
	return nil
}

// nodeLabels are those of kubernetes.io and k8s.io that kubelets may set (staging/src/k8s.io/kubelet upstream).
var nodeLabels = map[string]bool{
	corev1.LabelHostname: true, corev1.LabelTopologyZone: true, corev1.LabelTopologyRegion: true,
	corev1.LabelFailureDomainBetaZone: true, corev1.LabelFailureDomainBetaRegion: true,
	corev1.LabelInstanceType: true, corev1.LabelInstanceTypeStable: true,
	corev1.LabelOSStable: true, corev1.LabelArchStable: true, corev1.LabelWindowsBuild: true,
	"beta.kubernetes.io/os": true, "beta.kubernetes.io/arch": true,
}

// forbiddenLabels are the labels that differ and that a node may not touch: it could make itself a target for pods that
// are meant for other nodes.
func forbiddenLabels(old, labels map[string]string) []string {
	differs := map[string]bool{}
	for k, v := range labels {
		if have, ok := old[k]; !ok || have != v {
			differs[k] = true
		}
	}
	for k := range old {
		if _, ok := labels[k]; !ok {
			differs[k] = true
		}
	}
	for k := range differs {
		domain, _, found := strings.Cut(k, "/")
		if !found || !reserved(domain) || nodeLabels[k] {
			delete(differs, k)
		}
	}
	return slices.Sorted(maps.Keys(differs))
}

// reserved: all of kubernetes.io and k8s.io but what kubelets and nodes have of their own.
func reserved(domain string) bool {
	in := func(parent string) bool { return domain == parent || strings.HasSuffix(domain, "."+parent) }
	if in("kubelet.kubernetes.io") || in("node.kubernetes.io") {
		return false
	}
	return in("kubernetes.io") || in("k8s.io")
}

func (n *nodeRestriction) token(ctx context.Context, node string, a admission.Attributes) error {
	request, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if a.GetSubresource() != "token" || !ok {
		return nil // the authorizer has allowed no more than that
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return fmt.Errorf("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return fmt.Errorf("node requested token with a pod binding without a uid")
	}
	pod, err := n.getPod(ctx, a.GetNamespace(), ref.Name, ref.UID)
	if err != nil {
		return err
	}
	if pod.UID != ref.UID {
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	}
	if pod.Spec.NodeName != node {
		return fmt.Errorf("node requested token bound to a pod scheduled on a different node")
	}
	return nil
}

func (n *nodeRestriction) getPod(ctx context.Context, namespace, name string, uid types.UID) (*corev1.Pod, error) {
	if pod, err := n.pods.Pods(namespace).Get(name); err == nil && (uid == "" || pod.UID == uid) && pod.Spec.NodeName != "" {
		return pod, nil
	}
	return n.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

func restrictLease(node string, a admission.Attributes) error {
	if a.GetNamespace() != corev1.NamespaceNodeLease {
		return fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	if objectName(a) != node {
		return fmt.Errorf("can only access node lease with the same name as the requesting node")
	}
	return nil
}

// restrictRequest: a node asks only for certificates of its own name.
func restrictRequest(a admission.Attributes) error {
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok || a.GetOperation() != admission.Create || a.GetSubresource() != "" {
		return nil
	}
	switch csr.Spec.SignerName {
	case certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName:
	default:
		return nil
	}
	request, err := pki.ParseRequest(csr.Spec.Request)
	if err != nil {
		return fmt.Errorf("unable to parse csr: %w", err)
	}
	if name := a.GetUserInfo().GetName(); request.Subject.CommonName != name {
		return fmt.Errorf("can only create a node CSR with CN=%s", name)
	}
	return nil
}
