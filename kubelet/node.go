// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"
)

// How the node shows that it lives: a Lease every 10 s that others may trust for 40 s, and its full status on every change
// and every 5 min.
const (
	leaseInterval  = 10 * time.Second
	leaseSeconds   = int32(40)
	statusInterval = 5 * time.Minute
)

// nodeStatus registers the node and keeps its Node object and Lease.
type nodeStatus struct {
	k       *Kubelet
	machine machine

	mu    sync.Mutex
	node  *corev1.Node // as the API last had it
	ready bool         // runtime and network are
	why   string       // not ready
	wake  chan struct{}
	// shutdown is closed when the API shows that the node is shutting down.
	shutdown chan struct{}

	imagesRead  time.Time
	imagesStale bool
}

func newNodeStatus(k *Kubelet) *nodeStatus {
	return &nodeStatus{k: k, machine: readMachine(k.cfg), why: "container runtime is starting", wake: make(chan struct{}, 1), shutdown: make(chan struct{})}
}

// allocatable is what pods may use of the node.
func (n *nodeStatus) allocatable() corev1.ResourceList {
	_, allocatable := nodeResources(n.current(), n.machine)
	return allocatable
}

// labels returns the node's labels as the API has them, or those it will be registered with.
func (n *nodeStatus) labels() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.node != nil {
		return n.node.Labels
	}
	return n.initialLabels()
}

// current returns the Node as the API last had it, or nil.
func (n *nodeStatus) current() *corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node
}

func (n *nodeStatus) initialLabels() map[string]string {
	cfg := n.k.cfg
	m := map[string]string{corev1.LabelHostname: cfg.NodeName, corev1.LabelOSStable: "linux", corev1.LabelArchStable: n.machine.arch,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": n.machine.arch}
	maps.Copy(m, cfg.Labels)
	return m
}

func (n *nodeStatus) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run registers the node and keeps it until ctx ends.
func (n *nodeStatus) run(ctx context.Context) error {
	go n.followReadiness(ctx)
	for delay := 20 * time.Millisecond; ; delay = min(2*delay, 5*time.Second) {
		err := n.register(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		n.k.log.Warn("cannot register the node, will try again", "node", n.k.cfg.NodeName, "err", err)
		if !sleep(ctx, delay) {
			return nil
		}
	}
	n.k.ops.Go(func() { n.followNode(ctx) })
	n.k.ops.Go(func() { n.renewLease(ctx) })
	n.keepStatus(ctx)
	return nil
}

// followReadiness waits for what Ready stands for, in any order.
func (n *nodeStatus) followReadiness(ctx context.Context) {
	if !waitFor(ctx, n.k.cfg.RuntimeReady) {
		return
	}
	n.mu.Lock()
	n.why = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"
	n.mu.Unlock()
	n.poke()
	if !waitFor(ctx, n.k.cfg.NetworkReady) {
		return
	}
	n.mu.Lock()
	n.ready, n.why = true, ""
	n.mu.Unlock()
	n.poke()
}

// register creates the Node, or brings one that exists up to what this node is now.
func (n *nodeStatus) register(ctx context.Context) error {
	nodes := n.k.cfg.Client.CoreV1().Nodes()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.k.cfg.NodeName, Labels: n.initialLabels()}}
	node.Spec.Taints = n.k.cfg.Taints
	node.Status = n.status(nil)
	made, err := nodes.Create(ctx, node, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		if made, err = nodes.Get(ctx, n.k.cfg.NodeName, metav1.GetOptions{}); err != nil {
			return err
		}
		patch := map[string]any{"metadata": map[string]any{"labels": n.initialLabels()}}
		stale := false
		for key, v := range n.initialLabels() {
			stale = stale || made.Labels[key] != v
		}
		if stale {
			data, err := json.Marshal(patch)
			if err != nil {
				return err
			}
			if made, err = nodes.Patch(ctx, made.Name, types.MergePatchType, data, metav1.PatchOptions{}); err != nil {
				return err
			}
		}
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.node = made
	n.mu.Unlock()
	n.k.recorder.Event(n.ref(), corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	return nil
}

// ref is how Events name the node; its uid is its name there, as upstream has it.
func (n *nodeStatus) ref() *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: n.k.cfg.NodeName, UID: types.UID(n.k.cfg.NodeName)}
}

