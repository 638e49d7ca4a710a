package deployment

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// snapshot is what a plan is made from. Nothing in it is modified.
type snapshot struct {
	deployment *appsv1.Deployment
	sets       []*appsv1.ReplicaSet // all that the Deployment controls
	// oldPods says that pods of former templates still run; only Recreate asks for it.
	oldPods bool
	now     time.Time
}

// changes is one step of a rollout.
type changes struct {
	create   *appsv1.ReplicaSet
	update   []setUpdate
	delete   []*appsv1.ReplicaSet
	revision string // what the Deployment's revision annotation should be; "" leaves it
	status   appsv1.DeploymentStatus
	// again is when the progress deadline passes; 0 if it does not run.
	again time.Duration
}

// setUpdate is a ReplicaSet to be written; from is its size before.
type setUpdate struct {
	set  *appsv1.ReplicaSet
	from int32
}

// rollout is a plan in the making: it works on shallow copies of the ReplicaSets.
type rollout struct {
	d       *appsv1.Deployment
	current *appsv1.ReplicaSet // of the Deployment's template; nil if there is none yet
	old     []*appsv1.ReplicaSet
	origin  map[*appsv1.ReplicaSet]*appsv1.ReplicaSet
	created bool
	deleted []*appsv1.ReplicaSet
	now     time.Time
}

func plan(s snapshot) changes {
	r := newRollout(s)
	d := s.deployment
	progress := false // whether this is a rollout, whose progress is judged
	switch {
	case d.DeletionTimestamp != nil:
	case d.Spec.Paused:
		r.sync(false)
		r.scale()
		r.cleanup()
	case r.resized():
		r.sync(false)
		r.scale()
	case rolling(d):
		progress = true
		r.sync(true)
		r.stepRolling()
	default:
		progress = true
		r.stepRecreate(s.oldPods)
	}
	return r.changes(progress)
}

func newRollout(s snapshot) *rollout {
	r := &rollout{d: s.deployment, now: s.now, origin: map[*appsv1.ReplicaSet]*appsv1.ReplicaSet{}}
	sets := slices.Clone(s.sets)
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	for _, rs := range sets {
		c := *rs
		r.origin[&c] = rs
		// Of several with the template (it can happen when one was made by hand) the oldest is it.
		if r.current == nil && sameTemplate(&rs.Spec.Template, &s.deployment.Spec.Template) {
			r.current = &c
			continue
		}
		r.old = append(r.old, &c)
	}
	return r
}

func (r *rollout) all() []*appsv1.ReplicaSet {
	if r.current == nil {
		return r.old
	}
	return append(slices.Clone(r.old), r.current)
}

func active(sets []*appsv1.ReplicaSet) (out []*appsv1.ReplicaSet) {
	for _, rs := range sets {
		if replicas(rs.Spec.Replicas) > 0 {
			out = append(out, rs)
		}
	}
	return out
}

// resized says whether the Deployment's size changed since the sets were last scaled.
func (r *rollout) resized() bool {
	for _, rs := range active(r.all()) {
		if desired, ok := annotatedCount(rs, annotationDesired); ok && desired != replicas(r.d.Spec.Replicas) {
			return true
		}
	}
	return false
}

// sync finds the current set or, if create says so, makes it, and gives it the next revision.
func (r *rollout) sync(create bool) {
	next := int64(1)
	for _, rs := range r.old {
		next = max(next, revision(rs)+1)
	}
	if r.current != nil {
		annotate(r.current, r.d, next, true)
		r.current.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
		return
	}
	if !create {
		return
	}
	r.current, r.created = newSet(r.d), true
	setReplicas(r.current, r.d, r.newSize())
	annotate(r.current, r.d, next, false)
}

// newSize is how large the current set may be now, without the sum going over replicas + maxSurge.
func (r *rollout) newSize() int32 {
	want, have := replicas(r.d.Spec.Replicas), replicas(r.current.Spec.Replicas)
	if !rolling(r.d) {
		return want
	}
	room := want + maxSurge(r.d) - wanted(r.all())
	if room <= 0 {
		return have
	}
	return have + min(room, want-have)
}

func (r *rollout) resize(rs *appsv1.ReplicaSet, n int32) bool {
	if replicas(rs.Spec.Replicas) == n {
		return false
	}
	setReplicas(rs, r.d, n)
	return true
}

// stepRolling does the next possible thing: grow the current set, else shrink old ones, else clean up.
func (r *rollout) stepRolling() {
	want := replicas(r.d.Spec.Replicas)
	switch have := replicas(r.current.Spec.Replicas); {
	case r.created:
		return
	case have > want:
		r.resize(r.current, want)
		return
	case have < want && r.resize(r.current, r.newSize()):
		return
	}
	if r.shrinkOld() {
		return
	}
	r.cleanup()
}

// shrinkOld takes pods from old sets as far as availability allows: first those that are not available anyway.
func (r *rollout) shrinkOld() bool {
	old := active(r.old)
	if len(old) == 0 {
		return false
	}
	least := replicas(r.d.Spec.Replicas) - maxUnavailable(r.d)
	unavailableNew := replicas(r.current.Spec.Replicas) - lasting(r.current)
	budget := wanted(r.all()) - least - unavailableNew
	if budget <= 0 {
		return false
	}
	done := int32(0)
	for _, rs := range old {
		broken := replicas(rs.Spec.Replicas) - lasting(rs)
		if n := min(budget-done, broken); n > 0 {
			r.resize(rs, replicas(rs.Spec.Replicas)-n)
			done += n
		}
	}
	// Availability is counted anew: it may be spread over more sets than the budget assumed.
	healthy := -least
	for _, rs := range r.all() {
		healthy += lasting(rs)
	}
	healthy = min(healthy, budget-done)
	for _, rs := range old {
		if n := min(healthy, replicas(rs.Spec.Replicas)); n > 0 {
			r.resize(rs, replicas(rs.Spec.Replicas)-n)
			healthy -= n
			done += n
		}
	}
	return done > 0
}

