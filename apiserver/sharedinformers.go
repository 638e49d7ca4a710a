package apiserver

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/admissionregistration"
	"k8s.io/client-go/informers/apiserverinternal"
	"k8s.io/client-go/informers/apps"
	"k8s.io/client-go/informers/autoscaling"
	"k8s.io/client-go/informers/batch"
	"k8s.io/client-go/informers/certificates"
	"k8s.io/client-go/informers/coordination"
	"k8s.io/client-go/informers/core"
	"k8s.io/client-go/informers/discovery"
	"k8s.io/client-go/informers/events"
	"k8s.io/client-go/informers/extensions"
	"k8s.io/client-go/informers/flowcontrol"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/informers/lifecycle"
	"k8s.io/client-go/informers/networking"
	"k8s.io/client-go/informers/node"
	"k8s.io/client-go/informers/policy"
	"k8s.io/client-go/informers/rbac"
	"k8s.io/client-go/informers/resource"
	"k8s.io/client-go/informers/scheduling"
	"k8s.io/client-go/informers/storage"
	"k8s.io/client-go/informers/storagemigration"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// sharedInformers is a factory whose informers read the server's caches. The groups' getters are here, although they say
// what those of the embedded factory say, because they ask their own factory for informers.
type sharedInformers struct {
	informers.SharedInformerFactory
	server *Server
}

// InformerFor implements informers.SharedInformerFactory; the embedded factory keeps the informer and runs it.
func (f *sharedInformers) InformerFor(obj runtime.Object, otherwise internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	return f.SharedInformerFactory.InformerFor(obj, func(client kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
		if informer, ok := f.server.newInformer(obj, resync); ok {
			return informer
		}
		return otherwise(client, resync)
	})
}

// ForResource implements informers.SharedInformerFactory.
func (f *sharedInformers) ForResource(resource schema.GroupVersionResource) (informers.GenericInformer, error) {
	return nil, fmt.Errorf("informers of the server's caches are had by type only, not as %s", resource)
}

func (f *sharedInformers) Admissionregistration() admissionregistration.Interface {
	return admissionregistration.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Internal() apiserverinternal.Interface {
	return apiserverinternal.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Apps() apps.Interface { return apps.New(f, metav1.NamespaceAll, nil) }
func (f *sharedInformers) Autoscaling() autoscaling.Interface {
	return autoscaling.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Batch() batch.Interface { return batch.New(f, metav1.NamespaceAll, nil) }
func (f *sharedInformers) Certificates() certificates.Interface {
	return certificates.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Coordination() coordination.Interface {
	return coordination.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Core() core.Interface { return core.New(f, metav1.NamespaceAll, nil) }
func (f *sharedInformers) Discovery() discovery.Interface {
	return discovery.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Events() events.Interface { return events.New(f, metav1.NamespaceAll, nil) }
func (f *sharedInformers) Extensions() extensions.Interface {
	return extensions.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Flowcontrol() flowcontrol.Interface {
	return flowcontrol.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Lifecycle() lifecycle.Interface {
	return lifecycle.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Networking() networking.Interface {
	return networking.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Node() node.Interface     { return node.New(f, metav1.NamespaceAll, nil) }
func (f *sharedInformers) Policy() policy.Interface { return policy.New(f, metav1.NamespaceAll, nil) }
func (f *sharedInformers) Rbac() rbac.Interface     { return rbac.New(f, metav1.NamespaceAll, nil) }
func (f *sharedInformers) Resource() resource.Interface {
	return resource.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Scheduling() scheduling.Interface {
	return scheduling.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Storage() storage.Interface {
	return storage.New(f, metav1.NamespaceAll, nil)
}
func (f *sharedInformers) Storagemigration() storagemigration.Interface {
	return storagemigration.New(f, metav1.NamespaceAll, nil)
}
