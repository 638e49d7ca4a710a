package dns

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// tryTimeout is how long one resolver may take; forwardTimeout bounds all tries, below the 5 s after which a client
	// asks again.
	tryTimeout     = 1500 * time.Millisecond
	forwardTimeout = 4500 * time.Millisecond
	// downTime is how long a resolver that failed is asked last.
	downTime = 10 * time.Second
	// rereadAfter is the least time between two looks at resolv.conf, which DHCP clients rewrite.
	rereadAfter = 5 * time.Second

	cacheSize = 1000
	maxTTL    = 300 // seconds
	ednsSize  = 1232
)

var errNoResolvers = errors.New("the node has no resolvers")

// forwarder asks the node's resolvers.
type forwarder struct {
	path string     // of resolv.conf
	own  netip.Addr // never asked

	mu      sync.Mutex
	checked time.Time
	mtime   time.Time
	servers []string             // host:port
	down    map[string]time.Time // until when
	flights map[cacheKey]*flight
	cache   map[cacheKey]cached
}

type cacheKey struct {
	name   string
	qtype  uint16
	dnssec bool
}

type cached struct {
	msg             *dns.Msg
	stored, expires time.Time
}

// flight is a question that is being asked.
type flight struct {
	done chan struct{}
	msg  *dns.Msg
	err  error
}

func newForwarder(path string, own netip.Addr) *forwarder {
	return &forwarder{
		path: path, own: own, down: map[string]time.Time{}, flights: map[cacheKey]*flight{}, cache: map[cacheKey]cached{},
	}
}

// resolve answers a question from the cache or a resolver. The message is the caller's own; its ID and question are not
// those of the caller's query.
func (f *forwarder) resolve(ctx context.Context, q dns.Question, dnssec bool) (*dns.Msg, error) {
	key := cacheKey{strings.ToLower(q.Name), q.Qtype, dnssec}
	f.mu.Lock()
	if hit, ok := f.cache[key]; ok {
		if now := time.Now(); now.Before(hit.expires) {
			f.mu.Unlock()
			return aged(hit.msg, now.Sub(hit.stored)), nil
		}
		delete(f.cache, key)
	}
	running, ok := f.flights[key]
	if !ok {
		running = &flight{done: make(chan struct{})}
		f.flights[key] = running
	}
	f.mu.Unlock()
	if ok {
		select {
		case <-running.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	} else {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forwardTimeout)
		defer cancel()
		running.msg, running.err = f.ask(ctx, q, dnssec)
		f.mu.Lock()
		delete(f.flights, key)
		if running.err == nil {
			f.storeLocked(key, running.msg)
		}
		f.mu.Unlock()
		close(running.done)
	}
	if running.err != nil {
		return nil, running.err
	}
	return running.msg.Copy(), nil
}

// ask tries every resolver, those that failed lately last, and keeps the first answer that is one.
func (f *forwarder) ask(ctx context.Context, q dns.Question, dnssec bool) (*dns.Msg, error) {
	servers := f.resolvers(time.Now())
	if len(servers) == 0 {
		return nil, errNoResolvers
	}
	var bad *dns.Msg
	var errs []error
	for range 2 {
		for _, server := range servers {
			msg, err := exchange(ctx, server, q, dnssec)
			f.report(server, err == nil)
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("resolver %s: %w", server, err))
			case msg.Rcode == dns.RcodeSuccess || msg.Rcode == dns.RcodeNameError:
				return msg, nil
			default:
				bad = msg
			}
			if ctx.Err() != nil {
				break
			}
		}
		if bad != nil {
			return bad, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// exchange asks one resolver over UDP, from a new port each time, and over TCP if the answer does not fit.
func exchange(ctx context.Context, server string, q dns.Question, dnssec bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	query := new(dns.Msg)
	query.Id = dns.Id()
	query.RecursionDesired = true
	query.Question = []dns.Question{q}
	query.SetEdns0(ednsSize, dnssec)
	client := dns.Client{Net: "udp", UDPSize: ednsSize, Timeout: tryTimeout}
	msg, _, err := client.ExchangeContext(ctx, query, server)
	if err == nil && msg.Truncated {
		client.Net = "tcp"
		msg, _, err = client.ExchangeContext(ctx, query, server)
	}
	if err != nil {
		return nil, err
	}
	if len(msg.Question) != 1 || !strings.EqualFold(msg.Question[0].Name, q.Name) || msg.Question[0].Qtype != q.Qtype {
		return nil, errors.New("the answer is to another question")
	}
	return msg, nil
}

// resolvers reads resolv.conf if it may have changed, and orders its servers. Without a readable file the last ones stay.
func (f *forwarder) resolvers(now time.Time) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.path != "" && now.Sub(f.checked) >= rereadAfter {
		f.checked = now
		if info, err := os.Stat(f.path); err == nil && !info.ModTime().Equal(f.mtime) {
			if conf, err := dns.ClientConfigFromFile(f.path); err == nil {
				f.mtime = info.ModTime()
				f.servers = f.servers[:0:0]
				for _, s := range conf.Servers {
					if ip, err := netip.ParseAddr(s); err == nil && ip.Unmap() != f.own {
						f.servers = append(f.servers, net.JoinHostPort(s, conf.Port))
					}
				}
			}
		}
	}
	out := slices.Clone(f.servers)
	slices.SortStableFunc(out, func(a, b string) int {
		downA, downB := now.Before(f.down[a]), now.Before(f.down[b])
		switch {
		case downA == downB:
			return 0
		case downB:
			return -1
		}
		return 1
	})
	return out
}

func (f *forwarder) report(server string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ok {
		delete(f.down, server)
	} else {
		f.down[server] = time.Now().Add(downTime)
	}
}

// storeLocked keeps an answer for as long as its records say.
func (f *forwarder) storeLocked(key cacheKey, msg *dns.Msg) {
	seconds := lifetime(msg)
	if seconds == 0 {
		return
	}
	now := time.Now()
	if len(f.cache) >= cacheSize {
		for k, c := range f.cache {
			if now.After(c.expires) {
				delete(f.cache, k)
			}
		}
		for k := range f.cache { // any, in the map's random order
			if len(f.cache) < cacheSize {
				break
			}
			delete(f.cache, k)
		}
	}
	f.cache[key] = cached{msg: msg.Copy(), stored: now, expires: now.Add(time.Duration(seconds) * time.Second)}
}

// lifetime is for how many seconds an answer may be kept: the least TTL of its records, or for a negative one that of
// the SOA record (RFC 2308). An error, or a negative answer without SOA, is not kept.
func lifetime(msg *dns.Msg) uint32 {
	if msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError || msg.Truncated {
		return 0
	}
	least := uint32(math.MaxUint32)
	for _, section := range [][]dns.RR{msg.Answer, msg.Ns} {
		for _, rr := range section {
			least = min(least, rr.Header().Ttl)
			if soa, ok := rr.(*dns.SOA); ok {
				least = min(least, soa.Minttl)
			}
		}
	}
	if least == math.MaxUint32 {
		return 0
	}
	return min(least, maxTTL)
}

// aged copies a message with its TTLs reduced by the time that it has been kept.
func aged(msg *dns.Msg, age time.Duration) *dns.Msg {
	out := msg.Copy()
	passed := uint32(age / time.Second)
	for _, section := range [][]dns.RR{out.Answer, out.Ns, out.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(h.Ttl, passed)
			}
		}
	}
	return out
}
