package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mini-k8s/mini/internal/endpointslices"
	"github.com/mini-k8s/mini/internal/iptables"
	"github.com/mini-k8s/mini/internal/sysctl"
)

const (
	// minInterval is the least time between two changes of the rules: a rollout's events then share one.
	minInterval = 30 * time.Millisecond
	// A failure is tried again after retryMin, then after twice that, up to retryMax.
	retryMin = 2 * time.Second
	retryMax = time.Minute
)

// Config says what a node's proxy serves.
type Config struct {
	NodeName    string
	NodeIP      netip.Addr
	ClusterCIDR netip.Prefix // of all pods: what comes from elsewhere is masqueraded
	// ServiceCIDR is the range of ClusterIPs, to which those of ServiceCIDRs are added: what goes there and is nobody's is
	// dropped on the node. The zero Prefix leaves that, and the routes which a node without default route needs, out.
	ServiceCIDR netip.Prefix
	// NoNodePorts leaves node ports out.
	NoNodePorts bool
	// SkipIPs are ClusterIPs that something else on the node answers.
	SkipIPs   []netip.Addr
	DataDir   string // remembers what was changed on the node, for Clean
	Informers informers.SharedInformerFactory
	IPTables  string // the iptables command; "" is whichever the machine has
	Logger    *slog.Logger
}

// Proxy keeps a node's rules for Services true.
type Proxy struct {
	cfg      Config
	services corelisters.ServiceLister
	eps      cache.Indexer
	cidrs    networkinglisters.ServiceCIDRLister // nil without a ServiceCIDR in the config
	synced   []cache.InformerSynced
	changed  chan struct{}
	ready    chan struct{}

	mu    sync.Mutex
	dirty map[string]bool // namespace/name of Services to render anew
	moved bool            // the ranges of ClusterIPs may be others

	fragments map[string]*fragment // Run's own, as is
	health    map[string]*health
	failed    map[string]bool // Services to try again
}

// New checks cfg and registers for Services and EndpointSlices; start the informers after it.
func New(cfg Config) (*Proxy, error) {
	switch {
	case cfg.NodeName == "":
		return nil, errors.New("proxy: no node name")
	case !cfg.ClusterCIDR.Addr().Is4():
		return nil, fmt.Errorf("proxy: cluster CIDR %q is not an IPv4 range", cfg.ClusterCIDR)
	case cfg.ServiceCIDR.IsValid() && !cfg.ServiceCIDR.Addr().Is4():
		return nil, fmt.Errorf("proxy: service CIDR %q is not an IPv4 range", cfg.ServiceCIDR)
	case cfg.DataDir == "":
		return nil, errors.New("proxy: no data directory")
	case cfg.Informers == nil:
		return nil, errors.New("proxy: no informers")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{
		cfg: cfg, changed: make(chan struct{}, 1), ready: make(chan struct{}),
		dirty: map[string]bool{}, fragments: map[string]*fragment{}, health: map[string]*health{}, failed: map[string]bool{},
	}
	services := cfg.Informers.Core().V1().Services()
	p.services = services.Lister()
	eps := cfg.Informers.Discovery().V1().EndpointSlices().Informer()
	if err := endpointslices.Index(eps); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p.eps = eps.GetIndexer()
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		key      func(any) string
	}{{services.Informer(), objectKey}, {eps, endpointslices.ServiceKey}} {
		reg, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) { p.touch(w.key(o)) },
			UpdateFunc: func(old, now any) {
				if !sameVersion(old, now) {
					p.touch(w.key(now))
				}
			},
			DeleteFunc: func(o any) { p.touch(w.key(o)) },
		})
		if err != nil {
			return nil, fmt.Errorf("proxy: watch: %w", err)
		}
		p.synced = append(p.synced, reg.HasSynced)
	}
	if err := p.watchRanges(); err != nil {
		return nil, fmt.Errorf("proxy: watch: %w", err)
	}
	return p, nil
}

