package resourcequota

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/internal/quota"
)

// plan returns the status that the quota should have now, nil if it has it. counted is what is there; settled says
// of a name that its charge has been the same for a while. again asks for another look once it may be settled.
func plan(q *corev1.ResourceQuota, counted corev1.ResourceList, settled func(corev1.ResourceName) bool) (next *corev1.ResourceQuotaStatus, again bool) {
	used := make(corev1.ResourceList, len(counted))
	for name, amount := range counted {
		if charged, ok := q.Status.Used[name]; ok && amount.Cmp(charged) < 0 && !settled(name) {
			amount, again = charged, true
		}
		used[name] = amount
	}
	if quota.Equal(q.Status.Hard, q.Spec.Hard) && quota.Equal(q.Status.Used, used) {
		return nil, again
	}
	return &corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: used}, again
}
