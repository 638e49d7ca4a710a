package serviceaccount

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// objects reads what tokens name: from listers, and from the API where those know nothing of it or know another one.
type objects struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
}

func newObjects(client kubernetes.Interface, factory informers.SharedInformerFactory) *objects {
	api := factory.Core().V1()
	return &objects{client: client, accounts: api.ServiceAccounts().Lister(), pods: api.Pods().Lister(), nodes: api.Nodes().Lister()}
}

// wanted says whether the listed object will do: it was found, with the UID if one is wanted.
func wanted(obj metav1.Object, err error, uid types.UID) bool {
	return err == nil && (uid == "" || obj.GetUID() == uid)
}

func (o *objects) account(ctx context.Context, namespace, name string, uid types.UID) (*corev1.ServiceAccount, error) {
	if obj, err := o.accounts.ServiceAccounts(namespace).Get(name); wanted(obj, err, uid) {
		return obj, nil
	}
	return o.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o *objects) pod(ctx context.Context, namespace, name string, uid types.UID) (*corev1.Pod, error) {
	if obj, err := o.pods.Pods(namespace).Get(name); wanted(obj, err, uid) {
		return obj, nil
	}
	return o.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o *objects) node(ctx context.Context, name string, uid types.UID) (*corev1.Node, error) {
	if obj, err := o.nodes.Get(name); wanted(obj, err, uid) {
		return obj, nil
	}
	return o.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}

// secret has no lister: a copy of all secrets would be held for the few tokens that are bound to one.
func (o *objects) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}
