package core

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// nodePortsKey is the RangeAllocation of node ports below /registry/ranges/.
const nodePortsKey = "servicenodeports"

var errFull = errors.New("range is full")

// portMap is the set of taken ports of a range as a RangeAllocation holds it: bit i of a big-endian number is the port
// at offset i.
type portMap struct {
	ports registry.PortRange
	taken *big.Int
}

// decodePorts reads a RangeAllocation. Ports recorded for another range (the flag was changed) keep their numbers; those
// outside ports are dropped, as nothing can be said about them any more.
func decodePorts(r *corev1.RangeAllocation, ports registry.PortRange) portMap {
	m := portMap{ports: ports, taken: new(big.Int)}
	if r == nil {
		return m
	}
	was := ports
	if n, err := fmt.Sscanf(r.Range, "%d-%d", &was.From, &was.To); n != 2 || err != nil || was == ports {
		m.taken.SetBytes(r.Data)
		return m
	}
	bits := new(big.Int).SetBytes(r.Data)
	for i := range bits.BitLen() {
		if port := was.From + int32(i); bits.Bit(i) == 1 && ports.Contains(port) {
			m.set(port, 1)
		}
	}
	return m
}

func (m portMap) encode() *corev1.RangeAllocation {
	r := &corev1.RangeAllocation{Range: fmt.Sprintf("%d-%d", m.ports.From, m.ports.To), Data: m.taken.Bytes()}
	r.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("RangeAllocation"))
	return r
}

func (m portMap) has(port int32) bool { return m.taken.Bit(int(port-m.ports.From)) == 1 }

func (m portMap) set(port int32, bit uint) { m.taken.SetBit(m.taken, int(port-m.ports.From), bit) }

// any takes some free port, from the upper part of the range first: the lower part is for those who name their port
// (KEP-3668).
func (m portMap) any() (int32, error) {
	size := int(m.ports.To-m.ports.From) + 1
	reserved := 0
	if size > 16 {
		reserved = min(max(16, size/32), 128)
	}
	try := func(from, n int) (int32, bool) {
		if n <= 0 {
			return 0, false
		}
		start := rand.IntN(n)
		for i := range n {
			if at := from + (start+i)%n; m.taken.Bit(at) == 0 {
				m.taken.SetBit(m.taken, at, 1)
				return m.ports.From + int32(at), true
			}
		}
		return 0, false
	}
	if port, ok := try(reserved, size-reserved); ok {
		return port, nil
	}
	if port, ok := try(0, reserved); ok {
		return port, nil
	}
	return 0, errFull
}

// takePorts claims the node ports s names and one for each port that needs one, all of them or none.
func (a *Allocators) takePorts(ctx context.Context, s *corev1.Service, had sets.Set[int32], dryRun bool) (sets.Set[int32], error) {
	took := sets.New[int32]()
	if s.Spec.Type != corev1.ServiceTypeNodePort && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return took, nil
	}
	needs := heldPorts(s).Difference(had).Len() > 0 || (needsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == 0)
	for i := range s.Spec.Ports {
		needs = needs || (needsNodePort(s) && s.Spec.Ports[i].NodePort == 0)
	}
	if !needs {
		return took, nil
	}
	var planned corev1.Service
	_, err := a.ranges().Mutate(ctx, nodePortsKey, func(current *store.Item) (store.Change, error) {
		var r *corev1.RangeAllocation
		if current != nil {
			r = current.Object.(*corev1.RangeAllocation)
		}
		ports := decodePorts(r, a.deps.NodePorts)
		planned = *s.DeepCopy()
		var err error
		if took, err = planPorts(&planned, had, ports); err != nil {
			return store.Change{}, err
		}
		if dryRun {
			return store.Change{}, errDryRun
		}
		next := ports.encode()
		if r != nil {
			next.ObjectMeta = *r.ObjectMeta.DeepCopy()
			next.ResourceVersion = ""
		}
		return store.Change{Put: next}, nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nil, err
	}
	s.Spec.Ports, s.Spec.HealthCheckNodePort = planned.Spec.Ports, planned.Spec.HealthCheckNodePort
	return took, nil
}

// planPorts writes node ports into s and their claims into free.
func planPorts(s *corev1.Service, had sets.Set[int32], free portMap) (took sets.Set[int32], err error) {
	took = sets.New[int32]()
	claim := func(port int32, path *field.Path) error {
		if had.Has(port) || took.Has(port) {
			return nil // its own already, or shared with its other protocol
		}
		if !free.ports.Contains(port) {
			return invalidService(s, field.Invalid(path, port, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", free.ports.From, free.ports.To)))
		}
		if free.has(port) {
			return invalidService(s, field.Invalid(path, port, "provided port is already allocated"))
		}
		free.set(port, 1)
		took.Insert(port)
		return nil
	}
	// Ports that differ only in their protocol share a node port.
	shared := map[int32]int32{}
	path := field.NewPath("spec", "ports")
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; p.NodePort != 0 {
			if err := claim(p.NodePort, path.Index(i).Child("nodePort")); err != nil {
				return nil, err
			}
			if _, ok := shared[p.Port]; !ok {
				shared[p.Port] = p.NodePort
			}
		}
	}
	used := sets.New[string]()
	id := func(p *corev1.ServicePort, nodePort int32) string { return fmt.Sprintf("%s/%d", p.Protocol, nodePort) }
	for i := range s.Spec.Ports {
		used.Insert(id(&s.Spec.Ports[i], s.Spec.Ports[i].NodePort))
	}
	take := func() (int32, error) {
		port, err := free.any()
		if err != nil {
			return 0, apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		took.Insert(port)
		return port, nil
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 || !needsNodePort(s) {
			continue
		}
		port, ok := shared[p.Port]
		if !ok || used.Has(id(p, port)) {
			if port, err = take(); err != nil {
				return nil, err
			}
			shared[p.Port] = port
		}
		p.NodePort = port
		used.Insert(id(p, port))
	}
	if needsHealthCheckPort(s) {
		if s.Spec.HealthCheckNodePort != 0 {
			return took, claim(s.Spec.HealthCheckNodePort, field.NewPath("spec", "healthCheckNodePort"))
		}
		if s.Spec.HealthCheckNodePort, err = take(); err != nil {
			return nil, err
		}
	}
	return took, nil
}

func (a *Allocators) releasePorts(ctx context.Context, ports sets.Set[int32]) error {
	_, err := a.ranges().Mutate(ctx, nodePortsKey, func(current *store.Item) (store.Change, error) {
		if current == nil {
			return store.Change{}, nil
		}
		r := current.Object.(*corev1.RangeAllocation)
		m := decodePorts(r, a.deps.NodePorts)
		for port := range ports {
			if m.ports.Contains(port) {
				m.set(port, 0)
			}
		}
		next := m.encode()
		next.ObjectMeta = *r.ObjectMeta.DeepCopy()
		next.ResourceVersion = ""
		return store.Change{Put: next}, nil
	})
	return err
}
