package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
	corelisters "k8s.io/client-go/listers/core/v1"
	psapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// existingPodsChecked bounds how many pods of a namespace are looked at when it becomes stricter.
const existingPodsChecked = 3000

// podSecurity holds pods to the Pod Security Standards that their namespace's labels name (KEP-2579). Nothing is exempt,
// and a namespace without labels is privileged.
type podSecurity struct {
	namespaces func(ctx context.Context, name string) (*corev1.Namespace, error)
	pods       corelisters.PodLister
	evaluator  policy.Evaluator
	defaults   psapi.Policy
}

var _ admission.ValidationInterface = (*podSecurity)(nil)

func newPodSecurity(namespaces func(context.Context, string) (*corev1.Namespace, error), pods corelisters.PodLister) (*podSecurity, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, err
	}
	privileged := psapi.LevelVersion{Level: psapi.LevelPrivileged, Version: psapi.LatestVersion()}
	return &podSecurity{
		namespaces: namespaces, pods: pods, evaluator: evaluator,
		defaults: psapi.Policy{Enforce: privileged, Audit: privileged, Warn: privileged},
	}, nil
}

func (*podSecurity) Handles(op admission.Operation) bool { return writes(op) }

func (p *podSecurity) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	switch obj := a.GetObject().(type) {
	case *corev1.Namespace:
		return p.namespace(ctx, a, obj)
	case *corev1.Pod:
		switch a.GetSubresource() {
		case "", "ephemeralcontainers", "resize":
		default:
			return nil
		}
		if old, ok := a.GetOldObject().(*corev1.Pod); ok && !significant(obj, old) {
			return nil
		}
		return p.pod(ctx, a, &obj.ObjectMeta, &obj.Spec, true)
	default:
		template := templateOf(obj)
		if template == nil || a.GetSubresource() != "" {
			return nil
		}
		return p.pod(ctx, a, &template.ObjectMeta, &template.Spec, false)
	}
}

// templateOf is the pod template of those kinds that make pods. They are only warned about: their pods will be refused.
func templateOf(obj any) *corev1.PodTemplateSpec {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.ReplicaSet:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	case *batchv1.Job:
		return &o.Spec.Template
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template
	case *corev1.PodTemplate:
		return &o.Template
	case *corev1.ReplicationController:
		return o.Spec.Template
	}
	return nil
}

// significant says whether an update changes anything the standards are about; the rest of a pod's spec cannot change.
func significant(pod, old *corev1.Pod) bool {
	for _, annotations := range []map[string]string{pod.Annotations, old.Annotations} {
		for key := range annotations {
			about := strings.HasPrefix(key, corev1.SeccompContainerAnnotationKeyPrefix) || key == corev1.SeccompPodAnnotationKey || //nolint:staticcheck // still checked
				strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
			if about && pod.Annotations[key] != old.Annotations[key] {
				return true
			}
		}
	}
	differ := func(a, b []corev1.Container) bool {
		return !slices.EqualFunc(a, b, func(x, y corev1.Container) bool {
			return x.Image == y.Image && equality.Semantic.DeepEqual(x.SecurityContext, y.SecurityContext)
		})
	}
	return differ(pod.Spec.Containers, old.Spec.Containers) || differ(pod.Spec.InitContainers, old.Spec.InitContainers) ||
		len(pod.Spec.EphemeralContainers) != len(old.Spec.EphemeralContainers)
}