// stepRecreate first ends everything old, then starts the new.
func (r *rollout) stepRecreate(oldPods bool) {
	r.sync(false)
	shrunk := false
	for _, rs := range active(r.old) {
		shrunk = r.resize(rs, 0) || shrunk
	}
	if shrunk || oldPods || running(r.old) > 0 {
		return
	}
	r.sync(true)
	if !r.created && !r.resize(r.current, replicas(r.d.Spec.Replicas)) {
		r.cleanup()
	}
}

// scale follows a change of the Deployment's size that came while no rollout step may be made, or in the middle of one.
func (r *rollout) scale() {
	want := replicas(r.d.Spec.Replicas)
	live := active(r.all())
	if len(live) <= 1 {
		only := r.current
		switch {
		case len(live) == 1:
			only = live[0]
		case only == nil && len(r.old) > 0:
			only = r.old[len(r.old)-1]
		}
		if only != nil {
			if !r.resize(only, want) && replicas(only.Spec.Replicas) > 0 {
				setReplicas(only, r.d, want) // the annotations alone
			}
		}
		return
	}
	if r.saturated() {
		for _, rs := range active(r.old) {
			r.resize(rs, 0)
		}
		return
	}
	if rolling(r.d) {
		r.scaleProportionally(live)
	}
}

// saturated says whether the current set has all the pods that are wanted, available.
func (r *rollout) saturated() bool {
	if r.current == nil {
		return false
	}
	want := replicas(r.d.Spec.Replicas)
	desired, ok := annotatedCount(r.current, annotationDesired)
	return ok && desired == want && replicas(r.current.Spec.Replicas) == want && r.current.Status.AvailableReplicas == want
}

// scaleProportionally shares the change out over the live sets by their size, larger ones first: a bad rollout must not take
// all new pods. What rounding leaves goes to the first.
func (r *rollout) scaleProportionally(live []*appsv1.ReplicaSet) {
	allowed := int32(0)
	if n := replicas(r.d.Spec.Replicas); n > 0 {
		allowed = n + maxSurge(r.d)
	}
	toAdd := allowed - wanted(live)
	slices.SortFunc(live, func(a, b *appsv1.ReplicaSet) int {
		byAge := a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
		if toAdd > 0 { // newer first when growing, older first when shrinking
			byAge = -byAge
		}
		return cmp.Or(cmp.Compare(replicas(b.Spec.Replicas), replicas(a.Spec.Replicas)), byAge, strings.Compare(a.Name, b.Name))
	})
	sizes := make([]int32, len(live))
	added := int32(0)
	for i, rs := range live {
		share := int32(0)
		if left := toAdd - added; toAdd > 0 {
			share = max(0, min(r.share(rs), left))
		} else if toAdd < 0 {
			share = min(0, max(r.share(rs), left))
		}
		sizes[i] = replicas(rs.Spec.Replicas) + share
		added += share
	}
	sizes[0] = max(0, sizes[0]+toAdd-added)
	for i, rs := range live {
		setReplicas(rs, r.d, sizes[i])
	}
}

// share is how much a set would grow (or, negative, shrink) if it kept its part of the whole.
func (r *rollout) share(rs *appsv1.ReplicaSet) int32 {
	size := replicas(rs.Spec.Replicas)
	if replicas(r.d.Spec.Replicas) == 0 {
		return -size
	}
	before, ok := annotatedCount(rs, annotationMax)
	if !ok || before == 0 {
		before = r.d.Status.Replicas // a set that was adopted
	}
	if before == 0 {
		return 0
	}
	now := float64(replicas(r.d.Spec.Replicas)+maxSurge(r.d)) * float64(size) / float64(before)
	return int32(math.Round(now)) - size
}

// cleanup deletes empty old sets beyond the history limit, oldest revisions first. In a rollout it waits until that is over.
func (r *rollout) cleanup() {
	limit := r.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return
	}
	if !r.d.Spec.Paused && !complete(r.d, &r.d.Status) {
		return
	}
	var kept []*appsv1.ReplicaSet
	for _, rs := range r.old {
		if rs.DeletionTimestamp == nil {
			kept = append(kept, rs)
		}
	}
	excess := len(kept) - int(*limit)
	if excess <= 0 {
		return
	}
	slices.SortStableFunc(kept, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revision(a), revision(b)) })
	for _, rs := range kept[:excess] {
		if rs.Status.Replicas == 0 && replicas(rs.Spec.Replicas) == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			r.deleted = append(r.deleted, r.origin[rs])
		}
	}
}

// changes compares the working copies with what is.
func (r *rollout) changes(progress bool) changes {
	out := changes{delete: r.deleted}
	if r.created {
		out.create = r.current
	}
	for _, rs := range r.all() {
		was := r.origin[rs]
		if was == nil || slices.Contains(r.deleted, was) {
			continue
		}
		if !equality.Semantic.DeepEqual(rs.Annotations, was.Annotations) || replicas(rs.Spec.Replicas) != replicas(was.Spec.Replicas) ||
			rs.Spec.MinReadySeconds != was.Spec.MinReadySeconds {
			out.update = append(out.update, setUpdate{rs, replicas(was.Spec.Replicas)})
		}
	}
	if r.d.DeletionTimestamp == nil && r.current != nil {
		if rev := revision(r.current); rev > 0 && r.d.Annotations[annotationRevision] != strconv.FormatInt(rev, 10) {
			out.revision = strconv.FormatInt(rev, 10)
		}
	}
	out.status, out.again = r.status(progress)
	return out
}
