package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/internal/endpointslices"
)

// Config says what is answered where.
type Config struct {
	Address netip.Addr // the cluster DNS address; the server puts it on the loopback interface
	Domain  string     // the cluster domain, such as cluster.local
	// Reverse are ranges whose reverse names are answered here or not at all: those of pods and Services.
	Reverse    []netip.Prefix
	Informers  informers.SharedInformerFactory
	ResolvConf string // of the node; "" answers nothing outside the cluster
	Logger     *slog.Logger
}

// Server is the cluster DNS of one node.
type Server struct {
	cfg     Config
	zone    zone
	forward *forwarder
	synced  []cache.InformerSynced
	ready   chan struct{}
}

// New checks cfg and registers for Services and EndpointSlices; start the informers after it.
func New(cfg Config) (*Server, error) {
	domain := dns.CanonicalName(cfg.Domain)
	switch {
	case !cfg.Address.Is4():
		return nil, fmt.Errorf("dns: address %q is not an IPv4 address", cfg.Address)
	case cfg.Informers == nil:
		return nil, errors.New("dns: no informers")
	}
	if _, ok := dns.IsDomainName(domain); !ok || domain == "." {
		return nil, fmt.Errorf("dns: %q is not a domain", cfg.Domain)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	services := cfg.Informers.Core().V1().Services().Informer()
	eps := cfg.Informers.Discovery().V1().EndpointSlices().Informer()
	if err := addIndexes(services, eps); err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	return &Server{
		cfg: cfg,
		zone: zone{
			domain: domain, address: cfg.Address, reverse: cfg.Reverse,
			services: services.GetIndexer(), slices: eps.GetIndexer(),
		},
		forward: newForwarder(cfg.ResolvConf, cfg.Address),
		synced:  []cache.InformerSynced{services.HasSynced, eps.HasSynced},
		ready:   make(chan struct{}),
	}, nil
}

func addIndexes(services, eps cache.SharedIndexInformer) error {
	return errors.Join(
		endpointslices.IndexBy(services, byClusterIP, func(o any) []string {
			svc, ok := o.(*corev1.Service)
			if !ok {
				return nil
			}
			var keys []string
			for _, ip := range clusterIPs(svc) {
				keys = append(keys, ip.String())
			}
			return keys
		}),
		endpointslices.Index(eps),
		endpointslices.IndexBy(eps, byEndpointIP, func(o any) []string {
			slice, ok := o.(*discoveryv1.EndpointSlice)
			if !ok {
				return nil
			}
			var keys []string
			for _, ep := range slice.Endpoints {
				keys = append(keys, ep.Addresses...)
			}
			return keys
		}))
}

// Ready is closed when queries are answered.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run answers queries until ctx ends, and then takes the address away again.
func (s *Server) Run(ctx context.Context) (err error) {
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return nil
	}
	if err := addAddress(s.cfg.Address); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	defer func() { err = errors.Join(err, removeAddress(s.cfg.Address)) }()
	listen := netip.AddrPortFrom(s.cfg.Address, 53).String()
	packets, err := net.ListenPacket("udp4", listen)
	if err != nil {
		return listenError(err)
	}
	defer packets.Close()
	listener, err := net.Listen("tcp4", listen)
	if err != nil {
		return listenError(err)
	}
	defer listener.Close()
	group, ctx := errgroup.WithContext(ctx)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) { s.serve(ctx, w, query) })
	servers := []*dns.Server{
		// The library looks up from an idle UDP socket as often as its read timeout says.
		{PacketConn: packets, Handler: handler, ReadTimeout: 24 * time.Hour, UDPSize: 4096},
		{Listener: listener, Handler: handler},
	}
	for _, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		group.Go(server.ActivateAndServe)
		select {
		case <-started:
		case <-ctx.Done():
		}
	}
	group.Go(func() error { return s.keepAddress(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		var errs []error
		for _, server := range servers {
			// The queries that are being answered get a moment.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			if err := server.ShutdownContext(last); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				errs = append(errs, err)
			}
			cancel()
		}
		return errors.Join(errs...)
	})
	if ctx.Err() == nil {
		s.cfg.Logger.Info("cluster DNS answers", "address", s.cfg.Address, "domain", s.cfg.Domain)
		close(s.ready)
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	return nil
}

func listenError(err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("dns: %w: another DNS server on this machine listens on all addresses; let it listen on its own", err)
	}
	return fmt.Errorf("dns: %w", err)
}

// serve answers one query.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, query *dns.Msg) {
	size := dns.MaxMsgSize
	if w.RemoteAddr().Network() == "udp" {
		size = dns.MinMsgSize
		if opt := query.IsEdns0(); opt != nil {
			size = max(size, min(int(opt.UDPSize()), 4096))
		}
	}
	msg := s.respond(ctx, query)
	msg.Truncate(size)
	if err := w.WriteMsg(msg); err != nil {
		s.cfg.Logger.Debug("cannot send an answer", "to", w.RemoteAddr(), "err", err)
	}
}

