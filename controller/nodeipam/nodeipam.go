package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/work"
)

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Events    record.EventRecorder
	Logger    *slog.Logger
	// ClusterCIDR is the range of all pods, BlockBits the prefix length of a node's part of it.
	ClusterCIDR netip.Prefix
	BlockBits   int
}

// Controller allocates.
type Controller struct {
	cfg    Config
	nodes  listers.NodeLister
	source feed.Source
	queue  *work.Queue[string]

	mu      sync.Mutex
	pool    *pool
	holders map[string]holder // by node name: what the pool holds for it
	starved map[string]bool   // nodes that wait for a free block
}

// holder is the node, of all that bore its name, that the blocks are held for.
type holder struct {
	uid   types.UID
	cidrs []netip.Prefix
	// chosen says that the CIDR is our choice and has perhaps not reached the node yet.
	chosen bool
}

// New subscribes to Nodes.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil || cfg.Events == nil {
		return nil, errors.New("nodeipam controller: incomplete config")
	}
	p, err := newPool(cfg.ClusterCIDR, cfg.BlockBits)
	if err != nil {
		return nil, fmt.Errorf("nodeipam controller: %w", err)
	}
	nodes := cfg.Informers.Core().V1().Nodes()
	c := &Controller{cfg: cfg, nodes: nodes.Lister(), pool: p, holders: map[string]holder{}, starved: map[string]bool{}}
	c.queue = work.NewQueue(work.Config[string]{Name: "nodeipam", Sync: c.sync, Logger: cfg.Logger})
	c.source = cfg.Feeds.Handle(nodes.Informer(), feed.Of(c.changed))
	return c, nil
}

// Run blocks until ctx ends. It begins when all nodes are known: before that, no block is known to be free.
func (c *Controller) Run(ctx context.Context) error {
	if !feed.Wait(ctx, c.source) {
		return nil
	}
	return c.queue.Run(ctx)
}

func cidrs(node *corev1.Node) []netip.Prefix {
	all := node.Spec.PodCIDRs
	if len(all) == 0 && node.Spec.PodCIDR != "" {
		all = []string{node.Spec.PodCIDR}
	}
	var out []netip.Prefix
	for _, s := range all {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// changed keeps the pool in step with what the nodes hold, and queues nodes that hold nothing.
func (c *Controller) changed(old, node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if node == nil || (old != nil && old.UID != node.UID) {
		c.dropLocked(old.Name)
	}
	if node == nil {
		return
	}
	if h, ok := c.holders[node.Name]; ok && h.uid != node.UID {
		c.dropLocked(node.Name)
	}
	held := cidrs(node)
	if len(held) == 0 {
		c.queue.Add(node.Name)
		return
	}
	h := c.holders[node.Name]
	if !h.chosen && len(h.cidrs) == len(held) {
		return // podCIDR never changes once it is set
	}
	for _, p := range h.cidrs {
		c.pool.release(p, node.Name)
	}
	for _, p := range held {
		c.pool.occupy(p, node.Name)
	}
	c.holders[node.Name] = holder{uid: node.UID, cidrs: held}
}

func (c *Controller) dropLocked(name string) {
	for _, p := range c.holders[name].cidrs {
		c.pool.release(p, name)
	}
	delete(c.holders, name)
	delete(c.starved, name)
	for waiting := range c.starved {
		c.queue.Add(waiting)
	}
}

// choose returns the block to write into node. The same block comes again until the node shows it or is gone, so that a
// write whose answer was lost is repeated, not doubled.
func (c *Controller) choose(node *corev1.Node) (netip.Prefix, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.holders[node.Name]
	if ok && h.uid == node.UID && len(h.cidrs) > 0 {
		return h.cidrs[0], true
	}
	if ok {
		c.dropLocked(node.Name)
	}
	b, ok := c.pool.allocate(node.Name)
	if !ok {
		c.starved[node.Name] = true
		return b, false
	}
	delete(c.starved, node.Name)
	c.holders[node.Name] = holder{uid: node.UID, cidrs: []netip.Prefix{b}, chosen: true}
	return b, true
}

func (c *Controller) sync(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		// A choice made after the node's deletion was seen has no event left that would give it back.
		c.mu.Lock()
		c.dropLocked(name)
		c.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	if len(cidrs(node)) > 0 || node.DeletionTimestamp != nil {
		return nil
	}
	block, ok := c.choose(node)
	if !ok {
		c.cfg.Events.Eventf(node, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: %s", name, "CIDRNotAvailable")
		c.cfg.Logger.Error("no pod addresses left for node: the cluster CIDR is used up", "node", name, "cidr", c.cfg.ClusterCIDR.String())
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": block.String(), "podCIDRs": []string{block.String()}},
	})
	if err != nil {
		return err
	}
	_, err = c.cfg.Client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		return nil
	}
	return fmt.Errorf("set podCIDR %s of node %s: %w", block, name, err)
}
