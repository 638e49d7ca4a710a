package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mini-k8s/mini/controller/bootstraptoken"
	"github.com/mini-k8s/mini/controller/certificates"
	"github.com/mini-k8s/mini/controller/deployment"
	"github.com/mini-k8s/mini/controller/disruption"
	"github.com/mini-k8s/mini/controller/endpoints"
	"github.com/mini-k8s/mini/controller/endpointslice"
	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/garbage"
	"github.com/mini-k8s/mini/controller/namespace"
	"github.com/mini-k8s/mini/controller/nodeipam"
	"github.com/mini-k8s/mini/controller/nodelifecycle"
	"github.com/mini-k8s/mini/controller/podgc"
	"github.com/mini-k8s/mini/controller/policystatus"
	"github.com/mini-k8s/mini/controller/replicaset"
	"github.com/mini-k8s/mini/controller/resource"
	"github.com/mini-k8s/mini/controller/resourcequota"
	"github.com/mini-k8s/mini/controller/rootca"
	"github.com/mini-k8s/mini/controller/serviceaccount"
	"github.com/mini-k8s/mini/controller/servicecidr"
	"github.com/mini-k8s/mini/controller/tainteviction"
	"github.com/mini-k8s/mini/controller/vacprotection"
	"github.com/mini-k8s/mini/controller/volume"
)

// Config is what the controllers need.
type Config struct {
	// Client acts. It must be allowed everything: the garbage collector and namespace deletion reach every resource.
	Client kubernetes.Interface
	// Metadata is of the same server: the collector and namespace deletion need no more of most objects.
	Metadata metadata.Interface
	// Informers are shared with the other components of the process. Run starts them; starting them elsewhere too does
	// no harm.
	Informers informers.SharedInformerFactory
	Logger    *slog.Logger

	// ClusterCIDR is the range that the nodes' podCIDRs are cut from, in blocks of NodeMaskSize bits; 0 means 24 for IPv4
	// and 64 for IPv6.
	ClusterCIDR  netip.Prefix
	NodeMaskSize int

	// NodeMonitorGracePeriod is how long a node may be silent before it counts as unreachable; 0 means 40 s.
	NodeMonitorGracePeriod time.Duration

	// RootCA is the PEM bundle that verifies the apiserver, published in every namespace.
	RootCA []byte
	// ServerURL is how nodes reach the server, for cluster-info in kube-public; empty leaves that ConfigMap alone.
	ServerURL string
	// Signer is the CA that signs client and kubelet certificates; pki.CA is one.
	Signer certificates.Signer
}

func (cfg *Config) complete() error {
	switch {
	case cfg.Client == nil || cfg.Metadata == nil || cfg.Informers == nil || cfg.Logger == nil:
		return errors.New("controllers: Client, Metadata, Informers and Logger are required")
	case len(cfg.RootCA) == 0 || cfg.Signer == nil:
		return errors.New("controllers: RootCA and Signer are required")
	case !cfg.ClusterCIDR.IsValid():
		return errors.New("controllers: ClusterCIDR is required")
	}
	if cfg.NodeMaskSize == 0 {
		cfg.NodeMaskSize = 24
		if cfg.ClusterCIDR.Addr().Is6() {
			cfg.NodeMaskSize = 64
		}
	}
	return nil
}

// runner is any controller.
type runner interface{ Run(context.Context) error }

