package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/mini-k8s/mini/internal/quota"
)

const (
	// quotaTries is how often a charge is tried when other servers charge the same quotas at the same time.
	quotaTries = 20
	// countTime is how long after an object was stored a count may still be on its way that lacks it.
	countTime = 300 * time.Millisecond
	// quotaPatience bounds one round of charges; upstream's time.
	quotaPatience = 10 * time.Second
)

// resourceQuota charges the quotas of a namespace before an object is stored. It is the last plugin: what it has charged
// is wrong only if the store then refuses the object, which the quota controller puts right.
//
// Charges are written into status.used with an optimistic lock, so they are right with any number of servers. Requests for
// one namespace that come while a charge is being written wait and are charged together by the next write: fifty creators
// cost a few writes, not fifty that fight for the lock.
type resourceQuota struct {
	client kubernetes.Interface
	quotas corelisters.ResourceQuotaLister

	mu sync.Mutex
	// rounds has the requests that wait for the next round of a namespace; a namespace is in it while a round runs.
	rounds map[string][]*charge
	// written are quotas as this server wrote them last, until the lister has caught up.
	written map[string]*corev1.ResourceQuota
	// underway are the charged requests that are not done yet, or just are.
	underway map[flow]*underway
}

// flow is what is charged together: objects of a resource in a namespace.
type flow struct {
	namespace string
	resource  schema.GroupResource
}

// underway are the charged requests of a flow on their way to the store.
type underway struct {
	n    int
	last time.Time // when one of them was done
}

// charge is one request on its way through a round.
type charge struct {
	a       admission.Attributes
	request quota.Request
	err     error
	charged bool // some quota was written for it
	done    chan struct{}
}

var _ admission.ValidationInterface = (*resourceQuota)(nil)

func newResourceQuota(client kubernetes.Interface, factory informers.SharedInformerFactory) *resourceQuota {
	return &resourceQuota{
		client: client, quotas: factory.Core().V1().ResourceQuotas().Lister(),
		rounds: map[string][]*charge{}, written: map[string]*corev1.ResourceQuota{}, underway: map[flow]*underway{},
	}
}

func (*resourceQuota) Handles(op admission.Operation) bool { return writes(op) }

func (r *resourceQuota) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if q, ok := a.GetObject().(*corev1.ResourceQuota); ok && a.GetSubresource() == "status" {
		return r.lower(a, q)
	}
	if a.GetNamespace() == "" || !charged(a) {
		return nil
	}
	c := &charge{a: a, done: make(chan struct{}), request: quota.Request{
		Resource: a.GetResource().GroupResource(), Object: a.GetObject(), Now: time.Now(),
	}}
	if old, ok := a.GetOldObject().(metav1.Object); ok && old.GetResourceVersion() != "" {
		c.request.Old = old
	}
	quotas, err := r.quotas.ResourceQuotas(a.GetNamespace()).List(labels.Everything())
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if len(quotas) == 0 {
		return nil
	}
	end := r.begin(flow{a.GetNamespace(), c.request.Resource})
	r.enter(context.WithoutCancel(ctx), c)
	select {
	case <-c.done:
		if !c.charged {
			end(false)
			return c.err
		}
		context.AfterFunc(ctx, func() { end(true) }) // it ends with the request
		return c.err
	case <-ctx.Done():
		end(true)
		return ctx.Err()
	}
}

