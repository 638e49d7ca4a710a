package batch

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/store"
)

const podTemplate = `template: {spec: {restartPolicy: Never, containers: [{name: main, image: "busybox:1"}]}}`

func parse[T store.Object](t *testing.T, o T, manifests ...string) T {
	t.Helper()
	for _, m := range manifests {
		if err := yaml.UnmarshalStrict([]byte(m), o); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func goodJob(t *testing.T, more ...string) *batchv1.Job {
	t.Helper()
	row := Job()
	j := parse(t, &batchv1.Job{}, append([]string{`{metadata: {name: pi, namespace: default, uid: u-1}, spec: {` + podTemplate + `}}`}, more...)...)
	row.Default(j)
	row.Strategy.PrepareForCreate(t.Context(), j)
	j.ResourceVersion = "1"
	return j
}

func expect(t *testing.T, errs field.ErrorList, want string) {
	t.Helper()
	if want == "" && len(errs) == 0 {
		return
	}
	for _, err := range errs {
		if want != "" && strings.Contains(err.Error(), want) {
			return
		}
	}
	t.Errorf("want %q\ngot  %v", want, errs)
}

func TestJobDefaults(t *testing.T) {
	j := goodJob(t)
	if *j.Spec.Completions != 1 || *j.Spec.Parallelism != 1 || *j.Spec.BackoffLimit != 6 || *j.Spec.CompletionMode != "NonIndexed" || *j.Spec.PodReplacementPolicy != "TerminatingOrFailed" {
		t.Errorf("%+v", j.Spec)
	}
	labels := j.Spec.Template.Labels
	if j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] != "u-1" || labels[batchv1.JobNameLabel] != "pi" || labels["job-name"] != "pi" || labels["controller-uid"] != "u-1" {
		t.Errorf("selector %v, labels %v", j.Spec.Selector, labels)
	}
	if j = goodJob(t, `{spec: {parallelism: 3}}`); j.Spec.Completions != nil {
		t.Error("a work queue has no number of completions")
	}
}

func TestJobValidation(t *testing.T) {
	row := Job()
	const index = `completionMode: Indexed, completions: 4, parallelism: 4`
	for _, c := range []struct{ name, more, want string }{
		{"good", `{}`, ""},
		{"indexed", `{spec: {` + index + `, backoffLimitPerIndex: 1, maxFailedIndexes: 2}}`, ""},
		{"parallelism", `{spec: {parallelism: -1}}`, "spec.parallelism: Invalid value: -1: must be greater than or equal to 0"},
		{"restart", `{spec: {template: {spec: {restartPolicy: Always}}}}`, `spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`},
		{"mode", `{spec: {completionMode: Both}}`, `spec.completionMode: Unsupported value: "Both": supported values: "NonIndexed", "Indexed"`},
		{"indexed_open", `{spec: {completionMode: Indexed, parallelism: 1}}`, "spec.completions: Required value: when completion mode is Indexed"},
		{"per_index", `{spec: {backoffLimitPerIndex: 1}}`, "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"},
		{"max_failed", `{spec: {` + index + `, maxFailedIndexes: 1}}`, "when maxFailedIndexes is specified"},
		{"labels", `{spec: {template: {metadata: {labels: {controller-uid: other}}}}}`, "must be 'u-1'"},
		{"selector", `{spec: {selector: {matchLabels: {a: b}}}}`, "`selector` does not match template `labels`"},
		{"manual", `{spec: {manualSelector: true, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}}}}`, ""},
		{"hostname", `{metadata: {name: a.b}, spec: {` + index + `}}`, "will not able to create pod with invalid DNS label: a.b-3"},
		{"failure_action", `{spec: {podFailurePolicy: {rules: [{action: Shrug, onExitCodes: {operator: In, values: [1]}}]}}}`, `action: Unsupported value: "Shrug"`},
		{"failure_codes", `{spec: {podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [0]}}]}}}`, "must not be 0 for the In operator"},
		{"failure_order", `{spec: {podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [3, 2]}}]}}}`, "must be ordered"},
		{"failure_neither", `{spec: {podFailurePolicy: {rules: [{action: FailJob}]}}}`, "specifying one of OnExitCodes and OnPodConditions is required"},
		{"failure_index", `{spec: {podFailurePolicy: {rules: [{action: FailIndex, onPodConditions: [{type: A}]}]}}}`, "requires the backoffLimitPerIndex to be set"},
		{"failure_conditions", `{spec: {podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}}}`, ""},
		{"failure_replacement", `{spec: {podReplacementPolicy: TerminatingOrFailed, podFailurePolicy: {rules: []}}}`, `supported values: "Failed"`},
		{"success", `{spec: {` + index + `, successPolicy: {rules: [{succeededIndexes: "0,2-3", succeededCount: 2}]}}}`, ""},
		{"success_count", `{spec: {` + index + `, successPolicy: {rules: [{succeededIndexes: "0", succeededCount: 2}]}}}`, "must be less than or equal to 1 (the number of indexes"},
		{"success_large", `{spec: {` + index + `, successPolicy: {rules: [{succeededIndexes: "0,7"}]}}}`, `error parsing succeededIndexes: too large index: "7"`},
		{"success_mode", `{spec: {successPolicy: {rules: [{succeededCount: 1}]}}}`, "requires indexed completion mode"},
		{"managedBy", `{spec: {managedBy: me}}`, "must be a domain-prefixed path"},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, row.Strategy.Validate(t.Context(), goodJob(t, c.more)), c.want) })
	}
}

