package core

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// cleanupTimeout bounds giving things back after a write whose own context may be over.
const cleanupTimeout = 10 * time.Second

// Allocators hand out cluster addresses and node ports. What is taken is recorded in etcd the way an upstream apiserver
// records it, so that several servers, of either kind, never give one thing to two Services:
//
//   - an address is an IPAddress object named after it; creating it is the claim (KEP-1880). It comes from the ranges of
//     deps or from those of a ServiceCIDR;
//   - node ports are bits in the RangeAllocation /registry/ranges/servicenodeports.
//
// A crash between claim and write leaves a claim without a Service; Run finds those and gives them back.
type Allocators struct {
	deps  registry.Deps
	leaks map[int32]int // node ports without a Service, by the rounds of repair that saw them
}

// NewAllocators prepares the allocators of deps' ranges; it does no I/O.
func NewAllocators(deps registry.Deps) *Allocators {
	return &Allocators{deps: deps, leaks: map[int32]int{}}
}

func (a *Allocators) addresses() store.Collection {
	return a.deps.Collection("ipaddresses", networkingv1.SchemeGroupVersion.WithKind("IPAddress"))
}

func (a *Allocators) ranges() store.Collection {
	return a.deps.Collection("ranges", corev1.SchemeGroupVersion.WithKind("RangeAllocation"))
}

func (a *Allocators) services() store.Collection {
	return a.deps.Collection("services/specs", corev1.SchemeGroupVersion.WithKind("Service"))
}

// heldAddresses are the cluster addresses a service owns.
func heldAddresses(s *corev1.Service) sets.Set[string] {
	held := sets.New[string]()
	if s == nil || !needsClusterIP(s) || headless(s) {
		return held
	}
	for _, ip := range s.Spec.ClusterIPs {
		if addr, err := netip.ParseAddr(ip); err == nil {
			held.Insert(addr.String())
		}
	}
	if len(s.Spec.ClusterIPs) == 0 {
		if addr, err := netip.ParseAddr(s.Spec.ClusterIP); err == nil {
			held.Insert(addr.String())
		}
	}
	return held
}

// heldPorts are the node ports a service owns.
func heldPorts(s *corev1.Service) sets.Set[int32] {
	held := sets.New[int32]()
	if s == nil || (s.Spec.Type != corev1.ServiceTypeNodePort && s.Spec.Type != corev1.ServiceTypeLoadBalancer) {
		return held
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			held.Insert(p.NodePort)
		}
	}
	if s.Spec.HealthCheckNodePort != 0 {
		held.Insert(s.Spec.HealthCheckNodePort)
	}
	return held
}

// allocateService is the Allocate hook of Services.
func (a *Allocators) allocateService(ctx context.Context, object, oldObject store.Object, dryRun bool) (func(ok bool), error) {
	s, _ := object.(*corev1.Service)
	old, _ := oldObject.(*corev1.Service)
	hadAddresses, hadPorts := heldAddresses(old), heldPorts(old)
	var tookAddresses sets.Set[string]
	var tookPorts sets.Set[int32]
	if s != nil {
		var err error
		if tookAddresses, err = a.takeAddresses(ctx, s, hadAddresses, dryRun); err == nil {
			if tookPorts, err = a.takePorts(ctx, s, hadPorts, dryRun); err != nil && !dryRun {
				a.release(ctx, s, tookAddresses, nil)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if dryRun {
		return nil, nil
	}
	return func(ok bool) {
		if ok {
			a.release(ctx, old, hadAddresses.Difference(heldAddresses(s)), hadPorts.Difference(heldPorts(s)))
		} else {
			a.release(ctx, s, tookAddresses, tookPorts)
		}
	}, nil
}

// release gives claims back. What cannot be given back now is a leak that repair finds later.
func (a *Allocators) release(ctx context.Context, owner *corev1.Service, addresses sets.Set[string], ports sets.Set[int32]) {
	if len(addresses) == 0 && len(ports) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	for ip := range addresses {
		if err := a.releaseAddress(ctx, ip, owner); err != nil {
			a.warn("a cluster IP could not be released; repair will", "service", owner.Namespace+"/"+owner.Name, "ip", ip, "err", err)
		}
	}
	if len(ports) > 0 {
		if err := a.releasePorts(ctx, ports); err != nil {
			a.warn("node ports could not be released; repair will", "service", owner.Namespace+"/"+owner.Name, "ports", sets.List(ports), "err", err)
		}
	}
}

func (a *Allocators) warn(msg string, args ...any) {
	if a.deps.Logger != nil {
		a.deps.Logger.Warn(msg, args...)
	}
}

func invalidService(s *corev1.Service, err *field.Error) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, field.ErrorList{err})
}

// takeAddresses claims what s asks for by address, and any address of each family it asks for without one.
func (a *Allocators) takeAddresses(ctx context.Context, s *corev1.Service, had sets.Set[string], dryRun bool) (took sets.Set[string], err error) {
	took = sets.New[string]()
	if !needsClusterIP(s) || headless(s) {
		return took, nil
	}
	defer func() {
		if err != nil && !dryRun {
			a.release(ctx, s, took, nil)
		}
	}()
	path := field.NewPath("spec", "clusterIPs")
	var ips []string
	for i, family := range s.Spec.IPFamilies {
		if i < len(s.Spec.ClusterIPs) {
			addr, parseErr := netip.ParseAddr(s.Spec.ClusterIPs[i])
			if parseErr != nil {
				return took, invalidService(s, field.Invalid(path.Index(i), s.Spec.ClusterIPs[i], parseErr.Error()))
			}
			ips = append(ips, s.Spec.ClusterIPs[i])
			if had.Has(addr.String()) {
				continue
			}
			if problem, err := a.claim(ctx, s, addr, dryRun); err != nil {
				return took, err
			} else if problem != "" {
				return took, invalidService(s, field.Invalid(path, s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %s", addr, problem)))
			}
			took.Insert(addr.String())
			continue
		}
		if !slices.ContainsFunc(a.deps.ServiceCIDRs, func(p netip.Prefix) bool { return familyOf(p.Addr()) == family }) {
			return took, invalidService(s, field.Invalid(field.NewPath("spec", "ipFamilies").Index(i), family, "not configured on this cluster"))
		}
		addr, err := a.claimAny(ctx, s, family, dryRun)
		if err != nil {
			return took, err
		}
		took.Insert(addr.String())
		ips = append(ips, addr.String())
	}
	s.Spec.ClusterIPs = ips
	s.Spec.ClusterIP = ""
	if len(ips) > 0 {
		s.Spec.ClusterIP = ips[0]
	}
	return took, nil
}