// keepStatus writes the status when it changed, and every 5 min.
func (n *nodeStatus) keepStatus(ctx context.Context) {
	t := time.NewTicker(leaseInterval)
	defer t.Stop()
	var written time.Time
	failures := 0
	for {
		// Images and other people's changes have no events here; a look as often as the Lease is renewed costs next to nothing.
		if err := n.writeStatus(ctx, time.Since(written) >= statusInterval); err == nil {
			written, failures = time.Now(), 0
		} else if err != errUnchanged && ctx.Err() == nil {
			if failures++; failures == 3 {
				n.k.log.Warn("cannot write the node's status, will go on trying", "err", err)
			}
			if apierrors.IsNotFound(err) {
				if err := n.register(ctx); err != nil && ctx.Err() == nil {
					n.k.log.Warn("cannot register the node again", "err", err)
				}
			}
			if !sleep(ctx, time.Second) {
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-n.wake:
		}
	}
}

var errUnchanged = fmt.Errorf("unchanged")

func (n *nodeStatus) writeStatus(ctx context.Context, force bool) error {
	n.mu.Lock()
	node := n.node
	n.mu.Unlock()
	st := n.status(node)
	wasReady := nodeReady(node.Status.Conditions)
	if !force && sameNodeStatus(node.Status, st) {
		return errUnchanged
	}
	from, err := json.Marshal(map[string]any{"status": node.Status})
	if err != nil {
		return err
	}
	to, err := json.Marshal(map[string]any{"status": st})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, corev1.Node{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseInterval)
	defer cancel()
	got, err := n.k.cfg.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.node = got
	n.mu.Unlock()
	n.tellShutdown(&st)
	if is := nodeReady(st.Conditions); is != wasReady {
		reason := "NodeNotReady"
		if is {
			reason = "NodeReady"
		}
		n.k.recorder.Event(n.ref(), corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", node.Name, reason))
	}
	return nil
}

func nodeReady(cs []corev1.NodeCondition) bool {
	for _, c := range cs {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// sameNodeStatus compares without the times of heartbeats.
func sameNodeStatus(a, b corev1.NodeStatus) bool {
	strip := func(s corev1.NodeStatus) corev1.NodeStatus {
		s = *s.DeepCopy()
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		return s
	}
	return apiequality.Semantic.DeepEqual(strip(a), strip(b))
}

// status computes the node's status on top of what the API has (nil before registration).
func (n *nodeStatus) status(node *corev1.Node) corev1.NodeStatus {
	var st corev1.NodeStatus
	if node != nil {
		st = *node.Status.DeepCopy()
	}
	st.Capacity, st.Allocatable = nodeResources(node, n.machine)
	st.NodeInfo = n.machine.info
	supplemental := true // resolveUser follows supplementalGroupsPolicy
	st.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &supplemental}
	st.RuntimeHandlers = n.k.runtimeHandlers()
	st.Addresses = nil
	for _, ip := range n.k.cfg.NodeIPs {
		st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.k.cfg.Hostname})
	if port := n.k.port(); port != 0 {
		st.DaemonEndpoints.KubeletEndpoint.Port = port
	}
	st.Images = n.images(st.Images)
	n.mu.Lock()
	ready, why := n.ready, n.why
	n.mu.Unlock()
	if n.k.shutdown.Load() {
		ready, why = false, messageShutdownNode
	}
	short := n.k.guard.short()
	under := func(c corev1.NodeConditionType) bool { return slices.Contains(short, c) }
	memory, disk, pids := under(corev1.NodeMemoryPressure), under(corev1.NodeDiskPressure), under(corev1.NodePIDPressure)
	set := func(t corev1.NodeConditionType, on bool, reason, message string) {
		setNodeCondition(&st, t, on, reason, message)
	}
	pick := func(on bool, yes, no [2]string) (string, string) {
		if on {
			return yes[0], yes[1]
		}
		return no[0], no[1]
	}
	r, msg := pick(memory, [2]string{"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"}, [2]string{"KubeletHasSufficientMemory", "kubelet has sufficient memory available"})
	set(corev1.NodeMemoryPressure, memory, r, msg)
	r, msg = pick(disk, [2]string{"KubeletHasDiskPressure", "kubelet has disk pressure"}, [2]string{"KubeletHasNoDiskPressure", "kubelet has no disk pressure"})
	set(corev1.NodeDiskPressure, disk, r, msg)
	r, msg = pick(pids, [2]string{"KubeletHasInsufficientPID", "kubelet has insufficient PID available"}, [2]string{"KubeletHasSufficientPID", "kubelet has sufficient PID available"})
	set(corev1.NodePIDPressure, pids, r, msg)
	r, msg = pick(ready, [2]string{"KubeletReady", "kubelet is posting ready status"}, [2]string{"KubeletNotReady", why})
	set(corev1.NodeReady, ready, r, msg)
	return st
}

func setNodeCondition(st *corev1.NodeStatus, t corev1.NodeConditionType, on bool, reason, message string) {
	now := metav1.Time{Time: time.Now().Truncate(time.Second)}
	c := corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
	if on {
		c.Status = corev1.ConditionTrue
	}
	for i := range st.Conditions {
		if st.Conditions[i].Type == t {
			if st.Conditions[i].Status == c.Status {
				c.LastTransitionTime = st.Conditions[i].LastTransitionTime
			}
			st.Conditions[i] = c
			return
		}
	}
	st.Conditions = append(st.Conditions, c)
}

// followNode keeps the copy of the Node fresh: its labels decide which pods may run here.
func (n *nodeStatus) followNode(ctx context.Context) {
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", n.k.cfg.NodeName).String(), AllowWatchBookmarks: true}
	for ctx.Err() == nil {
		if cur := n.current(); cur != nil {
			opts.ResourceVersion = cur.ResourceVersion
		}
		w, err := n.k.cfg.Client.CoreV1().Nodes().Watch(ctx, opts)
		if err == nil {
			err = n.readNode(ctx, w)
		}
		if err != nil {
			if got, err := n.k.cfg.Client.CoreV1().Nodes().Get(ctx, n.k.cfg.NodeName, metav1.GetOptions{}); err == nil {
				n.take(got)
			}
		}
		sleep(ctx, time.Second)
	}
}

func (n *nodeStatus) readNode(ctx context.Context, w watch.Interface) error {
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			if ev.Type == watch.Error {
				return apierrors.FromObject(ev.Object)
			}
			if node, ok := ev.Object.(*corev1.Node); ok && node.Name == n.k.cfg.NodeName && ev.Type != watch.Bookmark && ev.Type != watch.Deleted {
				n.take(node)
			}
		}
	}
}

