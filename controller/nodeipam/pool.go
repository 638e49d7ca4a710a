package nodeipam

import (
	"fmt"
	"math/big"
	"net/netip"
)

// pool hands out equal blocks of a range. Blocks are numbered from the start of the range.
type pool struct {
	rng   netip.Prefix
	bits  int // prefix length of a block
	size  int // how many blocks there are
	next  int // where the search for a free one begins
	users map[int]map[string]struct{}
}

// maxBlocks bounds what a pool keeps track of: a /16 of IPv6 addresses in blocks of /64 is more than any cluster has nodes.
const maxBlocks = 1 << 16

func newPool(rng netip.Prefix, bits int) (*pool, error) {
	switch {
	case !rng.IsValid():
		return nil, fmt.Errorf("no cluster CIDR")
	case bits < rng.Bits() || bits > rng.Addr().BitLen():
		return nil, fmt.Errorf("cluster CIDR %s cannot be cut into blocks of /%d", rng, bits)
	}
	size := maxBlocks
	if d := bits - rng.Bits(); d < 16 {
		size = 1 << d
	}
	return &pool{rng: rng.Masked(), bits: bits, size: size, users: map[int]map[string]struct{}{}}, nil
}

// block returns the i-th block.
func (p *pool) block(i int) netip.Prefix {
	n := new(big.Int).SetBytes(p.rng.Addr().AsSlice())
	n.Add(n, new(big.Int).Lsh(big.NewInt(int64(i)), uint(p.rng.Addr().BitLen()-p.bits)))
	raw := n.FillBytes(make([]byte, p.rng.Addr().BitLen()/8))
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, p.bits)
}

// touched returns the numbers [first, last] of the blocks that cidr overlaps; ok is false when it overlaps none.
func (p *pool) touched(cidr netip.Prefix) (first, last int, ok bool) {
	if !cidr.IsValid() || !p.rng.Overlaps(cidr) {
		return 0, 0, false
	}
	if cidr.Bits() <= p.rng.Bits() {
		return 0, p.size - 1, true
	}
	shift := uint(p.rng.Addr().BitLen() - p.bits)
	off := new(big.Int).SetBytes(cidr.Masked().Addr().AsSlice())
	off.Sub(off, new(big.Int).SetBytes(p.rng.Addr().AsSlice())).Rsh(off, shift)
	if !off.IsInt64() || off.Int64() >= int64(p.size) {
		return 0, 0, false
	}
	first = int(off.Int64())
	last = first
	if cidr.Bits() < p.bits {
		last = min(first+1<<(p.bits-cidr.Bits())-1, p.size-1)
	}
	return first, last, true
}

// occupy marks the blocks that cidr overlaps as used by node. A block may have several users when someone set the CIDRs by
// hand; it is free when the last one is gone.
func (p *pool) occupy(cidr netip.Prefix, node string) {
	first, last, ok := p.touched(cidr)
	for i := first; ok && i <= last; i++ {
		if p.users[i] == nil {
			p.users[i] = map[string]struct{}{}
		}
		p.users[i][node] = struct{}{}
	}
}

// release undoes occupy.
func (p *pool) release(cidr netip.Prefix, node string) {
	first, last, ok := p.touched(cidr)
	for i := first; ok && i <= last; i++ {
		delete(p.users[i], node)
		if len(p.users[i]) == 0 {
			delete(p.users, i)
		}
	}
}

// allocate occupies a free block for node; ok is false when there is none.
func (p *pool) allocate(node string) (netip.Prefix, bool) {
	for n := range p.size {
		i := (p.next + n) % p.size
		if len(p.users[i]) > 0 {
			continue
		}
		p.next = (i + 1) % p.size
		b := p.block(i)
		p.occupy(b, node)
		return b, true
	}
	return netip.Prefix{}, false
}
