package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateJobStatusUpdate holds any controller to the rules of KEP-4368: a Job's end is announced by its reason first, is final,
// and counters do not fall. A rule is asked only when something it is about changes, so that a status from before the
// rules does not block other changes.
func validateJobStatusUpdate(j, old *batchv1.Job) field.ErrorList {
	path := field.NewPath("status")
	errs := apivalidation.ValidateObjectMetaUpdate(&j.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	errs = append(errs, validateJobCounters(&j.Status, path)...)
	errs = append(errs, validateJobEnd(j, old, path)...)
	errs = append(errs, validateJobTimes(j, old, path)...)
	errs = append(errs, validateJobIndexes(j, old, path)...)
	conditions := path.Child("conditions")
	for _, kind := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if condition(old, kind) && !condition(j, kind) {
			errs = append(errs, field.Invalid(conditions, field.OmitValueType{}, fmt.Sprintf("cannot disable the terminal %s=True condition", kind)))
		}
	}
	if j.Status.Failed < old.Status.Failed {
		errs = append(errs, field.Invalid(path.Child("failed"), j.Status.Failed, "cannot decrease the failed counter"))
	}
	// An Indexed Job that was scaled down no longer counts the indexes it lost.
	scalable := indexed(&j.Spec) && apiequality.Semantic.DeepEqual(j.Spec.Completions, j.Spec.Parallelism)
	if j.Status.Succeeded < old.Status.Succeeded && !scalable {
		errs = append(errs, field.Invalid(path.Child("succeeded"), j.Status.Succeeded, "cannot decrease the succeeded counter"))
	}
	met, wasMet := condition(j, batchv1.JobSuccessCriteriaMet), condition(old, batchv1.JobSuccessCriteriaMet)
	if wasMet && !met {
		errs = append(errs, field.Invalid(conditions, field.OmitValueType{}, "cannot disable the SuccessCriteriaMet=True condition"))
	}
	if condition(old, batchv1.JobComplete) && !wasMet && met {
		errs = append(errs, field.Invalid(conditions, field.OmitValueType{}, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"))
	}
	return errs
}

func validateJobCounters(s *batchv1.JobStatus, path *field.Path) field.ErrorList {
	errs := nonNegative(s.Active, path.Child("active"))
	errs = append(errs, nonNegative(s.Succeeded, path.Child("succeeded"))...)
	errs = append(errs, nonNegative(s.Failed, path.Child("failed"))...)
	errs = append(errs, nonNegative(deref(s.Ready), path.Child("ready"))...)
	errs = append(errs, nonNegative(deref(s.Terminating), path.Child("terminating"))...)
	if s.UncountedTerminatedPods == nil {
		return errs
	}
	seen := sets.New[types.UID]()
	for _, list := range []struct {
		name string
		uids []types.UID
	}{{"succeeded", s.UncountedTerminatedPods.Succeeded}, {"failed", s.UncountedTerminatedPods.Failed}} {
		for i, uid := range list.uids {
			at := path.Child("uncountedTerminatedPods", list.name).Index(i)
			switch {
			case uid == "":
				errs = append(errs, field.Invalid(at, uid, "must not be empty"))
			case seen.Has(uid):
				errs = append(errs, field.Duplicate(at, uid))
			}
			seen.Insert(uid)
		}
	}
	return errs
}

// validateJobEnd checks which conditions go together and what a finished Job looks like.
func validateJobEnd(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	changed := func(kind batchv1.JobConditionType) bool { return condition(j, kind) != condition(old, kind) }
	complete, failed := condition(j, batchv1.JobComplete), condition(j, batchv1.JobFailed)
	met, target := condition(j, batchv1.JobSuccessCriteriaMet), condition(j, batchv1.JobFailureTarget)
	completeChanged, failedChanged, metChanged, targetChanged := changed(batchv1.JobComplete), changed(batchv1.JobFailed), changed(batchv1.JobSuccessCriteriaMet), changed(batchv1.JobFailureTarget)
	refuse := func(when bool, message string) {
		if when {
			errs = append(errs, field.Invalid(path.Child("conditions"), field.OmitValueType{}, message))
		}
	}
	refuse((completeChanged || failedChanged) && complete && failed, "cannot set Complete=True and Failed=true conditions")
	refuse((completeChanged || targetChanged) && complete && target, "cannot set Complete=True and FailureTarget=true conditions")
	refuse((failedChanged || targetChanged) && failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition")
	refuse((completeChanged || metChanged) && complete && !met, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	refuse(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions")
	refuse(met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	refuse(j.Spec.SuccessPolicy != nil && !met && complete, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")

	s, o := &j.Status, &old.Status
	if !complete && !failed {
		return errs
	}
	ended := finished(j) != finished(old)
	if s.Active > 0 && (ended || s.Active != o.Active) {
		errs = append(errs, field.Invalid(path.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if deref(s.Terminating) > 0 && (ended || deref(s.Terminating) != deref(o.Terminating)) {
		errs = append(errs, field.Invalid(path.Child("terminating"), *s.Terminating, "terminating>0 is invalid for finished job"))
	}
	emptyAndSuspended := deref(j.Spec.Suspend) && j.Spec.Completions != nil && *j.Spec.Completions == 0 // ends without a start
	if s.StartTime == nil && (ended || o.StartTime != nil) && !emptyAndSuspended {
		errs = append(errs, field.Required(path.Child("startTime"), "startTime is required for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Succeeded)+len(u.Failed) > 0 && (ended || !apiequality.Semantic.DeepEqual(u, o.UncountedTerminatedPods)) {
		errs = append(errs, field.Invalid(path.Child("uncountedTerminatedPods"), u, "must be empty for finished job"))
	}
	return errs
}

func validateJobTimes(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	s, o := &j.Status, &old.Status
	complete := condition(j, batchv1.JobComplete)
	startMoved, endMoved := !sameTime(s.StartTime, o.StartTime), !sameTime(s.CompletionTime, o.CompletionTime)
	if completed := complete != condition(old, batchv1.JobComplete); completed || endMoved {
		if s.CompletionTime != nil && !complete {
			errs = append(errs, field.Invalid(path.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
		}
		if s.CompletionTime == nil && complete {
			errs = append(errs, field.Required(path.Child("completionTime"), "completionTime is required for Complete jobs"))
		}
	}
	if (startMoved || endMoved) && s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		errs = append(errs, field.Invalid(path.Child("completionTime"), s.CompletionTime, "must be equal to or after `startTime`"))
	}
	if endMoved && s.CompletionTime != nil && o.CompletionTime != nil {
		errs = append(errs, field.Invalid(path.Child("completionTime"), s.CompletionTime, "field is immutable"))
	}
	resumes := condition(old, batchv1.JobSuspended) && !condition(j, batchv1.JobSuspended)
	if startMoved && o.StartTime != nil && !deref(j.Spec.Suspend) && !resumes {
		errs = append(errs, field.Invalid(path.Child("startTime"), s.StartTime, "field is immutable for unsuspended job once set"))
	}
	if r := deref(s.Ready); r > s.Active && (r != deref(o.Ready) || s.Active != o.Active) {
		errs = append(errs, field.Invalid(path.Child("ready"), r, "cannot set more ready pods than active"))
	}
	return errs
}

func sameTime(a, b *metav1.Time) bool { return a.Equal(b) }

// validateJobIndexes checks the lists of indexes when they change: a scaled down Job may have those beyond its end for a while.
func validateJobIndexes(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	s := &j.Status
	completedMoved := s.CompletedIndexes != old.Status.CompletedIndexes
	failedMoved := !apiequality.Semantic.DeepEqual(s.FailedIndexes, old.Status.FailedIndexes)
	var completed, failed []interval
	if j.Spec.Completions != nil {
		var err error
		if completed, err = parseIndexes(s.CompletedIndexes, *j.Spec.Completions); err != nil && completedMoved {
			errs = append(errs, field.Invalid(path.Child("completedIndexes"), s.CompletedIndexes, "error parsing completedIndexes: "+err.Error()))
		}
		if failed, err = parseIndexes(deref(s.FailedIndexes), *j.Spec.Completions); err != nil && failedMoved && j.Spec.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(path.Child("failedIndexes"), *s.FailedIndexes, "error parsing failedIndexes: "+err.Error()))
		}
	}
	if completedMoved && s.CompletedIndexes != "" && !indexed(&j.Spec) {
		errs = append(errs, field.Invalid(path.Child("completedIndexes"), s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))
	}
	if failedMoved && s.FailedIndexes != nil && j.Spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(path.Child("failedIndexes"), *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))
	}
	if n, both := overlap(completed, failed); both && (completedMoved || failedMoved) {
		errs = append(errs, field.Invalid(path.Child("failedIndexes"), *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", n)))
	}
	return errs
}

// overlap finds an index that is in both.
func overlap(a, b []interval) (int32, bool) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].last < b[0].first:
			a = a[1:]
		case b[0].last < a[0].first:
			b = b[1:]
		default:
			return max(a[0].first, b[0].first), true
		}
	}
	return 0, false
}
