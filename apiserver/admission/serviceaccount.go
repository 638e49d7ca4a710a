package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

const (
	defaultAccount = "default"
	// accountPatience is how long the default account of a namespace that was just made is waited for.
	accountPatience = time.Second
	// accessVolume, accessPath and accessSeconds are the shape of the token volume; the number is what package
	// serviceaccount knows such tokens by.
	accessVolume  = "kube-api-access-"
	accessPath    = "/var/run/secrets/kubernetes.io/serviceaccount"
	accessSeconds = 3607
	rootCAMap     = "kube-root-ca.crt"
)

// serviceAccount gives pods their account, and what belongs to it.
type serviceAccount struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister

	mu    sync.Mutex
	added chan struct{} // closed when an account appears; nil while nobody waits
}

var (
	_ admission.MutationInterface   = (*serviceAccount)(nil)
	_ admission.ValidationInterface = (*serviceAccount)(nil)
)

func newServiceAccount(client kubernetes.Interface, factory informers.SharedInformerFactory) (*serviceAccount, error) {
	api := factory.Core().V1().ServiceAccounts()
	s := &serviceAccount{client: client, accounts: api.Lister()}
	_, err := api.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { s.wake() }})
	return s, err
}

func (*serviceAccount) Handles(op admission.Operation) bool { return creates(op) }

func (s *serviceAccount) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || !plain(a, podResource) || isMirror(pod) {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = pod.Spec.DeprecatedServiceAccount
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := s.account(ctx, a.GetNamespace(), pod.Spec.ServiceAccountName)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), pod.Spec.ServiceAccountName, err))
	}
	if mountsToken(pod, account) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		for _, secret := range account.ImagePullSecrets {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: secret.Name})
		}
	}
	return nil
}

// Validate holds mirror pods, which stand for files on a node, off what only the API can give.
func (s *serviceAccount) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || !plain(a, podResource) || !isMirror(pod) {
		return nil
	}
	if pod.Spec.ServiceAccountName != "" {
		return admission.NewForbidden(a, errors.New("a mirror pod may not reference service accounts"))
	}
	for i := range pod.Spec.Volumes {
		if p := pod.Spec.Volumes[i].Projected; p != nil {
			for _, source := range p.Sources {
				if source.ServiceAccountToken != nil {
					return admission.NewForbidden(a, errors.New("a mirror pod may not use ServiceAccountToken volume projections"))
				}
			}
		}
		if pod.Spec.Volumes[i].Secret != nil {
			return admission.NewForbidden(a, errors.New("a mirror pod may not reference secrets"))
		}
	}
	return nil
}

func isMirror(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror
}

// account finds the account; the default one may be on its way.
func (s *serviceAccount) account(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if account, err := s.accounts.ServiceAccounts(namespace).Get(name); err == nil {
		return account, nil
	}
	account, err := s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	if name != defaultAccount || !apierrors.IsNotFound(err) {
		return account, err
	}
	timer := time.NewTimer(accountPatience)
	defer timer.Stop()
	for {
		added := s.waitForAdd()
		if account, err := s.accounts.ServiceAccounts(namespace).Get(name); err == nil {
			return account, nil
		}
		select {
		case <-added:
		case <-timer.C:
			return s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (s *serviceAccount) waitForAdd() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.added == nil {
		s.added = make(chan struct{})
	}
	return s.added
}

func (s *serviceAccount) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.added != nil {
		close(s.added)
		s.added = nil
	}
}

// mountsToken: the pod's word counts over the account's, and yes over silence.
func mountsToken(pod *corev1.Pod, account *corev1.ServiceAccount) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

// mountToken mounts the token volume into each container that has nothing at its place, and adds the volume if any does.
func mountToken(pod *corev1.Pod) {
	name, exists := "", false
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if strings.HasPrefix(v.Name, accessVolume) && v.Projected != nil {
			name, exists = v.Name, true
			break
		}
	}
	if !exists {
		name = accessVolume + rand.String(5)
	}
	needed := false
	mount := func(containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			if mountsAt(c.VolumeMounts, accessPath) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: accessPath})
			needed = true
		}
	}
	mount(pod.Spec.InitContainers)
	mount(pod.Spec.Containers)
	if !needed || exists {
		return
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](accessSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}}})
}

func mountsAt(mounts []corev1.VolumeMount, path string) bool {
	for i := range mounts {
		if mounts[i].MountPath == path {
			return true
		}
	}
	return false
}