// take keeps the newest Node. Extended resources that somebody put into its capacity become allocatable at once.
func (n *nodeStatus) take(node *corev1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.node != nil && !newer(node.ResourceVersion, n.node.ResourceVersion) {
		return
	}
	n.node = node
	if capacity, allocatable := nodeResources(node, n.machine); !sameQuantities(capacity, node.Status.Capacity) || !sameQuantities(allocatable, node.Status.Allocatable) {
		n.poke()
	}
}

// renewLease writes the node's Lease every 10 s.
func (n *nodeStatus) renewLease(ctx context.Context) {
	leases := n.k.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	var have *coordinationv1.Lease
	renew := func() error {
		ctx, cancel := context.WithTimeout(ctx, leaseInterval)
		defer cancel()
		now := metav1.NewMicroTime(time.Now())
		if have == nil {
			got, err := leases.Get(ctx, n.k.cfg.NodeName, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				have, err = leases.Create(ctx, n.newLease(now), metav1.CreateOptions{})
				return err
			}
			if err != nil {
				return err
			}
			have = got
		}
		next := have.DeepCopy()
		seconds := leaseSeconds
		next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds, next.Spec.RenewTime = &n.k.cfg.NodeName, &seconds, &now
		got, err := leases.Update(ctx, next, metav1.UpdateOptions{})
		if err != nil {
			have = nil
			return err
		}
		have = got
		return nil
	}
	told := false // of a failure: once, not at every attempt
	for delay := 50 * time.Millisecond; ; {
		wait := leaseInterval
		if err := renew(); err != nil && ctx.Err() == nil {
			have = nil
			if !told && delay >= time.Second {
				told = true
				n.k.log.Warn("cannot renew the node's lease, will go on trying", "err", err)
			}
			wait, delay = delay, min(2*delay, 7*time.Second)
		} else {
			delay, told = 50*time.Millisecond, false
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func (n *nodeStatus) newLease(now metav1.MicroTime) *coordinationv1.Lease {
	seconds := leaseSeconds
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: n.k.cfg.NodeName, Namespace: corev1.NamespaceNodeLease},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &n.k.cfg.NodeName, LeaseDurationSeconds: &seconds, RenewTime: &now}}
	if node := n.current(); node != nil {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
	return l
}

var alwaysReady = func() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}()

// runtimeReady is closed when the runtime can be asked.
func (k *Kubelet) runtimeReady() <-chan struct{} {
	if k.cfg.RuntimeReady == nil {
		return alwaysReady
	}
	return k.cfg.RuntimeReady
}

// port is where the kubelet's API is served, 0 before it is known.
func (k *Kubelet) port() int32 {
	addr := k.cfg.ListenAddress
	if k.cfg.Listener != nil {
		addr = k.cfg.Listener.Addr().String()
	}
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	v, err := strconv.ParseInt(p, 10, 32)
	if err != nil {
		return 0
	}
	return int32(v)
}
