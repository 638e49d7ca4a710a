package core

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/mini-k8s/mini/store"
)

const (
	repairInterval = 10 * time.Minute
	repairSoon     = 2 * time.Minute
	// leakAge is how old a claim without a Service must be before it counts as a leak: a younger one may belong to a
	// create that another server has not finished.
	leakAge = time.Minute
	// leakRounds is the same for node ports, whose claims have no age: rounds of repair that must have seen the leak.
	leakRounds = 2
)

// Run repairs once at start, soon after (claims of a server that has just died are still too young at the start) and
// then at long intervals, until ctx ends.
func (a *Allocators) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := a.Repair(ctx); err != nil && ctx.Err() == nil {
			a.warn("cluster IPs and node ports could not be checked for leaks; will try again", "err", err)
		}
		if round == 0 {
			timer.Reset(repairSoon)
		} else {
			timer.Reset(repairInterval)
		}
	}
}

// Repair makes claims agree with Services: every address and node port that a Service holds is claimed, and claims that
// no Service holds are given back once they are certainly not part of a write under way.
func (a *Allocators) Repair(ctx context.Context) error {
	list, err := a.services().List(ctx, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing services: %w", err)
	}
	services := make([]*corev1.Service, len(list.Items))
	for i, item := range list.Items {
		services[i] = item.Object.(*corev1.Service)
	}
	return errors.Join(a.repairAddresses(ctx, services), a.repairPorts(ctx, services))
}

func (a *Allocators) repairAddresses(ctx context.Context, services []*corev1.Service) error {
	if len(a.deps.ServiceCIDRs) == 0 {
		return nil
	}
	ranges, err := a.serviceRanges(ctx, true)
	if err != nil {
		return err
	}
	claims, err := a.addresses().List(ctx, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing ipaddresses: %w", err)
	}
	claimed := make(map[string]*networkingv1.IPAddress, len(claims.Items))
	for _, item := range claims.Items {
		ip := item.Object.(*networkingv1.IPAddress)
		claimed[ip.Name] = ip
	}
	var errs []error
	held := sets.New[string]()
	for _, s := range services {
		for ip := range heldAddresses(s) {
			if held.Has(ip) {
				a.warn("two services hold one cluster IP; recreate one of them", "ip", ip, "service", s.Namespace+"/"+s.Name)
			}
			held.Insert(ip)
			addr, err := netip.ParseAddr(ip)
			if claimed[ip] != nil || err != nil {
				continue
			}
			if !holds(ranges, addr, true) {
				a.warn("a service's cluster IP is in no service range; recreate it, or add a ServiceCIDR that has it", "ip", ip, "service", s.Namespace+"/"+s.Name)
				continue
			}
			if _, err := a.addresses().Create(ctx, ip, ipAddress(s, addr)); err != nil && !errors.Is(err, store.ErrExists) {
				errs = append(errs, fmt.Errorf("claiming %s for service %s/%s: %w", ip, s.Namespace, s.Name, err))
			}
		}
	}
	for name, ip := range claimed {
		if held.Has(name) || ip.Labels[networkingv1.LabelManagedBy] != managedByAllocator || time.Since(ip.CreationTimestamp.Time) < leakAge {
			continue
		}
		if err := a.releaseLeak(ctx, ip); err != nil {
			errs = append(errs, fmt.Errorf("releasing leaked %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// releaseLeak deletes a claim that no service held when services were listed; it looks once more, at the service itself.
func (a *Allocators) releaseLeak(ctx context.Context, ip *networkingv1.IPAddress) error {
	if ref := ip.Spec.ParentRef; ref != nil {
		item, err := a.services().Get(ctx, ref.Namespace+"/"+ref.Name, "")
		if err == nil && heldAddresses(item.Object.(*corev1.Service)).Has(ip.Name) {
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	_, err := a.addresses().Mutate(ctx, ip.Name, func(current *store.Item) (store.Change, error) {
		return store.Change{Delete: current != nil && current.Object.GetUID() == ip.UID}, nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

func (a *Allocators) repairPorts(ctx context.Context, services []*corev1.Service) error {
	held := sets.New[int32]()
	for _, s := range services {
		for port := range heldPorts(s) {
			if a.deps.NodePorts.Contains(port) {
				held.Insert(port)
			} else {
				a.warn("a service's node port is outside the node port range; recreate it", "port", port, "service", s.Namespace+"/"+s.Name)
			}
		}
	}
	if a.deps.NodePorts.From == 0 {
		return nil
	}
	var rounds map[int32]int
	_, err := a.ranges().Mutate(ctx, nodePortsKey, func(current *store.Item) (store.Change, error) {
		var r *corev1.RangeAllocation
		if current != nil {
			r = current.Object.(*corev1.RangeAllocation)
		}
		m := decodePorts(r, a.deps.NodePorts)
		rounds = map[int32]int{}
		for port := m.ports.From; port <= m.ports.To; port++ {
			switch {
			case held.Has(port):
				m.set(port, 1)
			case m.has(port):
				if rounds[port] = a.leaks[port] + 1; rounds[port] >= leakRounds {
					m.set(port, 0)
					delete(rounds, port)
				}
			}
		}
		next := m.encode()
		if r != nil {
			next.ObjectMeta = *r.ObjectMeta.DeepCopy()
			next.ResourceVersion = ""
		}
		return store.Change{Put: next}, nil
	})
	if err != nil {
		return fmt.Errorf("repairing node ports: %w", err)
	}
	a.leaks = rounds
	return nil
}