func (p *podSecurity) pod(ctx context.Context, a admission.Attributes, meta *metav1.ObjectMeta, spec *corev1.PodSpec, enforce bool) error {
	namespace, err := p.namespaces(ctx, a.GetNamespace())
	switch {
	case err != nil && enforce:
		return apierrors.NewInternalError(fmt.Errorf("failed to lookup namespace %q", a.GetNamespace()))
	case err != nil:
		annotate(a, errorKey, fmt.Sprintf("failed to lookup namespace %q: %v", a.GetNamespace(), err))
		return nil
	}
	// Labels that cannot be read count as the strictest: the namespace was written before they were checked.
	levels, errs := psapi.PolicyToEvaluate(namespace.Labels, p.defaults)
	if len(errs) == 0 && levels.FullyPrivileged() {
		if enforce {
			annotate(a, psapi.EnforcedPolicyAnnotationKey, p.defaults.Enforce.String())
		}
		return nil
	}
	if len(errs) > 0 {
		annotate(a, errorKey, fmt.Sprintf("Failed to parse policy: %v", errs.ToAggregate()))
	}
	violated := func(level psapi.LevelVersion) (string, bool) {
		result := policy.AggregateCheckResults(p.evaluator.EvaluatePod(level, meta, spec))
		return fmt.Sprintf("violate PodSecurity %q: %s", level.String(), result.ForbiddenDetail()), !result.Allowed
	}
	var denied error
	if enforce {
		annotate(a, psapi.EnforcedPolicyAnnotationKey, levels.Enforce.String())
		if text, bad := violated(levels.Enforce); bad {
			denied = admission.NewForbidden(a, fmt.Errorf("violates%s", strings.TrimPrefix(text, "violate")))
		}
	}
	if text, bad := violated(levels.Audit); bad { // what is refused is told as well
		annotate(a, psapi.AuditViolationsAnnotationKey, "would "+text)
	}
	if denied != nil {
		return denied
	}
	if text, bad := violated(levels.Warn); bad {
		warning.AddWarning(ctx, "", "would "+text)
	}
	return nil
}

// errorKey says in the audit event why a namespace's labels did not decide.
const errorKey = "error"

// annotate writes into the request's audit event.
func annotate(a admission.Attributes, key, value string) {
	// An error would say that the key is not well-formed, and the keys are our own.
	_ = a.AddAnnotation(psapi.AuditAnnotationPrefix+key, value)
}

// namespace refuses labels that mean nothing, and tells who makes a namespace stricter which pods would not be let in.
func (p *podSecurity) namespace(ctx context.Context, a admission.Attributes, namespace *corev1.Namespace) error {
	if a.GetSubresource() != "" {
		return nil
	}
	levels, errs := psapi.PolicyToEvaluate(namespace.Labels, p.defaults)
	old, updating := a.GetOldObject().(*corev1.Namespace)
	if !updating {
		return invalidNamespace(a, namespace, len(errs) > 0, errs)
	}
	before, oldErrs := psapi.PolicyToEvaluate(old.Labels, p.defaults)
	if len(errs) > 0 {
		return invalidNamespace(a, namespace, len(oldErrs) == 0 || !equality.Semantic.DeepEqual(errs, oldErrs), errs)
	}
	if levels.Enforce == before.Enforce || psapi.CompareLevels(levels.Enforce.Level, before.Enforce.Level) < 0 || levels.Enforce.Level == psapi.LevelPrivileged {
		return nil
	}
	for _, text := range p.existing(namespace.Name, levels.Enforce) {
		warning.AddWarning(ctx, "", text)
	}
	return nil
}

func (p *podSecurity) existing(namespace string, level psapi.LevelVersion) []string {
	pods, err := p.pods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return []string{"failed to list pods while checking new PodSecurity enforce level"}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	var texts []string
	checked := min(len(pods), existingPodsChecked)
	violating := map[string][]string{} // the pods' names by what they do
	for _, pod := range pods[:checked] {
		if result := policy.AggregateCheckResults(p.evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec)); !result.Allowed {
			reason := result.ForbiddenReason()
			violating[reason] = append(violating[reason], pod.Name)
		}
	}
	if checked < len(pods) {
		texts = append(texts, fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", checked, len(pods)))
	}
	if len(violating) == 0 {
		return texts
	}
	texts = append(texts, fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, level.String()))
	var details []string
	for reason, names := range violating {
		others := ""
		switch len(names) {
		case 1:
		case 2:
			others = " (and 1 other pod)"
		default:
			others = fmt.Sprintf(" (and %d other pods)", len(names)-1)
		}
		details = append(details, fmt.Sprintf("%s%s: %s", names[0], others, reason))
	}
	slices.Sort(details)
	return append(texts, details...)
}

func invalidNamespace(a admission.Attributes, namespace *corev1.Namespace, invalid bool, errs field.ErrorList) error {
	if !invalid {
		return nil
	}
	return apierrors.NewInvalid(a.GetKind().GroupKind(), namespace.Name, errs)
}