// Run runs all controllers until ctx ends, then returns nil. The first that cannot go on ends all, with its error.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	feeds := &feed.Set{}
	runners, err := build(cfg, feeds, broadcaster)
	if err != nil {
		return err
	}
	if err := feeds.Start(); err != nil {
		return err
	}
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: cfg.Client.CoreV1().Events("")})
	cfg.Informers.StartWithContext(ctx)

	group, ctx := errgroup.WithContext(ctx)
	for name, r := range runners {
		group.Go(func() error {
			if err := r.Run(ctx); err != nil {
				return fmt.Errorf("%s controller: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// build makes every controller; each registers its handlers with feeds.
func build(cfg Config, feeds *feed.Set, broadcaster record.EventBroadcaster) (map[string]runner, error) {
	out := map[string]runner{}
	var errs []error
	add := func(name string, r runner, err error) {
		out[name] = r
		errs = append(errs, err)
	}
	// The component names are upstream's: kubectl describe shows them as the source of an event.
	events := func(component string) record.EventRecorder {
		return broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
	}
	logger := func(name string) *slog.Logger { return cfg.Logger.With("controller", name) }

	sa, err := serviceaccount.New(serviceaccount.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("serviceaccount"),
	})
	add("serviceaccount", sa, err)
	ca, err := rootca.New(rootca.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("rootca"), CA: cfg.RootCA,
	})
	add("rootca", ca, err)
	ipam, err := nodeipam.New(nodeipam.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("nodeipam"),
		Events: events("cidrAllocator"), ClusterCIDR: cfg.ClusterCIDR, BlockBits: cfg.NodeMaskSize,
	})
	add("nodeipam", ipam, err)
	ep, err := endpoints.New(endpoints.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("endpoints"),
	})
	add("endpoints", ep, err)
	eps, err := endpointslice.New(endpointslice.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("endpointslice"),
	})
	add("endpointslice", eps, err)
	csr, err := certificates.New(certificates.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("certificates"), Signer: cfg.Signer,
	})
	add("certificates", csr, err)
	policies, err := policystatus.New(policystatus.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("policystatus"),
	})
	add("policystatus", policies, err)
	rs, err := replicaset.New(replicaset.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("replicaset"), Events: events("replicaset-controller"),
	})
	add("replicaset", rs, err)
	rc, err := replicaset.NewForReplicationControllers(replicaset.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("replicationcontroller"), Events: events("replication-controller"),
	})
	add("replicationcontroller", rc, err)
	deploy, err := deployment.New(deployment.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("deployment"), Events: events("deployment-controller"),
	})
	add("deployment", deploy, err)
	pdb, err := disruption.New(disruption.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("disruption"), Events: events("controllermanager"),
	})
	add("disruption", pdb, err)
	vol, err := volume.New(volume.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("volume"), Events: events("persistentvolume-controller"),
	})
	add("volume", vol, err)
	ranges, err := servicecidr.New(servicecidr.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("servicecidr"),
	})
	add("servicecidr", ranges, err)
	vac, err := vacprotection.New(vacprotection.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("vacprotection"),
	})
	add("vacprotection", vac, err)
	life, err := nodelifecycle.New(nodelifecycle.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("nodelifecycle"), Events: events("node-controller"),
		Grace: cfg.NodeMonitorGracePeriod,
	})
	add("nodelifecycle", life, err)
	taint, err := tainteviction.New(tainteviction.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("tainteviction"), Events: events("taint-eviction-controller"),
	})
	add("tainteviction", taint, err)
	ns, err := namespace.New(namespace.Config{
		Client: cfg.Client, Metadata: cfg.Metadata, Informers: cfg.Informers, Feeds: feeds, Logger: logger("namespace"),
	})
	add("namespace", ns, err)
	quotas, err := resourcequota.New(resourcequota.Config{
		Client: cfg.Client, Metadata: cfg.Metadata, Informers: cfg.Informers, Feeds: feeds, Logger: logger("resourcequota"),
	})
	if err != nil {
		return nil, err
	}
	add("resourcequota", quotas, nil)
	gc, err := garbage.New(garbage.Config{
		Metadata: cfg.Metadata, Discovery: cfg.Client.Discovery(), Feeds: feeds, Logger: logger("garbage"), Shared: shared(cfg.Informers),
		Gone: quotas.Gone,
	})
	add("garbage", gc, err)
	tokens, err := bootstraptoken.New(bootstraptoken.Config{
		Client: cfg.Client, Feeds: feeds, Logger: logger("bootstraptoken"), CA: cfg.RootCA, ServerURL: cfg.ServerURL,
	})
	add("bootstraptoken", tokens, err)
	pods, err := podgc.New(podgc.Config{
		Client: cfg.Client, Informers: cfg.Informers, Feeds: feeds, Logger: logger("podgc"),
	})
	add("podgc", pods, err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// shared are the informers that the controllers above keep running, for the garbage collector to share.
func shared(f informers.SharedInformerFactory) []garbage.Shared {
	of := func(gv schema.GroupVersion, name, kind string, namespaced bool, informer cache.SharedIndexInformer) garbage.Shared {
		return garbage.Shared{Informer: informer, Resource: resource.Resource{GroupVersionResource: gv.WithResource(name), Kind: kind, Namespaced: namespaced}}
	}
	core, apps, rbac := f.Core().V1(), f.Apps().V1(), f.Rbac().V1()
	return []garbage.Shared{
		of(corev1.SchemeGroupVersion, "pods", "Pod", true, core.Pods().Informer()),
		of(corev1.SchemeGroupVersion, "services", "Service", true, core.Services().Informer()),
		of(corev1.SchemeGroupVersion, "endpoints", "Endpoints", true, core.Endpoints().Informer()),
		of(corev1.SchemeGroupVersion, "serviceaccounts", "ServiceAccount", true, core.ServiceAccounts().Informer()),
		of(corev1.SchemeGroupVersion, "resourcequotas", "ResourceQuota", true, core.ResourceQuotas().Informer()),
		of(corev1.SchemeGroupVersion, "limitranges", "LimitRange", true, core.LimitRanges().Informer()), // admission's
		of(corev1.SchemeGroupVersion, "nodes", "Node", false, core.Nodes().Informer()),
		of(corev1.SchemeGroupVersion, "namespaces", "Namespace", false, core.Namespaces().Informer()),
		of(corev1.SchemeGroupVersion, "replicationcontrollers", "ReplicationController", true, core.ReplicationControllers().Informer()),
		of(appsv1.SchemeGroupVersion, "replicasets", "ReplicaSet", true, apps.ReplicaSets().Informer()),
		of(appsv1.SchemeGroupVersion, "deployments", "Deployment", true, apps.Deployments().Informer()),
		of(appsv1.SchemeGroupVersion, "statefulsets", "StatefulSet", true, apps.StatefulSets().Informer()),
		of(corev1.SchemeGroupVersion, "persistentvolumes", "PersistentVolume", false, core.PersistentVolumes().Informer()),
		of(corev1.SchemeGroupVersion, "persistentvolumeclaims", "PersistentVolumeClaim", true, core.PersistentVolumeClaims().Informer()),
		of(policyv1.SchemeGroupVersion, "poddisruptionbudgets", "PodDisruptionBudget", true, f.Policy().V1().PodDisruptionBudgets().Informer()),
		of(storagev1.SchemeGroupVersion, "storageclasses", "StorageClass", false, f.Storage().V1().StorageClasses().Informer()),
		of(storagev1.SchemeGroupVersion, "volumeattributesclasses", "VolumeAttributesClass", false, f.Storage().V1().VolumeAttributesClasses().Informer()),
		of(discoveryv1.SchemeGroupVersion, "endpointslices", "EndpointSlice", true, f.Discovery().V1().EndpointSlices().Informer()),
		of(networkingv1.SchemeGroupVersion, "servicecidrs", "ServiceCIDR", false, f.Networking().V1().ServiceCIDRs().Informer()),
		of(networkingv1.SchemeGroupVersion, "ipaddresses", "IPAddress", false, f.Networking().V1().IPAddresses().Informer()),
		of(coordinationv1.SchemeGroupVersion, "leases", "Lease", true, f.Coordination().V1().Leases().Informer()),
		// The authorizer's, where it shares the factory.
		of(rbacv1.SchemeGroupVersion, "roles", "Role", true, rbac.Roles().Informer()),
		of(rbacv1.SchemeGroupVersion, "rolebindings", "RoleBinding", true, rbac.RoleBindings().Informer()),
		of(rbacv1.SchemeGroupVersion, "clusterroles", "ClusterRole", false, rbac.ClusterRoles().Informer()),
		of(rbacv1.SchemeGroupVersion, "clusterrolebindings", "ClusterRoleBinding", false, rbac.ClusterRoleBindings().Informer()),
		of(certificatesv1.SchemeGroupVersion, "certificatesigningrequests", "CertificateSigningRequest", false, f.Certificates().V1().CertificateSigningRequests().Informer()),
	}
}