// begin counts a request as under way until end is called, which says whether it was charged.
func (r *resourceQuota) begin(f flow) (end func(charged bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	on := r.underway[f]
	if on == nil {
		on = &underway{}
		r.underway[f] = on
	}
	on.n++
	return func(charged bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		on.n--
		if charged {
			on.last = time.Now()
		}
	}
}

// lower refuses to take back a charge while objects it was made for are on their way: who has counted did not see them. It
// is asked again a moment later.
func (r *resourceQuota) lower(a admission.Attributes, q *corev1.ResourceQuota) error {
	old, ok := a.GetOldObject().(*corev1.ResourceQuota)
	if !ok {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, before := range old.Status.Used {
		after, kept := q.Status.Used[name]
		gr, counted := quota.Resource(name)
		if !kept || !counted || after.Cmp(before) >= 0 {
			continue
		}
		f := flow{q.Namespace, gr}
		on := r.underway[f]
		switch {
		case on == nil:
		case on.n == 0 && time.Since(on.last) > countTime:
			delete(r.underway, f)
		default:
			return apierrors.NewConflict(a.GetResource().GroupResource(), q.Name, fmt.Errorf("%s that were charged are on their way", gr))
		}
	}
	return nil
}

// charged says whether a write can use more of a quota: any create, and updates of what counts for more than its number.
func charged(a admission.Attributes) bool {
	gr, sub, creating := a.GetResource().GroupResource(), a.GetSubresource(), a.GetOperation() == admission.Create
	switch gr {
	case podResource:
		if sub == "resize" {
			return !creating
		}
		if sub == "" && !creating { // a deadline moves a pod from one scope to the other
			pod, ok := a.GetObject().(*corev1.Pod)
			old, was := a.GetOldObject().(*corev1.Pod)
			return ok && was && (pod.Spec.ActiveDeadlineSeconds == nil) != (old.Spec.ActiveDeadlineSeconds == nil)
		}
	case corev1.Resource("services"):
		return sub == ""
	case claimResource:
		return sub == "" || sub == "status" && !creating
	}
	return creating && sub == "" && quota.Counted(gr)
}

// enter puts the request into the namespace's next round, and starts that if none is running.
func (r *resourceQuota) enter(ctx context.Context, c *charge) {
	namespace := c.a.GetNamespace()
	r.mu.Lock()
	_, running := r.rounds[namespace]
	r.rounds[namespace] = append(r.rounds[namespace], c)
	r.mu.Unlock()
	if !running {
		go r.run(ctx, namespace)
	}
}

// run works on rounds until nobody waits any more.
func (r *resourceQuota) run(ctx context.Context, namespace string) {
	for {
		r.mu.Lock()
		round := r.rounds[namespace]
		if len(round) == 0 {
			delete(r.rounds, namespace)
			r.mu.Unlock()
			return
		}
		r.rounds[namespace] = nil
		r.mu.Unlock()
		r.charge(ctx, namespace, round)
		for _, c := range round {
			close(c.done)
		}
	}
}

// charge decides the requests of a round one after the other, and writes what they add up to. A quota that another writer
// has changed meanwhile is read again, and the requests are decided anew against it alone: the others have their charge.
func (r *resourceQuota) charge(ctx context.Context, namespace string, round []*charge) {
	ctx, cancel := context.WithTimeout(ctx, quotaPatience)
	defer cancel()
	quotas, err := r.current(ctx, namespace)
	for try := 0; err == nil && len(quotas) > 0; try++ {
		if try == quotaTries {
			err = errors.New("too many others change the quotas of this namespace")
			break
		}
		next := make([]corev1.ResourceList, len(quotas))
		for i, q := range quotas {
			next[i] = q.Status.Used
		}
		for _, c := range round {
			if c.err == nil {
				c.err = c.decide(quotas, next)
			}
		}
		quotas, err = r.write(ctx, quotas, next)
	}
	if err == nil {
		return
	}
	for _, c := range round {
		if c.err == nil {
			c.err = apierrors.NewInternalError(fmt.Errorf("resource quota evaluation failed: %w", err))
		}
	}
}

// decide charges all quotas or none. A dry run is decided but not charged.
func (c *charge) decide(quotas []*corev1.ResourceQuota, next []corev1.ResourceList) error {
	after := slices.Clone(next)
	for i, q := range quotas {
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: q.Name}, Spec: q.Spec, Status: corev1.ResourceQuotaStatus{Hard: q.Status.Hard, Used: next[i]}}
		used, err := quota.Charge(q, c.request)
		if err != nil {
			return admission.NewForbidden(c.a, err)
		}
		after[i] = used
	}
	if c.a.IsDryRun() {
		return nil
	}
	for i := range after {
		c.charged = c.charged || !quota.Equal(next[i], after[i])
	}
	copy(next, after)
	return nil
}

// write stores the new sums and returns, read anew, the quotas that somebody else has changed.
func (r *resourceQuota) write(ctx context.Context, quotas []*corev1.ResourceQuota, next []corev1.ResourceList) ([]*corev1.ResourceQuota, error) {
	var again []*corev1.ResourceQuota
	for i, q := range quotas {
		if quota.Equal(q.Status.Used, next[i]) {
			continue
		}
		changed := q.DeepCopy()
		changed.Status.Used = next[i]
		api := r.client.CoreV1().ResourceQuotas(q.Namespace)
		stored, err := api.UpdateStatus(ctx, changed, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			stored, err = api.Get(ctx, q.Name, metav1.GetOptions{})
			if err == nil {
				again = append(again, stored)
			}
		} else if err == nil {
			r.remember(stored)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return again, nil
}

func quotaKey(q *corev1.ResourceQuota) string { return q.Namespace + "/" + q.Name }

func (r *resourceQuota) remember(q *corev1.ResourceQuota) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written[quotaKey(q)] = q
}

// current are the namespace's quotas in the order of their names, as new as this server knows them. One that seems not to be
// counted yet is read anew: with no count to go by it would let everything in, and the lister may only be late.
func (r *resourceQuota) current(ctx context.Context, namespace string) ([]*corev1.ResourceQuota, error) {
	listed, err := r.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	quotas := make([]*corev1.ResourceQuota, 0, len(listed))
	for _, q := range r.newest(namespace, listed) {
		if !quota.Equal(q.Spec.Hard, q.Status.Hard) {
			q, err = r.client.CoreV1().ResourceQuotas(namespace).Get(ctx, q.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		quotas = append(quotas, q)
	}
	slices.SortFunc(quotas, func(a, b *corev1.ResourceQuota) int { return strings.Compare(a.Name, b.Name) })
	return quotas, nil
}

// newest replaces what the lister has by what this server has written since.
func (r *resourceQuota) newest(namespace string, listed []*corev1.ResourceQuota) []*corev1.ResourceQuota {
	quotas := slices.Clone(listed)
	r.mu.Lock()
	defer r.mu.Unlock()
	known := make(map[string]bool, len(quotas))
	for i, q := range quotas {
		key := quotaKey(q)
		known[key] = true
		if w := r.written[key]; w != nil && w.UID == q.UID && newer(w, q) {
			quotas[i] = w
		} else {
			delete(r.written, key)
		}
	}
	for key := range r.written { // of quotas that are gone
		if strings.HasPrefix(key, namespace+"/") && !known[key] {
			delete(r.written, key)
		}
	}
	return quotas
}

// newer compares versions; both are from the same store, where they are numbers that grow.
func newer(a, b *corev1.ResourceQuota) bool {
	x, errX := strconv.ParseUint(a.ResourceVersion, 10, 64)
	y, errY := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return errX == nil && errY == nil && x > y
}