// Ready is closed when the rules of all Services known at the start are in force.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Run keeps the rules true until ctx ends. They stay then, so that connections go on while the node's agent restarts; use
// Clean to remove them.
func (p *Proxy) Run(ctx context.Context) error {
	cmd, err := iptables.Find(p.cfg.IPTables)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	if !p.cfg.NoNodePorts {
		if err := sysctlRecord(p.cfg.DataDir).Set("net/ipv4/conf/all/route_localnet", "1"); err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
	}
	table := iptables.NewTable(iptables.Config{Command: cmd, Prefix: chainPrefix, Anchors: anchors, Logger: p.cfg.Logger})
	if !cache.WaitForCacheSync(ctx.Done(), p.synced...) {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return table.Run(ctx) })
	if p.cfg.ServiceCIDR.IsValid() {
		group.Go(func() error { return keepServiceRoutes(ctx, p.ranges, p.cfg.NodeIP, p.cfg.Logger) })
	}
	group.Go(func() error {
		defer func() {
			if err := p.closeHealth(); err != nil {
				p.cfg.Logger.Warn("cannot end a health check", "err", err)
			}
		}()
		p.loop(ctx, func(f map[string]*fragment) error {
			ranges := p.ranges()
			if _, err := table.Set(ctx, assemble(f, facts{cmd.Masquerade(), ranges})); err != nil {
				return err
			}
			if !p.cfg.ServiceCIDR.IsValid() {
				return nil
			}
			return setServiceRoutes(ranges, p.cfg.NodeIP)
		})
		return nil
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	return nil
}

// loop applies the first of a burst of changes at once and the rest together, minInterval later. What failed is tried
// again by a timer of its own, ever more seldom, and holds up nothing else.
func (p *Proxy) loop(ctx context.Context, apply func(map[string]*fragment) error) {
	// Both timers run only after a change or a failure.
	rest, retry := time.NewTimer(0), time.NewTimer(retryMin)
	defer rest.Stop()
	defer retry.Stop()
	retry.Stop()
	delay := retryMin
	pending, resting := true, true
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.changed:
			pending = true
		case <-rest.C:
			resting = false
		case <-retry.C:
			pending = true
			p.retryFailed()
		}
		if !pending || resting {
			continue
		}
		pending, resting = false, true
		rest.Reset(minInterval)
		switch err := p.sync(apply); {
		case ctx.Err() != nil:
			return
		case err != nil:
			p.cfg.Logger.Error("cannot set the rules of Services; trying again", "err", err, "in", delay)
			retry.Reset(delay)
			delay = min(2*delay, retryMax)
		case len(p.failed) == 0:
			delay = retryMin
		}
	}
}

// retryFailed makes what failed look changed.
func (p *Proxy) retryFailed() {
	p.mu.Lock()
	maps.Copy(p.dirty, p.failed)
	p.mu.Unlock()
	clear(p.failed)
}

// sync renders what has changed and applies the whole.
func (p *Proxy) sync(apply func(map[string]*fragment) error) error {
	p.mu.Lock()
	dirty, moved := p.dirty, p.moved
	p.dirty, p.moved = map[string]bool{}, false
	p.mu.Unlock()
	changed := map[string]*fragment{}
	for key := range dirty {
		f, err := p.fragmentOf(key)
		if err != nil {
			maps.Copy(p.failed, dirty)
			return err
		}
		if !reflect.DeepEqual(p.fragments[key], f) {
			changed[key] = f
		}
	}
	first := false
	select {
	case <-p.ready:
	default:
		first = true
	}
	if len(changed) == 0 && !first && !moved {
		return nil
	}
	err := p.change(slices.Sorted(maps.Keys(changed)), changed, apply)
	if err != nil && moved {
		p.mu.Lock()
		p.moved = true // tried again with the rest
		p.mu.Unlock()
	}
	if first && (err == nil || len(p.fragments) > 0) {
		p.cfg.Logger.Info("the rules of Services are in force", "services", len(p.fragments))
		close(p.ready)
	}
	return err
}

