package deployment

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/dump"
	"k8s.io/apimachinery/pkg/util/rand"
)

// Annotations of ReplicaSets (and, the first, of Deployments); kubectl rollout reads them.
const (
	annotationRevision        = "deployment.kubernetes.io/revision"
	annotationRevisionHistory = "deployment.kubernetes.io/revision-history"
	annotationDesired         = "deployment.kubernetes.io/desired-replicas"
	annotationMax             = "deployment.kubernetes.io/max-replicas"
	annotationRollbackTo      = "deprecated.deployment.rollback.to"

	// maxHistoryLength bounds the list of former revisions, in characters.
	maxHistoryLength = 2000
)

// templateHash is the pod-template-hash of a template; collisions tells templates of equal hash apart.
func templateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprint(h, dump.ForHash(template))
	if collisions != nil {
		var salt [8]byte
		binary.LittleEndian.PutUint32(salt[:], uint32(*collisions))
		h.Write(salt[:])
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// sameTemplate says whether two templates make the same pods: the hash label is ours and does not count.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := *a, *b
	x.Labels, y.Labels = maps.Clone(a.Labels), maps.Clone(b.Labels)
	delete(x.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(y.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(&x, &y)
}

// revision returns the set's revision, 0 if it has none that can be read.
func revision(o metav1.Object) int64 {
	n, err := strconv.ParseInt(o.GetAnnotations()[annotationRevision], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// newSet makes the ReplicaSet for the Deployment's template, with no replicas yet.
func newSet(d *appsv1.Deployment) *appsv1.ReplicaSet {
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	template.Labels = with(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = with(selector.MatchLabels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + hash, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, Kind)},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32), MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template},
	}
}

// with returns m with one entry more; m may be nil and is not changed.
func with(m map[string]string, key, value string) map[string]string {
	out := maps.Clone(m)
	if out == nil {
		out = map[string]string{}
	}
	out[key] = value
	return out
}

// annotate brings the annotations of the current ReplicaSet up to date: the Deployment's own are copied, and its revision
// becomes number unless it is that high already. A revision that comes again remembers what it was before.
func annotate(rs *appsv1.ReplicaSet, d *appsv1.Deployment, number int64, existed bool) {
	out := maps.Clone(rs.Annotations)
	if out == nil {
		out = map[string]string{}
	}
	for k, v := range d.Annotations {
		switch k {
		case corev1.LastAppliedConfigAnnotation, annotationRevision, annotationRevisionHistory, annotationDesired, annotationMax, annotationRollbackTo:
		default:
			out[k] = v
		}
	}
	if was := revision(rs); was < number {
		out[annotationRevision] = strconv.FormatInt(number, 10)
		if existed && was > 0 {
			out[annotationRevisionHistory] = remember(out[annotationRevisionHistory], strconv.FormatInt(was, 10))
		}
	}
	rs.Annotations = out
}

// remember appends a revision to the history and drops the oldest that no longer fit.
func remember(history, rev string) string {
	all := slices.DeleteFunc(strings.Split(history, ","), func(s string) bool { return s == "" })
	all = append(all, rev)
	for len(strings.Join(all, ",")) > maxHistoryLength {
		all = all[1:]
	}
	return strings.Join(all, ",")
}

// setReplicas sets a ReplicaSet's size, and for later proportional scaling what the Deployment was like at this time.
func setReplicas(rs *appsv1.ReplicaSet, d *appsv1.Deployment, n int32) {
	rs.Spec.Replicas = &n
	rs.Annotations = with(rs.Annotations, annotationDesired, strconv.Itoa(int(replicas(d.Spec.Replicas))))
	rs.Annotations[annotationMax] = strconv.Itoa(int(replicas(d.Spec.Replicas) + maxSurge(d)))
}

// annotatedCount reads one of the counts that setReplicas left behind.
func annotatedCount(rs *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[key], 10, 32)
	return int32(n), err == nil
}