func TestJobUpdate(t *testing.T) {
	row := Job()
	for _, c := range []struct{ name, old, change, want string }{
		{"parallelism", `{}`, `{spec: {parallelism: 3}}`, ""},
		{"suspend", `{}`, `{spec: {suspend: true}}`, ""},
		{"completions", `{}`, `{spec: {completions: 3}}`, "spec.completions: Invalid value: 3: field is immutable"},
		{"elastic", `{spec: {completionMode: Indexed, completions: 2, parallelism: 2}}`, `{spec: {completions: 3, parallelism: 3}}`, ""},
		{"not_tandem", `{spec: {completionMode: Indexed, completions: 2, parallelism: 2}}`, `{spec: {completions: 3}}`, "can only be modified in tandem with spec.parallelism"},
		{"template", `{}`, `{spec: {template: {spec: {nodeSelector: {a: b}}}}}`, "spec.template: Invalid value"},
		{"suspended_directives", `{spec: {suspend: true}}`, `{spec: {template: {spec: {nodeSelector: {a: b}}}}}`, ""},
		{"suspended_image", `{spec: {suspend: true}}`, `{spec: {template: {spec: {containers: [{name: main, image: other}]}}}}`, "spec.template: Invalid value"},
		{"selector", `{}`, `{spec: {selector: {matchLabels: {a: b}}}}`, "field is immutable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := goodJob(t, c.old)
			j := parse(t, old.DeepCopy(), c.change)
			row.Default(j)
			row.Strategy.PrepareForUpdate(t.Context(), j, old)
			expect(t, row.Strategy.ValidateUpdate(t.Context(), j, old), c.want)
			if j.Generation != 2 {
				t.Errorf("generation %d", j.Generation)
			}
		})
	}
}