// change brings the Services keys to their new fragments. If the kernel refuses, it looks for the Services that it
// refuses, so that one with, say, a protocol that the kernel lacks does not hold up all others; those are tried again
// later.
func (p *Proxy) change(keys []string, to map[string]*fragment, apply func(map[string]*fragment) error) error {
	from := map[string]*fragment{}
	for _, key := range keys {
		from[key] = p.fragments[key]
		p.set(key, to[key])
	}
	err := apply(p.fragments)
	if err == nil {
		p.forgetFlows(keys, from, to)
		return nil
	}
	for _, key := range keys {
		p.set(key, from[key])
	}
	switch len(keys) {
	case 0:
		return err
	case 1:
		p.failed[keys[0]] = true
		return fmt.Errorf("service %s: %w", keys[0], err)
	}
	half := len(keys) / 2
	return errors.Join(p.change(keys[:half], to, apply), p.change(keys[half:], to, apply))
}

func (p *Proxy) set(key string, f *fragment) {
	if f == nil {
		delete(p.fragments, key)
	} else {
		p.fragments[key] = f
	}
}

// forgetFlows deletes the conntrack entries that the changes have made wrong.
func (p *Proxy) forgetFlows(keys []string, from, to map[string]*fragment) {
	flows := map[flow][]netip.AddrPort{}
	for _, key := range keys {
		maps.Copy(flows, staleFlows(from[key], to[key]))
	}
	if len(flows) == 0 {
		return
	}
	if err := deleteFlows(staleFilter{flows, p.cfg.NodeIP}); err != nil {
		p.cfg.Logger.Warn("clients of UDP Services may keep a dead endpoint", "services", keys, "err", err)
	}
}

// fragmentOf sets a Service's health check and renders its rules from what the informers hold; nil if there is nothing to serve.
func (p *Proxy) fragmentOf(key string) (*fragment, error) {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil, err
	}
	svc, err := p.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, p.setHealth(key, namespace, name, 0, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("look up Service %s: %w", key, err)
	}
	eps, err := endpointslices.Of(p.eps, key)
	if err != nil {
		return nil, err
	}
	ports := portsOf(svc, eps, p.cfg.NodeName, p.cfg.SkipIPs)
	local := 0
	for _, sp := range ports {
		local = max(local, len(sp.Local))
	}
	// A port that is taken is no reason to leave the Service without rules.
	if err := p.setHealth(key, namespace, name, healthPort(svc), local); err != nil {
		p.cfg.Logger.Error("no health check for a load balancer", "err", err)
	}
	if len(ports) == 0 {
		return nil, nil
	}
	return render(ports, p.cfg.ClusterCIDR, !p.cfg.NoNodePorts), nil
}

func (p *Proxy) touch(key string) {
	if key == "" {
		return
	}
	p.mu.Lock()
	p.dirty[key] = true
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func objectKey(o any) string {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
	if err != nil {
		return ""
	}
	return key
}

func sameVersion(a, b any) bool {
	x, errX := meta.Accessor(a)
	y, errY := meta.Accessor(b)
	return errX == nil && errY == nil && x.GetResourceVersion() == y.GetResourceVersion() && x.GetResourceVersion() != ""
}

func sysctlRecord(dataDir string) sysctl.Record {
	return sysctl.Record(filepath.Join(dataDir, "sysctls.json"))
}

// Clean removes every rule and route of this package from the node and gives sysctls the values back that they had. Only DataDir
// and IPTables of cfg are used; Run need not ever have run, and must not be running.
func Clean(ctx context.Context, cfg Config) error {
	var errs []error
	cmd, err := iptables.Find(cfg.IPTables)
	switch {
	case err == nil:
		errs = append(errs, iptables.Clean(ctx, cmd, chainPrefix, "nat", "filter"))
	case !errors.Is(err, iptables.ErrNotInstalled): // without the command there never were rules
		errs = append(errs, err)
	}
	errs = append(errs, removeServiceRoutes(nil))
	if cfg.DataDir != "" {
		errs = append(errs, sysctlRecord(cfg.DataDir).Restore())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the rules of Services: %w", err)
	}
	return nil
}
