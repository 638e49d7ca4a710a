package admission

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// doubtful is how long after a namespace's deletion the lister is not believed when it says that the namespace is well.
const doubtful = 30 * time.Second

// namespaceLifecycle refuses to make things in namespaces that are missing or terminating, and to delete those that a
// cluster cannot be without.
type namespaceLifecycle struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister

	mu      sync.Mutex
	deleted map[string]time.Time // when the deletion of a namespace was asked for
}

var _ admission.MutationInterface = (*namespaceLifecycle)(nil)

func newNamespaceLifecycle(client kubernetes.Interface, factory informers.SharedInformerFactory) *namespaceLifecycle {
	return &namespaceLifecycle{client: client, namespaces: factory.Core().V1().Namespaces().Lister(), deleted: map[string]time.Time{}}
}

func (*namespaceLifecycle) Handles(op admission.Operation) bool {
	return writes(op) || op == admission.Delete
}

func (n *namespaceLifecycle) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	isNamespace := a.GetKind().GroupKind() == corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind()
	if a.GetOperation() == admission.Delete {
		if !isNamespace {
			return nil
		}
		switch a.GetName() {
		case metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic:
			return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), fmt.Errorf("this namespace may not be deleted"))
		}
		n.remember(a.GetName())
		return nil
	}
	if isNamespace || a.GetNamespace() == "" || isAccessReview(a.GetResource().GroupResource()) {
		return nil
	}
	namespace, err := n.get(ctx, a.GetNamespace())
	if err != nil {
		return err
	}
	if a.GetOperation() != admission.Create || namespace.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	forbidden := admission.NewForbidden(a, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.GetNamespace()))
	if status, ok := forbidden.(*apierrors.StatusError); ok {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
			Type:    corev1.NamespaceTerminatingCause,
			Message: fmt.Sprintf("namespace %s is being terminated", a.GetNamespace()),
			Field:   "metadata.namespace",
		})
	}
	return forbidden
}

// isAccessReview: asking what one may do makes nothing.
func isAccessReview(resource schema.GroupResource) bool {
	return resource == schema.GroupResource{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}
}

// get believes the lister when it knows the namespace, unless its deletion was asked for a moment ago.
func (n *namespaceLifecycle) get(ctx context.Context, name string) (*corev1.Namespace, error) {
	if namespace, err := n.namespaces.Get(name); err == nil && (namespace.Status.Phase == corev1.NamespaceTerminating || !n.doubts(name)) {
		return namespace, nil
	}
	namespace, err := n.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, apierrors.NewInternalError(err)
	}
	return namespace, err
}

func (n *namespaceLifecycle) remember(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for other, at := range n.deleted {
		if now.Sub(at) > doubtful {
			delete(n.deleted, other)
		}
	}
	n.deleted[name] = now
}

func (n *namespaceLifecycle) doubts(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, ok := n.deleted[name]
	return ok && time.Since(at) <= doubtful
}
