package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Node allows kubelets what the pods bound to their nodes need. It is safe for concurrent use.
type Node struct {
	rules    []rbacv1.PolicyRule
	pods     cache.Indexer
	arrivals *arrivals
	client   kubernetes.Interface
}

var _ authorizer.UnconditionalAuthorizer = (*Node)(nil)

// byReference is the index of pods by refKey: one key for the pod itself and one for each object it refers to.
const byReference = "authz.node-reference"

// NodeUserPrefix and the group system:nodes make a user a node.
const NodeUserPrefix = "system:node:"

// NodeName returns the name of the node whose kubelet the user is.
func NodeName(u user.Info) (string, bool) {
	if u == nil || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		return "", false
	}
	name, ok := strings.CutPrefix(u.GetName(), NodeUserPrefix)
	return name, ok && name != ""
}

// NewNode reads pods through the factory's informer, which it indexes by what they refer to, and volumes, which kubelets ask
// for rarely, with the client.
func NewNode(factory informers.SharedInformerFactory, client kubernetes.Interface) (*Node, error) {
	pods := factory.Core().V1().Pods().Informer()
	n := &Node{
		rules:    nodeRules(),
		pods:     pods.GetIndexer(),
		arrivals: newArrivals(),
		client:   client,
	}
	err := addIndex(pods, byReference, func(obj any) ([]string, error) {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return nil, nil
		}
		return podReferences(pod), nil
	})
	_, handlerErr := pods.AddEventHandler(n.arrivals)
	return n, errors.Join(err, handlerErr)
}

