package apps

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func hasError(errs field.ErrorList, want string) bool {
	for _, err := range errs {
		if strings.Contains(err.Error(), want) {
			return true
		}
	}
	return false
}

func goodDeployment(t *testing.T) *appsv1.Deployment {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := yaml.UnmarshalStrict([]byte(`
metadata: {name: web, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "nginx:1"}]}
`), d); err != nil {
		t.Fatal(err)
	}
	defaultDeployment(d)
	return d
}

func TestDeploymentDefaults(t *testing.T) {
	d := goodDeployment(t)
	r := d.Spec.Strategy.RollingUpdate
	if *d.Spec.Replicas != 1 || d.Spec.Strategy.Type != "RollingUpdate" || r.MaxSurge.StrVal != "25%" || r.MaxUnavailable.StrVal != "25%" ||
		*d.Spec.RevisionHistoryLimit != 10 || *d.Spec.ProgressDeadlineSeconds != 600 {
		t.Errorf("%+v", d.Spec)
	}
	if d.Spec.Template.Spec.RestartPolicy != "Always" || d.Spec.Template.Spec.EnableServiceLinks != nil {
		t.Errorf("template: %+v", d.Spec.Template.Spec)
	}
}

func TestDeploymentValidation(t *testing.T) {
	row := Deployment()
	if errs := row.Strategy.Validate(t.Context(), goodDeployment(t)); len(errs) > 0 {
		t.Fatalf("a good deployment is refused: %v", errs)
	}
	for _, test := range []struct {
		name  string
		spoil func(*appsv1.Deployment)
		want  string
	}{
		{"replicas", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr(int32(-1)) }, "spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
		{"no_selector", func(d *appsv1.Deployment) { d.Spec.Selector = nil }, "spec.selector: Required value"},
		{"empty_selector", func(d *appsv1.Deployment) { d.Spec.Selector.MatchLabels = nil }, "empty selector is invalid for deployment"},
		{"selector_template", func(d *appsv1.Deployment) { d.Spec.Template.Labels = nil }, "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`"},
		{"restartPolicy", func(d *appsv1.Deployment) { d.Spec.Template.Spec.RestartPolicy = "Never" }, `spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`},
		{"activeDeadline", func(d *appsv1.Deployment) { d.Spec.Template.Spec.ActiveDeadlineSeconds = ptr(int64(1)) }, "activeDeadlineSeconds in ReplicaSet is not Supported"},
		{"template", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers = nil }, "spec.template.spec.containers: Required value"},
		{"strategy", func(d *appsv1.Deployment) { d.Spec.Strategy.Type = "Magic" }, `spec.strategy.type: Unsupported value: "Magic": supported values: "Recreate", "RollingUpdate"`},
		{"recreate_rolling", func(d *appsv1.Deployment) { d.Spec.Strategy.Type = "Recreate" }, "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"},
		{"both_zero", func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: ptr(intstr.FromInt32(0)), MaxUnavailable: ptr(intstr.FromString("0%"))}
		}, "may not be 0 when `maxSurge` is 0"},
		{"percent", func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate.MaxUnavailable = ptr(intstr.FromString("120%"))
		}, "must not be greater than 100%"},
		{"not_percent", func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate.MaxSurge = ptr(intstr.FromString("many"))
		}, "spec.strategy.rollingUpdate.maxSurge: Invalid value"},
		{"progress", func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 700 }, "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := goodDeployment(t)
			test.spoil(d)
			if errs := row.Strategy.Validate(t.Context(), d); !hasError(errs, test.want) {
				t.Errorf("want %s\ngot  %v", test.want, errs)
			}
		})
	}
}

func TestDeploymentUpdate(t *testing.T) {
	row := Deployment()
	old := goodDeployment(t)
	old.ResourceVersion, old.Generation = "1", 4
	old.Status.Replicas = 3
	for _, test := range []struct {
		name       string
		change     func(*appsv1.Deployment)
		generation int64
		want       string
	}{
		{"nothing", func(*appsv1.Deployment) {}, 4, ""},
		{"labels", func(d *appsv1.Deployment) { d.Labels = map[string]string{"a": "b"} }, 4, ""},
		{"annotations", func(d *appsv1.Deployment) { d.Annotations = map[string]string{"a": "b"} }, 5, ""},
		{"image", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:2" }, 5, ""},
		{"status", func(d *appsv1.Deployment) { d.Status.Replicas = 9 }, 4, ""},
		{"selector", func(d *appsv1.Deployment) {
			d.Spec.Selector.MatchLabels = map[string]string{"app": "x"}
			d.Spec.Template.Labels = map[string]string{"app": "x"}
		}, 5, "field is immutable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := old.DeepCopy()
			test.change(d)
			row.Strategy.PrepareForUpdate(t.Context(), d, old)
			errs := row.Strategy.ValidateUpdate(t.Context(), d, old)
			if d.Generation != test.generation || d.Status.Replicas != 3 {
				t.Errorf("generation %d, want %d; status %+v", d.Generation, test.generation, d.Status)
			}
			if (test.want == "") != (len(errs) == 0) || (test.want != "" && !hasError(errs, test.want)) {
				t.Errorf("want %q, got %v", test.want, errs)
			}
		})
	}
}