func TestJobStatusUpdate(t *testing.T) {
	const done = `conditions: [{type: SuccessCriteriaMet, status: "True"}, {type: Complete, status: "True"}], startTime: "2026-01-01T00:00:00Z", completionTime: "2026-01-01T00:01:00Z", succeeded: 1`
	for _, c := range []struct{ name, old, status, want string }{
		{"starts", `{}`, `{startTime: "2026-01-01T00:00:00Z", active: 1, ready: 1}`, ""},
		{"completes", `{startTime: "2026-01-01T00:00:00Z"}`, `{` + done + `}`, ""},
		{"no_reason", `{}`, `{conditions: [{type: Complete, status: "True"}]}`, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"},
		{"no_target", `{}`, `{conditions: [{type: Failed, status: "True"}]}`, "cannot set Failed=True condition without the FailureTarget=true condition"},
		{"no_end", `{}`, `{conditions: [{type: SuccessCriteriaMet, status: "True"}, {type: Complete, status: "True"}], startTime: "2026-01-01T00:00:00Z"}`, "completionTime is required for Complete jobs"},
		{"no_start", `{}`, `{conditions: [{type: FailureTarget, status: "True"}, {type: Failed, status: "True"}]}`, "startTime is required for finished job"},
		{"active", `{}`, `{` + done + `, active: 1}`, "active>0 is invalid for finished job"},
		{"undone", `{` + done + `}`, `{succeeded: 1}`, "cannot disable the terminal Complete=True condition"},
		{"failed_falls", `{failed: 2}`, `{failed: 1}`, "cannot decrease the failed counter"},
		{"succeeded_falls", `{succeeded: 2}`, `{succeeded: 1}`, "cannot decrease the succeeded counter"},
		{"start_moves", `{startTime: "2026-01-01T00:00:00Z"}`, `{startTime: "2026-01-02T00:00:00Z"}`, "field is immutable for unsuspended job once set"},
		{"ready", `{}`, `{ready: 2, active: 1}`, "cannot set more ready pods than active"},
		{"indexes", `{}`, `{completedIndexes: "0"}`, "cannot set non-empty completedIndexes when non-indexed completion mode"},
		{"uncounted", `{}`, `{uncountedTerminatedPods: {succeeded: [a], failed: [a]}}`, "Duplicate value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := goodJob(t)
			old.Status = batchv1.JobStatus{}
			if err := yaml.UnmarshalStrict([]byte(c.old), &old.Status); err != nil {
				t.Fatal(err)
			}
			j := goodJob(t)
			if err := yaml.UnmarshalStrict([]byte(c.status), &j.Status); err != nil {
				t.Fatal(err)
			}
			expect(t, validateJobStatusUpdate(j, old), c.want)
		})
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		at   int32
		both bool
	}{{"0,2-4", "1,5", 0, false}, {"0,2-4", "1,4", 4, true}, {"", "1", 0, false}, {"5", "1,3-9", 5, true}} {
		a, errA := parseIndexes(c.a, 10)
		b, errB := parseIndexes(c.b, 10)
		if at, both := overlap(a, b); errA != nil || errB != nil || at != c.at || both != c.both {
			t.Errorf("%q and %q: %d %v", c.a, c.b, at, both)
		}
	}
}

func TestCronJob(t *testing.T) {
	row := CronJob()
	for _, c := range []struct{ name, more, want string }{
		{"good", `{}`, ""},
		{"zone", `{spec: {timeZone: Europe/Berlin}}`, ""},
		{"no_schedule", `{spec: {schedule: ""}}`, "spec.schedule: Required value"},
		{"schedule", `{spec: {schedule: "61 * * * *"}}`, "spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61"},
		{"zone_in_schedule", `{spec: {schedule: "TZ=UTC * * * * *"}}`, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"},
		{"bad_zone", `{spec: {timeZone: Europe/Atlantis}}`, "unknown time zone Europe/Atlantis"},
		{"local", `{spec: {timeZone: local}}`, "timeZone must be an explicit time zone"},
		{"policy", `{spec: {concurrencyPolicy: Panic}}`, `supported values: "Allow", "Forbid", "Replace"`},
		{"deadline", `{spec: {startingDeadlineSeconds: -1}}`, "spec.startingDeadlineSeconds: Invalid value: -1"},
		{"history", `{spec: {failedJobsHistoryLimit: -1}}`, "spec.failedJobsHistoryLimit: Invalid value: -1"},
		{"selector", `{spec: {jobTemplate: {spec: {selector: {}}}}}`, "`selector` will be auto-generated"},
		{"job", `{spec: {jobTemplate: {spec: {template: {spec: {restartPolicy: Always}}}}}}`, "spec.jobTemplate.spec.template.spec.restartPolicy: Required value"},
		{"name", `{metadata: {name: ` + strings.Repeat("a", 53) + `}}`, "must be no more than 52 characters"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := parse(t, &batchv1.CronJob{}, `{metadata: {name: tick, namespace: default}, spec: {schedule: "*/5 * * * *", jobTemplate: {spec: {`+podTemplate+`}}}}`, c.more)
			row.Default(j)
			expect(t, row.Strategy.Validate(t.Context(), j), c.want)
		})
	}
}