// Authorize allows a node what its pods need, with upstream's reasons where it does not.
func (n *Node) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	node, ok := NodeName(a.GetUser())
	if !ok {
		return authorizer.DecisionNoOpinion, "", nil
	}
	reason := ""
	if a.IsResourceRequest() {
		switch a.GetAPIGroup() + "/" + a.GetResource() {
		case "/secrets", "/configmaps":
			reason = n.readReferenced(ctx, node, a)
		case "/persistentvolumeclaims":
			reason = n.claim(ctx, node, a)
		case "/persistentvolumes":
			reason = n.volume(ctx, node, a)
		case "/serviceaccounts":
			reason = n.token(ctx, node, a)
		case "/pods":
			reason = n.pod(ctx, node, a)
		case "/nodes":
			reason = ownObject(node, a, "node", "", "get list watch create update patch", "status")
		case "coordination.k8s.io/leases":
			reason = ownObject(node, a, "node lease", corev1.NamespaceNodeLease, "get create update patch delete")
		case "storage.k8s.io/csinodes":
			reason = ownObject(node, a, "CSINode", "", "get create update patch delete")
		case "storage.k8s.io/volumeattachments":
			reason = n.attachment(ctx, node, a)
		case "resource.k8s.io/resourceslices":
			reason = ownSlices(node, a)
		case "resource.k8s.io/resourceclaims":
			reason = n.get(ctx, node, a, "resourceclaims", "get")
		}
	}
	if reason != "" {
		return authorizer.DecisionNoOpinion, reason, nil
	}
	for i := range n.rules {
		if allows(&n.rules[i], a) {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func noRelation(node string) string {
	return fmt.Sprintf("no relationship found between node '%s' and this object", node)
}

// refers says whether a pod on the node refers to the object. A kubelet may hear of a pod a moment before the informer
// here does, so a miss is given that moment.
func (n *Node) refers(ctx context.Context, node, kind, namespace, name string) bool {
	key := refKey(node, kind, namespace, name)
	return n.arrivals.await(ctx, node, func() bool {
		keys, err := n.pods.IndexKeys(byReference, key)
		return err == nil && len(keys) > 0
	})
}

// get allows verbs on one named object without subresource that a pod of the node refers to.
func (n *Node) get(ctx context.Context, node string, a authorizer.Attributes, kind, verbs string) string {
	switch {
	case !slices.Contains(strings.Fields(verbs), a.GetVerb()):
		return "can only " + strings.ReplaceAll(verbs, " ", "/") + " individual resources of this type"
	case a.GetSubresource() != "":
		return "cannot read subresource"
	case a.GetName() == "":
		return "No Object name found"
	case !n.refers(ctx, node, kind, a.GetNamespace(), a.GetName()):
		return noRelation(node)
	}
	return ""
}

func (n *Node) readReferenced(ctx context.Context, node string, a authorizer.Attributes) string {
	if a.GetNamespace() == "" {
		return "can only read namespaced object of this type"
	}
	return n.get(ctx, node, a, a.GetResource(), "get list watch")
}

func (n *Node) claim(ctx context.Context, node string, a authorizer.Attributes) string {
	if a.GetSubresource() != "status" {
		return n.get(ctx, node, a, "persistentvolumeclaims", "get")
	}
	switch a.GetVerb() {
	case "get", "update", "patch":
		if n.refers(ctx, node, "persistentvolumeclaims", a.GetNamespace(), a.GetName()) {
			return ""
		}
		return noRelation(node)
	}
	return "can only get/update/patch this type"
}

// volume goes by the claim that the volume is bound to.
func (n *Node) volume(ctx context.Context, node string, a authorizer.Attributes) string {
	if a.GetVerb() != "get" || a.GetSubresource() != "" || a.GetName() == "" {
		return "can only get individual resources of this type"
	}
	pv, err := n.client.CoreV1().PersistentVolumes().Get(ctx, a.GetName(), metav1.GetOptions{})
	if err != nil || pv.Spec.ClaimRef == nil || !n.refers(ctx, node, "persistentvolumeclaims", pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name) {
		return noRelation(node)
	}
	return ""
}

func (n *Node) token(ctx context.Context, node string, a authorizer.Attributes) string {
	switch {
	case a.GetVerb() != "create" || a.GetSubresource() != "token":
		return "can only create tokens for individual service accounts"
	case a.GetNamespace() == "" || a.GetName() == "":
		return "can only create tokens for individual service accounts"
	case !n.refers(ctx, node, "serviceaccounts", a.GetNamespace(), a.GetName()):
		return noRelation(node)
	}
	return ""
}

// pod leaves writes to the rules and to NodeRestriction, which sees the objects.
func (n *Node) pod(ctx context.Context, node string, a authorizer.Attributes) string {
	if a.GetSubresource() != "" {
		return ""
	}
	switch a.GetVerb() {
	case "get":
		if !n.refers(ctx, node, "pods", a.GetNamespace(), a.GetName()) {
			return noRelation(node)
		}
	case "list", "watch":
		if selects(a, "spec.nodeName", node) {
			return ""
		}
		if a.GetName() != "" && n.refers(ctx, node, "pods", a.GetNamespace(), a.GetName()) {
			return ""
		}
		return "can only list/watch pods with spec.nodeName field selector"
	}
	return ""
}

func (n *Node) attachment(ctx context.Context, node string, a authorizer.Attributes) string {
	if a.GetVerb() != "get" || a.GetName() == "" {
		return "can only get individual resources of this type"
	}
	va, err := n.client.StorageV1().VolumeAttachments().Get(ctx, a.GetName(), metav1.GetOptions{})
	if err != nil || va.Spec.NodeName != node {
		return noRelation(node)
	}
	return ""
}

// ownObject allows verbs on the object that has the node's name. A create without a name in the URL passes: NodeRestriction
// sees the object.
func ownObject(node string, a authorizer.Attributes, what, namespace, verbs string, subresources ...string) string {
	switch {
	case !slices.Contains(strings.Fields(verbs), a.GetVerb()):
		return "can only " + strings.ReplaceAll(verbs, " ", ", ") + " a " + what
	case a.GetSubresource() != "" && !slices.Contains(subresources, a.GetSubresource()):
		return "cannot authorize subresource of " + what
	case namespace != a.GetNamespace():
		return fmt.Sprintf("can only access leases in the %q system namespace", namespace)
	case a.GetVerb() == "create" && a.GetName() == "":
		return ""
	case a.GetName() != node:
		return fmt.Sprintf("node '%s' cannot read '%s', only its own %s object", node, a.GetName(), what)
	}
	return ""
}

func ownSlices(node string, a authorizer.Attributes) string {
	switch a.GetVerb() {
	case "list", "watch", "deletecollection":
		if !selects(a, "spec.nodeName", node) {
			return "can only list/watch/deletecollection resourceslices with nodeName field selector"
		}
	}
	return ""
}

// selects says whether the field selector demands that the field has the value.
func selects(a authorizer.Attributes, field, value string) bool {
	requirements, err := a.GetFieldSelector()
	return err == nil && slices.ContainsFunc(requirements, func(r fields.Requirement) bool {
		return r.Field == field && r.Value == value && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals)
	})
}