func TestDeploymentStatus(t *testing.T) {
	old := goodDeployment(t)
	old.ResourceVersion = "1"
	old.Status.CollisionCount = ptr(int32(2))
	for _, test := range []struct{ name, status, want string }{
		{"fine", `{replicas: 3, updatedReplicas: 3, readyReplicas: 2, availableReplicas: 1, collisionCount: 3}`, ""},
		{"more_ready_than_all", `{replicas: 1, readyReplicas: 2, collisionCount: 2}`, "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"},
		{"more_available_than_ready", `{replicas: 3, readyReplicas: 1, availableReplicas: 2, collisionCount: 2}`, "cannot be greater than readyReplicas"},
		{"negative", `{replicas: -1, collisionCount: 2}`, "status.replicas: Invalid value: -1"},
		{"collisions_fewer", `{collisionCount: 1}`, "cannot be decremented"},
		{"collisions_gone", `{}`, "should not be unset when previously set"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := old.DeepCopy()
			d.Status = appsv1.DeploymentStatus{}
			if err := yaml.UnmarshalStrict([]byte(test.status), &d.Status); err != nil {
				t.Fatal(err)
			}
			errs := validateDeploymentStatusUpdate(d, old)
			if (test.want == "") != (len(errs) == 0) || (test.want != "" && !hasError(errs, test.want)) {
				t.Errorf("want %q, got %v", test.want, errs)
			}
		})
	}
}

func TestScale(t *testing.T) {
	d := goodDeployment(t)
	d.Status.Replicas = 4
	row := Deployment()
	row.Scale.Set(d, 7)
	replicas, status, selector := row.Scale.Get(d)
	if replicas != 7 || status != 4 || selector != "app=web" {
		t.Errorf("got %d %d %q", replicas, status, selector)
	}
}

func TestCells(t *testing.T) {
	d := goodDeployment(t)
	d.Status = appsv1.DeploymentStatus{ReadyReplicas: 1, UpdatedReplicas: 2, AvailableReplicas: 1}
	cells := Deployment().Table.Cells(d)
	if cells[1] != "1/1" || cells[2] != int64(2) || cells[3] != int64(1) || cells[5] != "web" || cells[6] != "nginx:1" || cells[7] != "app=web" {
		t.Errorf("%v", cells)
	}
	rs := &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: ptr(int32(3))}, Status: appsv1.ReplicaSetStatus{Replicas: 2, ReadyReplicas: 1}}
	cells = ReplicaSet().Table.Cells(rs)
	if cells[1] != int64(3) || cells[2] != int64(2) || cells[3] != int64(1) || cells[4] != "<unknown>" || cells[7] != "<none>" {
		t.Errorf("%v", cells)
	}
}

func TestReplicaSetValidation(t *testing.T) {
	row := ReplicaSet()
	good := func() *appsv1.ReplicaSet {
		d := goodDeployment(t)
		return &appsv1.ReplicaSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.ReplicaSetSpec{Replicas: ptr(int32(1)), Selector: d.Spec.Selector, Template: d.Spec.Template}}
	}
	if errs := row.Strategy.Validate(t.Context(), good()); len(errs) > 0 {
		t.Fatalf("a good replica set is refused: %v", errs)
	}
	for _, test := range []struct {
		name  string
		spoil func(*appsv1.ReplicaSet)
		want  string
	}{
		{"replicas", func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = ptr(int32(-1)) }, "spec.replicas: Invalid value: -1"},
		{"minReady", func(rs *appsv1.ReplicaSet) { rs.Spec.MinReadySeconds = -1 }, "spec.minReadySeconds: Invalid value: -1"},
		{"selector", func(rs *appsv1.ReplicaSet) { rs.Spec.Selector = nil }, "spec.selector: Required value"},
		{"template", func(rs *appsv1.ReplicaSet) { rs.Spec.Template.Labels = nil }, "`selector` does not match template `labels`"},
	} {
		t.Run(test.name, func(t *testing.T) {
			rs := good()
			test.spoil(rs)
			if errs := row.Strategy.Validate(t.Context(), rs); !hasError(errs, test.want) {
				t.Errorf("want %s\ngot  %v", test.want, errs)
			}
		})
	}
	old := good()
	old.ResourceVersion, old.Generation, old.Status.Replicas = "1", 1, 5
	rs := old.DeepCopy()
	rs.Spec.Replicas, rs.Status.Replicas = ptr(int32(9)), 0
	row.Strategy.PrepareForUpdate(t.Context(), rs, old)
	if rs.Generation != 2 || rs.Status.Replicas != 5 {
		t.Errorf("generation %d, status %+v", rs.Generation, rs.Status)
	}
	if got := row.Fields(rs); got["status.replicas"] != "5" {
		t.Errorf("fields %v", got)
	}
}
