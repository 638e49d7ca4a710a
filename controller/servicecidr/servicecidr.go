package servicecidr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/work"
)

// grace is how long after its deletion a range may still be known as open by some server.
const grace = 10 * time.Second

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
}

// Controller looks after ServiceCIDRs.
type Controller struct {
	cfg       Config
	cidrs     networkinglisters.ServiceCIDRLister
	addresses networkinglisters.IPAddressLister
	sources   []feed.Source
	queue     *work.Queue[string]
}

// New subscribes to ServiceCIDRs and IPAddresses.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil {
		return nil, errors.New("servicecidr controller: incomplete config")
	}
	cidrs, addresses := cfg.Informers.Networking().V1().ServiceCIDRs(), cfg.Informers.Networking().V1().IPAddresses()
	c := &Controller{cfg: cfg, cidrs: cidrs.Lister(), addresses: addresses.Lister()}
	c.queue = work.NewQueue(work.Config[string]{Name: "servicecidr", Sync: c.sync, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(cidrs.Informer(), feed.Of(func(old, cidr *networkingv1.ServiceCIDR) {
			for _, o := range []*networkingv1.ServiceCIDR{old, cidr} {
				if o != nil {
					c.queue.Add(o.Name)
					c.going(func(other *networkingv1.ServiceCIDR) bool { return overlap(o, other) })
				}
			}
		})),
		cfg.Feeds.Handle(addresses.Informer(), feed.Of(func(old, ip *networkingv1.IPAddress) {
			if old != nil && ip != nil {
				return // its name is the address
			}
			if ip == nil {
				ip = old
			}
			if a, ok := given(ip); ok {
				c.going(func(cidr *networkingv1.ServiceCIDR) bool { return contains(prefixes(cidr), a) })
			}
		})),
	}
	return c, nil
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !feed.Wait(ctx, c.sources...) {
		return nil
	}
	return c.queue.Run(ctx)
}

// going queues those that are being deleted and concerned by a change.
func (c *Controller) going(concerned func(*networkingv1.ServiceCIDR) bool) {
	all, _ := c.cidrs.List(labels.Everything()) // a lister's cache cannot fail
	for _, cidr := range all {
		if cidr.DeletionTimestamp != nil && concerned(cidr) {
			c.queue.Add(cidr.Name)
		}
	}
}

// given is the address of an object that the allocator of Services made.
func given(ip *networkingv1.IPAddress) (netip.Addr, bool) {
	if ip.Labels[networkingv1.LabelManagedBy] != allocator {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(ip.Name)
	return a, err == nil
}

func (c *Controller) sync(ctx context.Context, name string) error {
	cidr, err := c.cidrs.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := c.cidrs.List(labels.Everything())
	if err != nil {
		return err
	}
	var addresses []netip.Addr
	if cidr.DeletionTimestamp != nil {
		list, err := c.addresses.List(labels.Everything())
		if err != nil {
			return err
		}
		for _, ip := range list {
			if a, ok := given(ip); ok {
				addresses = append(addresses, a)
			}
		}
	}
	p := plan(cidr, all, addresses)
	if p.release {
		if rest := grace - time.Since(cidr.DeletionTimestamp.Time); rest > 0 {
			c.queue.AddAfter(name, rest)
			return nil
		}
	}
	if err := c.act(ctx, cidr, p); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("servicecidr %s: %w", name, err)
	}
	return nil
}

func (c *Controller) act(ctx context.Context, cidr *networkingv1.ServiceCIDR, p changes) error {
	client := c.cfg.Client.NetworkingV1().ServiceCIDRs()
	if p.protect || p.release {
		field := "finalizers"
		if p.release {
			field = "$deleteFromPrimitiveList/finalizers"
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": cidr.UID, field: []string{finalizer}}})
		if err != nil {
			return err
		}
		if cidr, err = client.Patch(ctx, cidr.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	if p.condition == nil {
		return nil
	}
	next := cidr.DeepCopy()
	meta.SetStatusCondition(&next.Status.Conditions, *p.condition)
	_, err := client.UpdateStatus(ctx, next, metav1.UpdateOptions{})
	return err
}
