package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNoAddress says that every address of the node's podCIDR is in use.
var ErrNoAddress = errors.New("no free pod address")

// lease is what one interface of one sandbox holds. It exists before anything is made for the sandbox and goes after
// everything has been taken away.
type lease struct {
	SandboxID string        `json:"sandboxID"`
	IfName    string        `json:"ifName"`
	IP        netip.Addr    `json:"ip"`
	NetNS     string        `json:"netns,omitempty"`
	Pod       string        `json:"pod,omitempty"` // namespace/name, for people
	Ports     []PortMapping `json:"ports,omitempty"`
}

// leases is the content of the lease file.
type leases struct {
	Last  netip.Addr `json:"last"` // the address handed out last
	Items []lease    `json:"leases"`
}

func (l *leases) find(sandboxID, ifName string) (lease, bool) {
	for _, it := range l.Items {
		if it.SandboxID == sandboxID && it.IfName == ifName {
			return it, true
		}
	}
	return lease{}, false
}

func (l *leases) replace(with lease) error {
	for i, it := range l.Items {
		if it.SandboxID == with.SandboxID && it.IfName == with.IfName {
			l.Items[i] = with
			return nil
		}
	}
	return fmt.Errorf("sandbox %s has no lease", with.SandboxID)
}

func (l *leases) remove(sandboxID, ifName string) bool {
	for i, it := range l.Items {
		if it.SandboxID == sandboxID && it.IfName == ifName {
			l.Items = append(l.Items[:i], l.Items[i+1:]...)
			return true
		}
	}
	return false
}

// take leases an address of cidr for want, or returns the one it has. The search starts behind the address handed out
// last. The network address belongs to the tunnel, the first to the bridge, the last is the broadcast address.
func (l *leases) take(cidr netip.Prefix, want lease) (lease, error) {
	for i, it := range l.Items {
		if it.SandboxID == want.SandboxID && it.IfName == want.IfName {
			if cidr.Contains(it.IP) {
				want.IP = it.IP
				l.Items[i] = want
				return want, nil
			}
			l.remove(it.SandboxID, it.IfName) // of a podCIDR that this node no longer has
			break
		}
	}
	used := make(map[netip.Addr]bool, len(l.Items))
	for _, it := range l.Items {
		used[it.IP] = true
	}
	first := gateway(cidr).Next()
	end := broadcast(cidr)
	ip := first
	if l.Last.IsValid() && cidr.Contains(l.Last) && l.Last.Compare(first) >= 0 {
		ip = l.Last.Next()
	}
	// One round over the range is enough: used cannot grow meanwhile.
	for range 1 << (32 - cidr.Bits()) {
		if !ip.Less(end) {
			ip = first
		}
		if !used[ip] && ip.Less(end) {
			want.IP = ip
			l.Last = ip
			l.Items = append(l.Items, want)
			return want, nil
		}
		ip = ip.Next()
	}
	return lease{}, fmt.Errorf("%w in %s: all %d are in use", ErrNoAddress, cidr, len(used))
}

// gateway is the bridge's address.
func gateway(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }

func broadcast(cidr netip.Prefix) netip.Addr {
	b := cidr.Masked().Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v |= 1<<(32-cidr.Bits()) - 1
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// leaseFile is the file that holds the leases of a node. Processes take turns by a lock on a file beside it.
type leaseFile struct{ dir string }

func (f leaseFile) path() string { return filepath.Join(f.dir, "leases.json") }

// update runs fn under the lock and writes what it leaves in the leases, if it changed them and returned nil. The file is
// replaced by rename, so a crash leaves the old or the new one. It is not flushed to the disk: after a power failure there
// are no sandboxes that could hold a lease.
func (f leaseFile) update(fn func(*leases) (changed bool, err error)) error {
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	l, err := f.read()
	if err != nil {
		return err
	}
	changed, err := fn(l)
	if err != nil || !changed {
		return err
	}
	return writeJSON(f.path(), l)
}

// read returns the leases; none if the file is missing or, after a power failure, not whole.
func (f leaseFile) read() (*leases, error) {
	var l leases
	data, err := os.ReadFile(f.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &l, nil
	case err != nil:
		return nil, fmt.Errorf("read leases: %w", err)
	}
	if json.Unmarshal(data, &l) != nil {
		return &leases{}, nil
	}
	return &l, nil
}

func (f leaseFile) lock() (func(), error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, fmt.Errorf("lock leases: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(f.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock leases: %w", err)
	}
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock leases: %w", err)
	}
	return func() { lock.Close() }, nil
}

// writeJSON replaces the file at path, whose directory is made if needed.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
