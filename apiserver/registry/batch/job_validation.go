package batch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry/core"
)

// Limits that keep status.completedIndexes and status.failedIndexes of a size that can be stored (KEP-3850).
const (
	maxIndexedParallelism     = 100_000
	maxFailedIndexes          = 100_000
	completionsSoftLimit      = 100_000
	parallelismAboveSoftLimit = 10_000
	failedAboveSoftLimit      = 10_000
)

const (
	maxFailureRules    = 20
	maxExitCodes       = 255
	maxConditions      = 20
	maxManagedBy       = 63
	maxSuccessRules    = 20
	maxSuccessIndexes  = 64 << 10
	maxCronJobNameSize = 52 // a Job's name is the CronJob's with a number of ten digits
)

var (
	failureActions = []batchv1.PodFailurePolicyAction{
		batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore,
	}
	exitCodeOperators = []batchv1.PodFailurePolicyOnExitCodesOperator{
		batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn,
	}
	conditionStatuses   = []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
	replacementPolicies = []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
)

func nonNegative(n int32, path *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(n), path)
}

// required is an enumeration that must be set.
func required[T ~string](value T, supported []T, path *field.Path) field.ErrorList {
	switch {
	case value == "":
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q", supported))}
	case !slices.Contains(supported, value):
		return field.ErrorList{field.NotSupported(path, value, supported)}
	}
	return nil
}

// validateJob checks all but the metadata. Jobs from before the labels had a domain have only those without.
func validateJob(j *batchv1.Job, newLabels bool) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateGeneratedSelector(j, newLabels)
	errs = append(errs, validateJobSpec(&j.Spec, path)...)
	if j.Spec.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else {
		errs = append(errs, metav1validation.ValidateLabelSelector(j.Spec.Selector, metav1validation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
	}
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(labels.Set(j.Spec.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), j.Spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	if indexed(&j.Spec) && deref(j.Spec.Completions) > 0 {
		hostname := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1) // of the last index
		if len(validation.IsDNS1123Label(hostname)) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+hostname))
		}
	}
	return errs
}

