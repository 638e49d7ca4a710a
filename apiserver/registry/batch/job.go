package batch

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
)

// Job is the row of jobs.
func Job() registry.Resource {
	main, status := registry.SpecStatus(func(j *batchv1.Job) (*batchv1.JobSpec, *batchv1.JobStatus) { return &j.Spec, &j.Status })
	main.PrepareForCreate = registry.Then(main.PrepareForCreate, generateSelector)
	main.Validate = registry.Validate(func(j *batchv1.Job) field.ErrorList {
		errs := apivalidation.ValidateObjectMeta(&j.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
		return append(errs, validateJob(j, true)...)
	})
	main.ValidateUpdate = registry.ValidateUpdate(validateJobUpdate)
	template := core.TemplateWarnings(field.NewPath("spec", "template"), func(j *batchv1.Job) *corev1.PodTemplateSpec { return &j.Spec.Template })
	main.Warnings = registry.Warnings(registry.Warn(jobWarnings), template)
	main.OrphanDependents = true
	status.ValidateUpdate = registry.ValidateUpdate(validateJobStatusUpdate)
	return registry.Resource{
		GVK: batchv1.SchemeGroupVersion.WithKind("Job"), Name: "jobs", Singular: "job", Categories: []string{"all"}, Namespaced: true,
		Default:  registry.Defaulter(defaultJob),
		Strategy: main,
		Fields: registry.Select(func(j *batchv1.Job) fields.Set {
			return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
		}),
		Table: registry.Table{
			Columns: append(append([]metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Status", "How far the job is"),
				registry.Column("Completions", "How many pods succeeded, of how many wanted"),
				registry.Column("Duration", "How long the job took, or has taken so far"),
				registry.AgeColumn(),
			}, core.TemplateColumns()...), registry.Wide(registry.Column("Selector", "The labels of the job's pods"))),
			Cells: registry.Cells(jobCells),
		},
		Status: &status,
	}
}

func ptr[T any](v T) *T { return &v }

func deref[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

func indexed(spec *batchv1.JobSpec) bool {
	return deref(spec.CompletionMode) == batchv1.IndexedCompletion
}

func defaultJob(j *batchv1.Job) {
	spec := &j.Spec
	if spec.Completions == nil && spec.Parallelism == nil {
		spec.Completions = ptr(int32(1))
	}
	if spec.Parallelism == nil {
		spec.Parallelism = ptr(int32(1))
	}
	if spec.BackoffLimit == nil {
		spec.BackoffLimit = ptr(int32(6))
		if spec.BackoffLimitPerIndex != nil {
			spec.BackoffLimit = ptr(int32(math.MaxInt32))
		}
	}
	if spec.Template.Labels != nil && len(j.Labels) == 0 {
		j.Labels = maps.Clone(spec.Template.Labels)
	}
	if spec.CompletionMode == nil {
		spec.CompletionMode = ptr(batchv1.NonIndexedCompletion)
	}
	if spec.Suspend == nil {
		spec.Suspend = ptr(false)
	}
	if spec.PodReplacementPolicy == nil {
		spec.PodReplacementPolicy = ptr(batchv1.TerminatingOrFailed)
		if spec.PodFailurePolicy != nil {
			spec.PodReplacementPolicy = ptr(batchv1.Failed)
		}
	}
	if spec.ManualSelector == nil {
		spec.ManualSelector = ptr(false)
	}
	defaultJobSpec(spec)
}

// defaultJobSpec fills what a Job and a CronJob's template of one have in common.
func defaultJobSpec(spec *batchv1.JobSpec) {
	if p := spec.PodFailurePolicy; p != nil {
		for i := range p.Rules {
			for k := range p.Rules[i].OnPodConditions {
				if c := &p.Rules[i].OnPodConditions[k]; c.Status == "" {
					c.Status = corev1.ConditionTrue
				}
			}
		}
	}
	core.DefaultPodTemplate(&spec.Template)
}

// The labels that tie a pod to its Job, with the names from before they had a domain.
var (
	uidLabels  = []string{"controller-uid", batchv1.ControllerUidLabel}
	nameLabels = []string{"job-name", batchv1.JobNameLabel}
)

// generateSelector makes the selector match the pods of this Job only. Labels that the client set are left as they are, for
// validation to refuse.
func generateSelector(j *batchv1.Job) {
	if deref(j.Spec.ManualSelector) {
		return
	}
	t := &j.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	missing := func(labels []string, value string) {
		for _, l := range labels {
			if _, ok := t.Labels[l]; !ok {
				t.Labels[l] = value
			}
		}
	}
	missing(nameLabels, j.Name)
	missing(uidLabels, string(j.UID))
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !ok {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
}

func jobWarnings(j, old *batchv1.Job) []string {
	var warnings []string
	if old == nil {
		if msgs := validation.IsDNS1123Label(j.Name); len(msgs) > 0 {
			warnings = append(warnings, fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
		}
	}
	if indexed(&j.Spec) && deref(j.Spec.Completions) > completionsSoftLimit && deref(j.Spec.Parallelism) > parallelismAboveSoftLimit {
		warnings = append(warnings, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, "+
			"Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return warnings
}

func condition(j *batchv1.Job, kind batchv1.JobConditionType) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func finished(j *batchv1.Job) bool {
	return condition(j, batchv1.JobComplete) || condition(j, batchv1.JobFailed)
}

func jobCells(j *batchv1.Job) []any {
	completions := fmt.Sprintf("%d/1", j.Status.Succeeded)
	if n := j.Spec.Completions; n != nil {
		completions = fmt.Sprintf("%d/%d", j.Status.Succeeded, *n)
	} else if p := deref(j.Spec.Parallelism); p > 1 {
		completions = fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, p)
	}
	took := ""
	if start := j.Status.StartTime; start != nil {
		took = duration.HumanDuration(time.Since(start.Time))
		if end := j.Status.CompletionTime; end != nil {
			took = duration.HumanDuration(end.Sub(start.Time))
		}
	}
	state := "Running"
	switch {
	case condition(j, batchv1.JobComplete):
		state = "Complete"
	case condition(j, batchv1.JobFailed):
		state = "Failed"
	case j.DeletionTimestamp != nil:
		state = "Terminating"
	case condition(j, batchv1.JobSuspended):
		state = "Suspended"
	case condition(j, batchv1.JobFailureTarget):
		state = "FailureTarget"
	case condition(j, batchv1.JobSuccessCriteriaMet):
		state = "SuccessCriteriaMet"
	}
	names, images := core.ContainerCells(j.Spec.Template.Spec.Containers)
	return []any{
		j.Name, state, completions, took, registry.Age(j.CreationTimestamp), names, images, metav1.FormatLabelSelector(j.Spec.Selector),
	}
}