// maxChain is how many CNAME records are followed.
const maxChain = 8

// respond makes the answer to a query.
func (s *Server) respond(ctx context.Context, query *dns.Msg) *dns.Msg {
	msg := new(dns.Msg)
	msg.SetReply(query)
	msg.RecursionAvailable = true
	msg.Compress = true
	dnssec := false
	if opt := query.IsEdns0(); opt != nil {
		dnssec = opt.Do()
		msg.SetEdns0(ednsSize, dnssec)
		if opt.Version() != 0 {
			msg.Rcode = dns.RcodeBadVers
			return msg
		}
	}
	switch {
	case query.Opcode != dns.OpcodeQuery:
		msg.Rcode = dns.RcodeNotImplemented
		return msg
	case len(query.Question) != 1:
		msg.Rcode = dns.RcodeFormatError
		return msg
	case query.Question[0].Qclass != dns.ClassINET, query.Question[0].Qtype == dns.TypeAXFR, query.Question[0].Qtype == dns.TypeIXFR:
		msg.Rcode = dns.RcodeRefused
		return msg
	}
	q := query.Question[0]
	msg.Authoritative = s.zone.covers(strings.ToLower(q.Name))
	for range maxChain {
		if !s.zone.covers(strings.ToLower(q.Name)) {
			s.ask(ctx, msg, q, dnssec)
			return msg
		}
		r := s.zone.answer(q)
		msg.Rcode = r.Rcode
		msg.Answer = append(msg.Answer, r.Answer...)
		msg.Extra = append(msg.Extra, r.Extra...)
		if r.Chase == "" {
			if len(r.Answer) == 0 {
				msg.Ns = []dns.RR{s.zone.soa()}
			}
			return msg
		}
		q.Name = r.Chase
	}
	msg.Rcode = dns.RcodeServerFailure // the names lead in a circle
	return msg
}

// ask adds a resolver's answer to msg.
func (s *Server) ask(ctx context.Context, msg *dns.Msg, q dns.Question, dnssec bool) {
	got, err := s.forward.resolve(ctx, q, dnssec)
	if err != nil {
		s.cfg.Logger.Debug("cannot resolve a name outside the cluster", "name", q.Name, "err", err)
		msg.Rcode = dns.RcodeServerFailure
		return
	}
	msg.Rcode = got.Rcode
	msg.AuthenticatedData = got.AuthenticatedData && len(msg.Answer) == 0
	msg.Answer = append(msg.Answer, got.Answer...)
	msg.Ns = got.Ns
	for _, rr := range got.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			msg.Extra = append(msg.Extra, rr)
		}
	}
}

// Clean takes the cluster DNS address from the node, for when Run could not.
func Clean(cfg Config) error { return removeAddress(cfg.Address) }

func loopback(ip netip.Addr) (netlink.Link, *netlink.Addr, error) {
	link, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, nil, fmt.Errorf("find lo: %w", err)
	}
	return link, &netlink.Addr{
		IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(32, 32)}, Scope: unix.RT_SCOPE_HOST,
	}, nil
}

func addAddress(ip netip.Addr) error {
	link, addr, err := loopback(ip)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("put %s on lo: %w", ip, err)
	}
	return nil
}

func removeAddress(ip netip.Addr) error {
	link, addr, err := loopback(ip)
	if err != nil {
		return err
	}
	if err := netlink.AddrDel(link, addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("take %s from lo: %w", ip, err)
	}
	return nil
}

// keepAddress puts the address back when it is taken away.
func (s *Server) keepAddress(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.watchAddress(ctx); err != nil {
			return err
		}
		// The kernel had more to say than it could; look for ourselves and listen again.
		if ctx.Err() == nil {
			s.restoreAddress()
		}
	}
	return nil
}

func (s *Server) watchAddress(ctx context.Context) error {
	updates := make(chan netlink.AddrUpdate)
	done := make(chan struct{})
	if err := netlink.AddrSubscribe(updates, done); err != nil {
		return fmt.Errorf("listen to the kernel: %w", err)
	}
	defer func() {
		close(done)
		for range updates { // until its sender has noticed
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-updates:
			switch {
			case !ok:
				return nil
			case !u.NewAddr && u.LinkAddress.IP.Equal(s.cfg.Address.AsSlice()):
				s.restoreAddress()
			}
		}
	}
}

func (s *Server) restoreAddress() {
	if err := addAddress(s.cfg.Address); err != nil {
		s.cfg.Logger.Error("cannot put the cluster DNS address back", "err", err)
		return
	}
	s.cfg.Logger.Warn("the cluster DNS address was taken away; it is back", "address", s.cfg.Address)
}
