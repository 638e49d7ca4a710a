package endpointslice

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/controller/podstate"
)

// maxMirrored is how many addresses of one subset are mirrored: the default of kube-controller-manager's
// --mirroring-max-endpoints-per-subset.
const maxMirrored = 1000

// leaderAnnotation marks Endpoints that were used as a lock.
const leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"

// mirrored says whether the slices of a Service come from its Endpoints: hand-written ones, for a Service without selector.
func mirrored(svc *corev1.Service, ep *corev1.Endpoints) bool {
	if svc == nil || ep == nil || len(svc.Spec.Selector) > 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return false
	}
	_, lock := ep.Annotations[leaderAnnotation]
	return !lock && ep.Labels[discoveryv1.LabelSkipMirror] != "true" && ep.DeletionTimestamp == nil
}

func (c *Controller) mirror(ctx context.Context, key cache.ObjectName) error {
	existing, err := c.owned(managedByMirroring, key)
	if err != nil {
		return err
	}
	svc, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		svc = nil
	} else if err != nil {
		return err
	}
	ep, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		ep = nil
	} else if err != nil {
		return err
	}
	owner := &metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}
	if !mirrored(svc, ep) {
		return c.apply(ctx, managedByMirroring, changes{delete: existing}, owner)
	}
	return c.apply(ctx, managedByMirroring, plan(mirrorTemplate(ep), mirroredGroups(ep), existing), owner)
}

func mirrorTemplate(ep *corev1.Endpoints) *template {
	set := maps.Clone(ep.Labels)
	if set == nil {
		set = map[string]string{}
	}
	set[discoveryv1.LabelServiceName] = ep.Name
	set[discoveryv1.LabelManagedBy] = managedByMirroring
	notes := map[string]string{}
	for k, v := range ep.Annotations {
		if k != corev1.EndpointsLastChangeTriggerTime && k != corev1.LastAppliedConfigAnnotation {
			notes[k] = v
		}
	}
	return &template{
		namespace: ep.Namespace, name: ep.Name, labels: set, annotations: notes,
		owner: *metav1.NewControllerRef(ep, corev1.SchemeGroupVersion.WithKind("Endpoints")),
	}
}

// mirroredGroups turns subsets into endpoints. Endpoints cannot say terminating; not ready means neither ready nor serving.
func mirroredGroups(ep *corev1.Endpoints) map[discoveryv1.AddressType][]group {
	out := map[discoveryv1.AddressType][]group{}
	byKey := map[string]int{}
	for i := range ep.Subsets {
		sub := &ep.Subsets[i]
		ports := []discoveryv1.EndpointPort{}
		for j := range sub.Ports {
			p := &sub.Ports[j]
			ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &p.Port, AppProtocol: p.AppProtocol})
		}
		left := maxMirrored
		add := func(addresses []corev1.EndpointAddress, ready bool) {
			for _, a := range addresses {
				if left == 0 {
					return
				}
				left--
				family := addressType(podstate.Family(a.IP))
				k := string(family) + "/" + portsKey(ports)
				at, ok := byKey[k]
				if !ok {
					at = len(out[family])
					byKey[k] = at
					out[family] = append(out[family], group{ports: ports})
				}
				out[family][at].endpoints = append(out[family][at].endpoints, mirroredEndpoint(a, ready))
			}
		}
		add(sub.Addresses, true)
		add(sub.NotReadyAddresses, false)
	}
	for _, groups := range out {
		for _, g := range groups {
			slices.SortStableFunc(g.endpoints, func(a, b discoveryv1.Endpoint) int { return strings.Compare(endpointKey(&a), endpointKey(&b)) })
		}
	}
	return out
}

func mirroredEndpoint(a corev1.EndpointAddress, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses:  []string{a.IP},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		TargetRef:  a.TargetRef,
		NodeName:   a.NodeName,
	}
	if a.Hostname != "" {
		e.Hostname = &a.Hostname
	}
	return e
}
