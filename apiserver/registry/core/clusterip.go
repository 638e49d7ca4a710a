package core

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/mini-k8s/mini/store"
)

// Upstream's ipallocator marks its IPAddresses so; its repair deletes only those.
const managedByAllocator = "ipallocator.k8s.io"

// addressPool is the usable part of a service range: without the network address and, in IPv4, the broadcast address.
// Addresses for Services that do not ask for one come from above offset reserved first, so that the low ones stay free
// for those that do (KEP-3070).
type addressPool struct {
	cidr     netip.Prefix
	first    netip.Addr
	size     uint64
	reserved uint64
}

func newAddressPool(cidr netip.Prefix) addressPool {
	cidr = cidr.Masked()
	host := cidr.Addr().BitLen() - cidr.Bits()
	size := uint64(1) << min(host, 62)
	if cidr.Addr().Is4() && size > 1 {
		size-- // broadcast
	}
	p := addressPool{cidr: cidr, first: cidr.Addr().Next(), size: size - 1}
	if p.size > 16 {
		p.reserved = min(max(16, p.size/16), 256)
	}
	return p
}

// at is the address at an offset from the first usable one.
func (p *addressPool) at(offset uint64) netip.Addr {
	if p.first.Is4() {
		b := p.first.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(offset))
		return netip.AddrFrom4(b)
	}
	b := p.first.As16()
	low, carry := bits.Add64(binary.BigEndian.Uint64(b[8:]), offset, 0)
	high := binary.BigEndian.Uint64(b[:8]) + carry
	binary.BigEndian.PutUint64(b[:8], high)
	binary.BigEndian.PutUint64(b[8:], low)
	return netip.AddrFrom16(b)
}

// contains reports whether addr may be asked for: in the range and usable.
func (p *addressPool) contains(addr netip.Addr) bool {
	return p.cidr.Contains(addr) && p.size > 0 && !addr.Less(p.first) && !p.at(p.size-1).Less(addr)
}

// ipAddress is the object whose existence is the claim.
func ipAddress(s *corev1.Service, addr netip.Addr) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		TypeMeta: metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "IPAddress"},
		ObjectMeta: metav1.ObjectMeta{
			Name: addr.String(), UID: uuid.NewUUID(), CreationTimestamp: metav1.NewTime(time.Now().Truncate(time.Second)), Generation: 1,
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(familyOf(addr)),
				networkingv1.LabelManagedBy:       managedByAllocator,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: s.Namespace, Name: s.Name,
		}},
	}
}

// claim takes one given address; problem says, in upstream's words, why it cannot be had.
func (a *Allocators) claim(ctx context.Context, s *corev1.Service, addr netip.Addr, dryRun bool) (problem string, err error) {
	if open, err := a.inRange(ctx, addr); err != nil {
		return "", err
	} else if !open {
		return "the provided network does not match the current range", nil
	}
	if dryRun {
		_, err = a.addresses().Get(ctx, addr.String(), "")
		if errors.Is(err, store.ErrNotFound) {
			return "", nil
		}
		if err == nil {
			err = store.ErrExists
		}
	} else {
		_, err = a.addresses().Create(ctx, addr.String(), ipAddress(s, addr))
	}
	if errors.Is(err, store.ErrExists) {
		return "provided IP is already allocated", nil
	}
	return "", err
}

// claimAny takes some free address of a family, from the first range that has one.
func (a *Allocators) claimAny(ctx context.Context, s *corev1.Service, family corev1.IPFamily, dryRun bool) (netip.Addr, error) {
	tried := map[netip.Prefix]bool{}
	for _, fresh := range []bool{false, true} { // a range that was opened a moment ago is asked for only when it is needed
		ranges, err := a.serviceRanges(ctx, fresh)
		if err != nil {
			return netip.Addr{}, err
		}
		for _, r := range ranges {
			if !r.open || familyOf(r.cidr.Addr()) != family || tried[r.cidr] {
				continue
			}
			tried[r.cidr] = true
			pool := newAddressPool(r.cidr)
			addr, ok, err := a.claimFrom(ctx, s, &pool, dryRun)
			if err != nil {
				return netip.Addr{}, fmt.Errorf("allocating a cluster IP: %w", err)
			}
			if ok {
				return addr, nil
			}
		}
	}
	return netip.Addr{}, apierrors.NewInternalError(errors.New("failed to allocate a serviceIP: range is full"))
}

// claimFrom takes a free address of one range: from the upper part, starting anywhere in it, and only when that is full from
// the lower part.
func (a *Allocators) claimFrom(ctx context.Context, s *corev1.Service, pool *addressPool, dryRun bool) (netip.Addr, bool, error) {
	taken := a.addresses()
	try := func(from, n uint64) (netip.Addr, bool, error) {
		if n == 0 {
			return netip.Addr{}, false, nil
		}
		start := rand.Uint64N(n)
		for i := range n {
			addr := pool.at(from + (start+i)%n)
			// The cache may be behind; what it already knows as taken need not be asked of etcd.
			if _, err := taken.Get(ctx, addr.String(), "0"); err == nil {
				continue
			} else if !errors.Is(err, store.ErrNotFound) {
				return addr, false, err
			}
			if dryRun {
				return addr, true, nil
			}
			_, err := taken.Create(ctx, addr.String(), ipAddress(s, addr))
			if err == nil {
				return addr, true, nil
			}
			if !errors.Is(err, store.ErrExists) {
				return addr, false, err
			}
		}
		return netip.Addr{}, false, nil
	}
	addr, ok, err := try(pool.reserved, pool.size-pool.reserved)
	if err == nil && !ok {
		addr, ok, err = try(0, pool.reserved)
	}
	return addr, ok, err
}

// releaseAddress gives an address back if it is still claimed for owner.
func (a *Allocators) releaseAddress(ctx context.Context, ip string, owner *corev1.Service) error {
	_, err := a.addresses().Mutate(ctx, ip, func(current *store.Item) (store.Change, error) {
		if current == nil {
			return store.Change{}, nil
		}
		ref := current.Object.(*networkingv1.IPAddress).Spec.ParentRef
		if ref != nil && (ref.Resource != "services" || ref.Namespace != owner.Namespace || ref.Name != owner.Name) {
			return store.Change{}, nil
		}
		return store.Change{Delete: true}, nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