func validateGeneratedSelector(j *batchv1.Job, newLabels bool) field.ErrorList {
	if deref(j.Spec.ManualSelector) || j.Spec.Selector == nil {
		return nil
	}
	var errs field.ErrorList
	if j.UID == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	at := field.NewPath("spec", "template", "metadata")
	expected := labels.Set{}
	want := func(names []string, value string) {
		if !newLabels {
			names = names[:1]
		}
		for _, name := range names {
			expected[name] = value
			switch is, ok := j.Spec.Template.Labels[name]; {
			case !ok:
				errs = append(errs, field.Required(at.Child("labels").Key(name), fmt.Sprintf("must be '%s'", value)))
			case is != value:
				errs = append(errs, field.Invalid(at.Child("labels").Key(name), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", value)))
			}
		}
	}
	want(uidLabels, string(j.UID))
	want(nameLabels, j.Name)
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(expected) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// validateJobSpec checks what a Job and a CronJob's template of one have in common.
func validateJobSpec(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, n := range []struct {
		name string
		n    *int32
	}{
		{"parallelism", spec.Parallelism}, {"completions", spec.Completions}, {"backoffLimit", spec.BackoffLimit},
		{"ttlSecondsAfterFinished", spec.TTLSecondsAfterFinished}, {"backoffLimitPerIndex", spec.BackoffLimitPerIndex},
		{"maxFailedIndexes", spec.MaxFailedIndexes},
	} {
		if n.n != nil {
			errs = append(errs, nonNegative(*n.n, path.Child(n.name))...)
		}
	}
	if n := spec.ActiveDeadlineSeconds; n != nil {
		errs = append(errs, apivalidation.ValidateNonnegativeField(*n, path.Child("activeDeadlineSeconds"))...)
	}
	if spec.MaxFailedIndexes != nil && spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if m := spec.ManagedBy; m != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(path.Child("managedBy"), *m)...)
		if len(*m) > maxManagedBy {
			errs = append(errs, field.TooLong(path.Child("managedBy"), "", maxManagedBy))
		}
	}
	errs = append(errs, validateCompletionMode(spec, path)...)
	if spec.PodFailurePolicy != nil {
		errs = append(errs, validateFailurePolicy(spec, path.Child("podFailurePolicy"))...)
	}
	if spec.SuccessPolicy != nil {
		errs = append(errs, validateSuccessPolicy(spec, path.Child("successPolicy"))...)
	}
	if p := spec.PodReplacementPolicy; p != nil {
		supported := replacementPolicies
		if spec.PodFailurePolicy != nil {
			supported = supported[:1] // pods that only terminate have no exit code yet to judge by
		}
		if !slices.Contains(supported, *p) {
			errs = append(errs, field.NotSupported(path.Child("podReplacementPolicy"), *p, supported))
		}
	}
	errs = append(errs, core.ValidatePodTemplate(&spec.Template, path.Child("template"))...)
	restart := path.Child("template", "spec", "restartPolicy")
	switch p := spec.Template.Spec.RestartPolicy; {
	case p == corev1.RestartPolicyAlways || p == "":
		errs = append(errs, field.Required(restart, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)))
	case p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever:
		errs = append(errs, field.NotSupported(restart, p, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	case spec.PodFailurePolicy != nil && p != corev1.RestartPolicyNever:
		errs = append(errs, field.Invalid(restart, p, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever)))
	}
	return errs
}

func validateCompletionMode(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m := spec.CompletionMode; m != nil && *m != batchv1.NonIndexedCompletion && *m != batchv1.IndexedCompletion {
		errs = append(errs, field.NotSupported(path.Child("completionMode"), *m, []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}))
	}
	atMost := func(name string, n *int32, limit int32, suffix string) {
		if n != nil && *n > limit {
			errs = append(errs, field.Invalid(path.Child(name), *n, fmt.Sprintf("must be less than or equal to %d%s", limit, suffix)))
		}
	}
	if !indexed(spec) {
		if deref(spec.CompletionMode) == "" || *spec.CompletionMode == batchv1.NonIndexedCompletion {
			for name, n := range map[string]*int32{"backoffLimitPerIndex": spec.BackoffLimitPerIndex, "maxFailedIndexes": spec.MaxFailedIndexes} {
				if n != nil {
					errs = append(errs, field.Invalid(path.Child(name), *n, "requires indexed completion mode"))
				}
			}
		}
		return errs
	}
	if spec.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), "when completion mode is "+string(batchv1.IndexedCompletion)))
	}
	atMost("parallelism", spec.Parallelism, maxIndexedParallelism, " when completion mode is "+string(batchv1.IndexedCompletion))
	if spec.Completions != nil && spec.MaxFailedIndexes != nil && *spec.MaxFailedIndexes > *spec.Completions {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *spec.MaxFailedIndexes, "must be less than or equal to completions"))
	}
	atMost("maxFailedIndexes", spec.MaxFailedIndexes, maxFailedIndexes, "")
	if deref(spec.Completions) > completionsSoftLimit && spec.BackoffLimitPerIndex != nil {
		if spec.MaxFailedIndexes == nil {
			errs = append(errs, field.Required(path.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", completionsSoftLimit)))
		}
		above := fmt.Sprintf(" when completions are above %d and used with backoff limit per index", completionsSoftLimit)
		atMost("parallelism", spec.Parallelism, parallelismAboveSoftLimit, above)
		atMost("maxFailedIndexes", spec.MaxFailedIndexes, failedAboveSoftLimit, above)
	}
	return errs
}

func validateFailurePolicy(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	rules := spec.PodFailurePolicy.Rules
	if len(rules) > maxFailureRules {
		errs = append(errs, field.TooMany(path.Child("rules"), len(rules), maxFailureRules))
	}
	containers := sets.New[string]()
	for _, c := range slices.Concat(spec.Template.Spec.Containers, spec.Template.Spec.InitContainers) {
		containers.Insert(c.Name)
	}
	for i := range rules {
		rule, at := &rules[i], path.Child("rules").Index(i)
		if rule.Action == batchv1.PodFailurePolicyActionFailIndex && spec.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Invalid(at.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set"))
		}
		errs = append(errs, required(rule.Action, failureActions, at.Child("action"))...)
		if rule.OnExitCodes != nil {
			errs = append(errs, validateExitCodes(rule.OnExitCodes, containers, at.Child("onExitCodes"))...)
		}
		errs = append(errs, validatePodConditions(rule.OnPodConditions, at.Child("onPodConditions"))...)
		switch {
		case rule.OnExitCodes != nil && len(rule.OnPodConditions) > 0:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		case rule.OnExitCodes == nil && len(rule.OnPodConditions) == 0:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
	}
	return errs
}

func validatePodConditions(patterns []batchv1.PodFailurePolicyOnPodConditionsPattern, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(patterns) > maxConditions {
		errs = append(errs, field.TooMany(path, len(patterns), maxConditions))
	}
	for i, p := range patterns {
		for _, msg := range validation.IsQualifiedName(string(p.Type)) {
			errs = append(errs, field.Invalid(path.Index(i).Child("type"), p.Type, msg))
		}
		errs = append(errs, required(p.Status, conditionStatuses, path.Index(i).Child("status"))...)
	}
	return errs
}

func validateExitCodes(on *batchv1.PodFailurePolicyOnExitCodesRequirement, containers sets.Set[string], path *field.Path) field.ErrorList {
	errs := required(on.Operator, exitCodeOperators, path.Child("operator"))
	if c := on.ContainerName; c != nil && !containers.Has(*c) {
		errs = append(errs, field.Invalid(path.Child("containerName"), *c, "must be one of the container or initContainer names in the pod template"))
	}
	at := path.Child("values")
	switch {
	case len(on.Values) == 0:
		errs = append(errs, field.Invalid(at, on.Values, "at least one value is required"))
	case len(on.Values) > maxExitCodes:
		errs = append(errs, field.TooMany(at, len(on.Values), maxExitCodes))
	}
	seen := sets.New[int32]()
	for i, code := range on.Values {
		if code == 0 && on.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn {
			errs = append(errs, field.Invalid(at.Index(i), code, "must not be 0 for the In operator"))
		}
		if seen.Has(code) {
			errs = append(errs, field.Duplicate(at.Index(i), code))
		}
		seen.Insert(code)
	}
	if !slices.IsSorted(on.Values) {
		errs = append(errs, field.Invalid(at, on.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if !indexed(spec) {
		return field.ErrorList{field.Invalid(path, *spec.SuccessPolicy, "requires indexed completion mode")}
	}
	var errs field.ErrorList
	rules, completions := spec.SuccessPolicy.Rules, deref(spec.Completions)
	if len(rules) == 0 {
		errs = append(errs, field.Required(path.Child("rules"), "at least one rules must be specified when the successPolicy is specified"))
	}
	if len(rules) > maxSuccessRules {
		errs = append(errs, field.TooMany(path.Child("rules"), len(rules), maxSuccessRules))
	}
	for i, rule := range rules {
		at := path.Child("rules").Index(i)
		if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
			errs = append(errs, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
		}
		total := int32(0)
		if indexes := rule.SucceededIndexes; indexes != nil {
			if len(*indexes) > maxSuccessIndexes {
				errs = append(errs, field.TooLong(at.Child("succeededIndexes"), "", maxSuccessIndexes))
			}
			intervals, err := parseIndexes(*indexes, completions)
			if err != nil {
				errs = append(errs, field.Invalid(at.Child("succeededIndexes"), *indexes, "error parsing succeededIndexes: "+err.Error()))
			}
			for _, in := range intervals {
				total += in.last - in.first + 1
			}
		}
		if n := rule.SucceededCount; n != nil {
			count := at.Child("succeededCount")
			errs = append(errs, nonNegative(*n, count)...)
			if *n > completions {
				errs = append(errs, field.Invalid(count, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
			}
			if rule.SucceededIndexes != nil && *n > total {
				errs = append(errs, field.Invalid(count, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
			}
		}
	}
	return errs
}

// interval is a run of indexes, both ends included.
type interval struct{ first, last int32 }

// parseIndexes reads indexes as status and success policies write them: "1,3-5,7", rising and below completions.
func parseIndexes(text string, completions int32) ([]interval, error) {
	if text == "" {
		return nil, nil
	}
	var out []interval
	for part := range strings.SplitSeq(text, ",") {
		ends := strings.Split(part, "-")
		if len(ends) > 2 {
			return nil, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
		}
		var at [2]int
		for i, end := range ends {
			n, err := strconv.Atoi(end)
			if err != nil {
				return nil, fmt.Errorf("cannot convert string to integer for index: %q", end)
			}
			if n >= int(completions) {
				return nil, fmt.Errorf("too large index: %q", end)
			}
			at[i] = n
		}
		if len(ends) == 1 {
			at[1] = at[0]
		} else if at[0] >= at[1] {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", at[0], at[1])
		}
		if n := len(out); n > 0 && int(out[n-1].last) >= at[0] {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", out[n-1].last, at[0])
		}
		out = append(out, interval{int32(at[0]), int32(at[1])})
	}
	return out, nil
}

// validateJobUpdate lets only that change which a running Job can follow; a suspended one that has no pods also its scheduling and
// resources (KEP-2926, KEP-5440).
func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&j.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	if apiequality.Semantic.DeepEqual(j.Spec, old.Spec) {
		return errs // what another server accepted must not keep labels and finalizers from changing
	}
	_, named := old.Spec.Template.Labels[batchv1.JobNameLabel]
	_, numbered := old.Spec.Template.Labels[batchv1.ControllerUidLabel]
	errs = append(errs, validateJob(j, named && numbered)...)
	path := field.NewPath("spec")
	if !indexed(&j.Spec) {
		errs = append(errs, apivalidation.ValidateImmutableField(j.Spec.Completions, old.Spec.Completions, path.Child("completions"))...)
	} else if c := j.Spec.Completions; c != nil && !apiequality.Semantic.DeepEqual(c, old.Spec.Completions) && *c != deref(j.Spec.Parallelism) {
		errs = append(errs, field.Invalid(path.Child("completions"), *c, "can only be modified in tandem with "+path.Child("parallelism").String()))
	}
	for _, f := range []struct {
		name    string
		is, was any
	}{
		{"selector", j.Spec.Selector, old.Spec.Selector},
		{"template", &j.Spec.Template, comparableTemplate(j, old)},
		{"completionMode", j.Spec.CompletionMode, old.Spec.CompletionMode},
		{"podFailurePolicy", j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy},
		{"backoffLimitPerIndex", j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex},
		{"managedBy", j.Spec.ManagedBy, old.Spec.ManagedBy},
		{"successPolicy", j.Spec.SuccessPolicy, old.Spec.SuccessPolicy},
	} {
		errs = append(errs, apivalidation.ValidateImmutableField(f.is, f.was, path.Child(f.name))...)
	}
	return errs
}

// comparableTemplate is the old template with what may change taken from the new one.
func comparableTemplate(j, old *batchv1.Job) *corev1.PodTemplateSpec {
	if !deref(old.Spec.Suspend) || old.Status.Active > 0 || old.Status.StartTime != nil && !condition(old, batchv1.JobSuspended) {
		return &old.Spec.Template
	}
	is, was := &j.Spec.Template, old.Spec.Template.DeepCopy()
	switch a, o := is.Spec.Affinity, was.Spec.Affinity; {
	case a == nil && o != nil:
		if o.NodeAffinity = nil; *o == (corev1.Affinity{}) {
			was.Spec.Affinity = nil
		}
	case a != nil && o == nil:
		was.Spec.Affinity = &corev1.Affinity{NodeAffinity: a.NodeAffinity}
	case a != nil:
		o.NodeAffinity = a.NodeAffinity
	}
	was.Spec.NodeSelector, was.Spec.Tolerations, was.Spec.SchedulingGates = is.Spec.NodeSelector, is.Spec.Tolerations, is.Spec.SchedulingGates
	was.Labels, was.Annotations = is.Labels, is.Annotations
	resources := func(is, was []corev1.Container) {
		for i := range was {
			if i < len(is) && is[i].Name == was[i].Name {
				was[i].Resources = is[i].Resources
			}
		}
	}
	resources(is.Spec.Containers, was.Spec.Containers)
	resources(is.Spec.InitContainers, was.Spec.InitContainers)
	return was
}
