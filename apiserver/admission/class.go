package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
)

const (
	defaultStorageAnnotation     = "storageclass.kubernetes.io/is-default-class"
	defaultStorageBetaAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
	ingressClassAnnotation       = "kubernetes.io/ingress.class"
)

// newest is the default class that was made last, of two of the same second the one whose name comes first; the zero T
// where none is a default.
func newest[T metav1.Object](classes []T, isDefault func(T) bool) (found T, ok bool) {
	for _, class := range classes {
		if !isDefault(class) {
			continue
		}
		made, best := class.GetCreationTimestamp(), metav1.Time{}
		if ok {
			best = found.GetCreationTimestamp()
		}
		if !ok || best.Before(&made) || best.Equal(&made) && class.GetName() < found.GetName() {
			found, ok = class, true
		}
	}
	return found, ok
}

// defaultStorageClass gives claims that name no class the default one. The empty name is a name: it asks for none.
type defaultStorageClass struct {
	classes storagelisters.StorageClassLister
}

var _ admission.MutationInterface = (*defaultStorageClass)(nil)

func (*defaultStorageClass) Handles(op admission.Operation) bool { return creates(op) }

func (d *defaultStorageClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok || !plain(a, claimResource) || claim.Spec.StorageClassName != nil {
		return nil
	}
	if _, named := claim.Annotations[corev1.BetaStorageClassAnnotation]; named {
		return nil
	}
	classes, err := d.classes.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	class, ok := newest(classes, func(c *storagev1.StorageClass) bool {
		return c.Annotations[defaultStorageAnnotation] == "true" || c.Annotations[defaultStorageBetaAnnotation] == "true"
	})
	if ok {
		claim.Spec.StorageClassName = &class.Name
	}
	return nil
}

// claimResize lets claims grow only if they are bound and their class says so.
type claimResize struct {
	classes storagelisters.StorageClassLister
}

var _ admission.ValidationInterface = (*claimResize)(nil)

func (*claimResize) Handles(op admission.Operation) bool { return op == admission.Update }

func (c *claimResize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, was := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !was || !plain(a, claimResource) {
		return nil
	}
	if claim.Spec.Resources.Requests.Storage().Cmp(*old.Spec.Resources.Requests.Storage()) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return admission.NewForbidden(a, errors.New("only bound persistent volume claims can be expanded"))
	}
	name := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if name == "" && claim.Spec.StorageClassName != nil {
		name = *claim.Spec.StorageClassName
	}
	class, err := c.classes.Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return admission.NewForbidden(a, err)
	}
	if err != nil || class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return admission.NewForbidden(a, errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
	}
	return nil
}

// defaultIngressClass gives Ingresses that name no class the default one.
type defaultIngressClass struct {
	classes networkinglisters.IngressClassLister
}

var _ admission.MutationInterface = (*defaultIngressClass)(nil)

func (*defaultIngressClass) Handles(op admission.Operation) bool { return creates(op) }

func (d *defaultIngressClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	ingress, ok := a.GetObject().(*networkingv1.Ingress)
	if !ok || a.GetSubresource() != "" || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if _, named := ingress.Annotations[ingressClassAnnotation]; named {
		return nil
	}
	classes, err := d.classes.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("error retrieving default IngressClass: %w", err))
	}
	class, ok := newest(classes, func(c *networkingv1.IngressClass) bool {
		return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	})
	if ok {
		ingress.Spec.IngressClassName = &class.Name
	}
	return nil
}
