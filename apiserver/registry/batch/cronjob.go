package batch

import (
	"regexp"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
	"github.com/mini-k8s/mini/internal/cron"
)

// CronJob is the row of cronjobs.
func CronJob() registry.Resource {
	main, status := registry.SpecStatus(func(c *batchv1.CronJob) (*batchv1.CronJobSpec, *batchv1.CronJobStatus) { return &c.Spec, &c.Status })
	main.Validate = registry.Validate(func(c *batchv1.CronJob) field.ErrorList {
		errs := apivalidation.ValidateObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
		errs = append(errs, validateCronJobSpec(&c.Spec, nil, field.NewPath("spec"))...)
		if len(c.Name) > maxCronJobNameSize {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters"))
		}
		return errs
	})
	main.ValidateUpdate = registry.ValidateUpdate(func(c, old *batchv1.CronJob) field.ErrorList {
		errs := apivalidation.ValidateObjectMetaUpdate(&c.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
		if apiequality.Semantic.DeepEqual(c.Spec, old.Spec) {
			return errs // what another server accepted must not keep labels and finalizers from changing
		}
		return append(errs, validateCronJobSpec(&c.Spec, &old.Spec, field.NewPath("spec"))...)
	})
	template := core.TemplateWarnings(field.NewPath("spec", "jobTemplate", "spec", "template"), func(c *batchv1.CronJob) *corev1.PodTemplateSpec { return &c.Spec.JobTemplate.Spec.Template })
	main.Warnings = registry.Warnings(template, registry.Warn(func(c, _ *batchv1.CronJob) []string {
		if strings.Contains(c.Spec.Schedule, "TZ") {
			return []string{`spec.schedule: CRON_TZ or TZ used in schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details`}
		}
		return nil
	}))
	status.ValidateUpdate = registry.ValidateUpdate(func(c, old *batchv1.CronJob) field.ErrorList {
		return apivalidation.ValidateObjectMetaUpdate(&c.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	})
	return registry.Resource{
		GVK: batchv1.SchemeGroupVersion.WithKind("CronJob"), Name: "cronjobs", Singular: "cronjob",
		ShortNames: []string{"cj"}, Categories: []string{"all"}, Namespaced: true,
		Default:  registry.Defaulter(defaultCronJob),
		Strategy: main,
		Table: registry.Table{
			Columns: append(append([]metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Schedule", "When the job is due, as in crontab(5)"),
				registry.Column("Timezone", "Where the schedule's times are meant"),
				{Name: "Suspend", Type: "boolean", Description: "Whether no more jobs are started"},
				registry.Number("Active", "How many jobs run"),
				registry.Column("Last Schedule", "When a job was due last"),
				registry.AgeColumn(),
			}, core.TemplateColumns()...), registry.Wide(registry.Column("Selector", "The labels of the jobs' pods"))),
			Cells: registry.Cells(func(c *batchv1.CronJob) []any {
				zone, last, suspend := registry.None, registry.None, "<unset>"
				if c.Spec.TimeZone != nil {
					zone = *c.Spec.TimeZone
				}
				if c.Status.LastScheduleTime != nil {
					last = registry.Age(*c.Status.LastScheduleTime)
				}
				if s := c.Spec.Suspend; s != nil {
					suspend = map[bool]string{true: "True", false: "False"}[*s]
				}
				spec := &c.Spec.JobTemplate.Spec
				names, images := core.ContainerCells(spec.Template.Spec.Containers)
				return []any{
					c.Name, c.Spec.Schedule, zone, suspend, int64(len(c.Status.Active)), last, registry.Age(c.CreationTimestamp),
					names, images, metav1.FormatLabelSelector(spec.Selector),
				}
			}),
		},
		Status: &status,
	}
}

func defaultCronJob(c *batchv1.CronJob) {
	spec := &c.Spec
	if spec.ConcurrencyPolicy == "" {
		spec.ConcurrencyPolicy = batchv1.AllowConcurrent
	}
	if spec.Suspend == nil {
		spec.Suspend = ptr(false)
	}
	if spec.SuccessfulJobsHistoryLimit == nil {
		spec.SuccessfulJobsHistoryLimit = ptr(int32(3))
	}
	if spec.FailedJobsHistoryLimit == nil {
		spec.FailedJobsHistoryLimit = ptr(int32(1))
	}
	defaultJobSpec(&spec.JobTemplate.Spec)
}

func validateCronJobSpec(spec, old *batchv1.CronJobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	schedule := path.Child("schedule")
	if spec.Schedule == "" {
		errs = append(errs, field.Required(schedule, ""))
	} else {
		if _, err := cron.Parse(spec.Schedule); err != nil {
			errs = append(errs, field.Invalid(schedule, spec.Schedule, err.Error()))
		}
		if strings.Contains(spec.Schedule, "TZ") {
			if old == nil || !strings.Contains(old.Schedule, "TZ") {
				errs = append(errs, field.Invalid(schedule, spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
			} else if spec.TimeZone != nil {
				errs = append(errs, field.Invalid(schedule, spec.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
			}
		}
	}
	if n := spec.StartingDeadlineSeconds; n != nil {
		errs = append(errs, apivalidation.ValidateNonnegativeField(*n, path.Child("startingDeadlineSeconds"))...)
	}
	if spec.TimeZone != nil && (old == nil || old.TimeZone == nil || *old.TimeZone != *spec.TimeZone) {
		errs = append(errs, validateTimeZone(*spec.TimeZone, path.Child("timeZone"))...)
	}
	switch p := spec.ConcurrencyPolicy; p {
	case batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent:
	case "":
		errs = append(errs, field.Required(path.Child("concurrencyPolicy"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("concurrencyPolicy"), p,
			[]batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}))
	}
	job := path.Child("jobTemplate", "spec")
	errs = append(errs, validateJobSpec(&spec.JobTemplate.Spec, job)...)
	if s := spec.JobTemplate.Spec.Selector; s != nil {
		errs = append(errs, field.Invalid(job.Child("selector"), s, "`selector` will be auto-generated"))
	}
	if m := spec.JobTemplate.Spec.ManualSelector; m != nil && *m {
		errs = append(errs, field.NotSupported(job.Child("manualSelector"), *m, []string{"nil", "false"}))
	}
	for name, n := range map[string]*int32{"successfulJobsHistoryLimit": spec.SuccessfulJobsHistoryLimit, "failedJobsHistoryLimit": spec.FailedJobsHistoryLimit} {
		if n != nil {
			errs = append(errs, nonNegative(*n, path.Child(name))...)
		}
	}
	return errs
}

// zonePart is a part of a name of the time zone database.
var zonePart = regexp.MustCompile(`^[A-Za-z._0-9+][A-Za-z._0-9+-]{0,13}$`)

func validateTimeZone(zone string, path *field.Path) field.ErrorList {
	if zone == "" {
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be nil or non-empty string")}
	}
	for part := range strings.SplitSeq(zone, "/") {
		if part == "." || part == ".." || !zonePart.MatchString(part) {
			return field.ErrorList{field.Invalid(path, zone, "unknown time zone "+zone)}
		}
	}
	var errs field.ErrorList
	if strings.EqualFold(zone, "Local") {
		errs = append(errs, field.Invalid(path, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(zone); err != nil {
		errs = append(errs, field.Invalid(path, zone, err.Error()))
	}
	return errs
}
