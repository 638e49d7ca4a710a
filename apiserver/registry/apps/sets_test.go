package apps

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

const setManifest = `
metadata: {name: web, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "nginx:1"}]}
`

// good parses a manifest laid over the common one, with the row's defaults.
func good[T store.Object](t *testing.T, row registry.Resource, o T, more string) T {
	t.Helper()
	for _, text := range []string{setManifest, more} {
		if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
			t.Fatal(err)
		}
	}
	row.Default(o)
	return o
}

func expect(t *testing.T, errs field.ErrorList, want string) {
	t.Helper()
	if (want == "") != (len(errs) == 0) || want != "" && !hasError(errs, want) {
		t.Errorf("want %q\ngot  %v", want, errs)
	}
}

func TestStatefulSetValidation(t *testing.T) {
	row := StatefulSet()
	claim := "volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]"
	for _, c := range []struct{ name, more, want string }{
		{"good", `{}`, ""},
		{"claims", `{spec: {` + claim + `, template: {spec: {containers: [{name: web, image: a, volumeMounts: [{name: data, mountPath: /d}]}]}}}}`, ""},
		{"name", `{metadata: {name: a.b}}`, "metadata.name: Invalid value"},
		{"serviceName", `{spec: {serviceName: A_b}}`, "spec.serviceName: Invalid value"},
		{"replicas", `{spec: {replicas: -1}}`, "spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
		{"management", `{spec: {podManagementPolicy: Chaos}}`, "spec.podManagementPolicy: Invalid value: \"Chaos\": must be 'OrderedReady' or 'Parallel'"},
		{"strategy", `{spec: {updateStrategy: {type: Never}}}`, "must be 'RollingUpdate' or 'OnDelete'"},
		{"onDelete", `{spec: {updateStrategy: {type: OnDelete, rollingUpdate: {partition: 1}}}}`, "only allowed for updateStrategy 'RollingUpdate'"},
		{"partition", `{spec: {updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: -1}}}}`, "rollingUpdate.partition: Invalid value: -1"},
		{"maxUnavailable", `{spec: {updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0}}}}`, "cannot be 0"},
		{"retention", `{spec: {persistentVolumeClaimRetentionPolicy: {whenScaled: Burn}}}`, `whenScaled: Unsupported value: "Burn": supported values: "Retain", "Delete"`},
		{"selector", `{spec: {selector: {matchLabels: {app: other}}}}`, "`selector` does not match template `labels`"},
		{"restart", `{spec: {template: {spec: {restartPolicy: Never}}}}`, `supported values: "Always"`},
		{"claimTemplate", `{spec: {volumeClaimTemplates: [{metadata: {name: data}, spec: {}}]}}`, "volumeClaimTemplates[0].spec.accessModes: Required value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, row.Strategy.Validate(t.Context(), good(t, row, &appsv1.StatefulSet{}, c.more)), c.want)
		})
	}
	s := good(t, row, &appsv1.StatefulSet{}, `{}`)
	if r := s.Spec.UpdateStrategy.RollingUpdate; *s.Spec.Replicas != 1 || *r.Partition != 0 || r.MaxUnavailable.IntVal != 1 ||
		s.Spec.PodManagementPolicy != "OrderedReady" || s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted != "Retain" || *s.Spec.RevisionHistoryLimit != 10 {
		t.Errorf("defaults: %+v", s.Spec)
	}
}

func TestStatefulSetUpdate(t *testing.T) {
	row := StatefulSet()
	old := good(t, row, &appsv1.StatefulSet{}, `{metadata: {resourceVersion: "1", generation: 4}, status: {replicas: 2}}`)
	for _, c := range []struct {
		name, more string
		generation int64
		want       string
	}{
		{"nothing", `{}`, 4, ""},
		{"replicas", `{spec: {replicas: 3}}`, 5, ""},
		{"template", `{spec: {template: {spec: {containers: [{name: web, image: "nginx:2"}]}}}}`, 5, ""},
		{"status", `{status: {replicas: 9}}`, 4, ""},
		{"serviceName", `{spec: {serviceName: other}}`, 5, "updates to statefulset spec for fields other than"},
		{"management", `{spec: {podManagementPolicy: Parallel}}`, 5, "updates to statefulset spec for fields other than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := old.DeepCopy()
			if err := yaml.UnmarshalStrict([]byte(c.more), s); err != nil {
				t.Fatal(err)
			}
			row.Default(s)
			row.Strategy.PrepareForUpdate(t.Context(), s, old)
			expect(t, row.Strategy.ValidateUpdate(t.Context(), s, old), c.want)
			if s.Generation != c.generation || s.Status.Replicas != 2 {
				t.Errorf("generation %d, status %+v", s.Generation, s.Status)
			}
		})
	}
	s := old.DeepCopy()
	s.Spec.Replicas, s.Status = ptr(int32(7)), appsv1.StatefulSetStatus{Replicas: 1, ReadyReplicas: 2}
	row.Status.PrepareForUpdate(t.Context(), s, old)
	expect(t, row.Status.ValidateUpdate(t.Context(), s, old), "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas")
	if *s.Spec.Replicas != 1 {
		t.Error("a write of the status changed the spec")
	}
}

func TestDaemonSet(t *testing.T) {
	row := DaemonSet()
	for _, c := range []struct{ name, more, want string }{
		{"good", `{}`, ""},
		{"surge", `{spec: {updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}}}`, ""},
		{"both", `{spec: {updateStrategy: {rollingUpdate: {maxSurge: 1}}}}`, "may not be set when maxUnavailable is non-zero"},
		{"neither", `{spec: {updateStrategy: {rollingUpdate: {maxUnavailable: 0}}}}`, "cannot be 0 when maxSurge is 0"},
		{"percent", `{spec: {updateStrategy: {rollingUpdate: {maxUnavailable: 120%}}}}`, "must not be greater than 100%"},
		{"strategy", `{spec: {updateStrategy: {type: Never}}}`, `supported values: "RollingUpdate", "OnDelete"`},
		{"deadline", `{spec: {template: {spec: {activeDeadlineSeconds: 3}}}}`, "activeDeadlineSeconds in DaemonSet is not Supported"},
		{"minReady", `{spec: {minReadySeconds: -3}}`, "spec.minReadySeconds: Invalid value: -3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, row.Strategy.Validate(t.Context(), good(t, row, &appsv1.DaemonSet{}, c.more)), c.want)
		})
	}
	idle := good(t, row, &appsv1.DaemonSet{}, `{spec: {updateStrategy: {type: OnDelete, rollingUpdate: {maxUnavailable: 2}}}}`).Spec.UpdateStrategy.RollingUpdate
	if idle.MaxUnavailable.IntVal != 2 || idle.MaxSurge == nil || idle.MaxSurge.IntVal != 0 {
		t.Errorf("a rolling update that has no effect became %+v", idle)
	}
	old := good(t, row, &appsv1.DaemonSet{}, `{metadata: {resourceVersion: "1"}}`)
	row.Strategy.PrepareForCreate(t.Context(), old)
	d := old.DeepCopy()
	d.Spec.Template.Spec.Containers[0].Image = "nginx:2"
	delete(d.Annotations, appsv1.DeprecatedTemplateGeneration)
	row.Strategy.PrepareForUpdate(t.Context(), d, old)
	if old.Annotations[appsv1.DeprecatedTemplateGeneration] != "1" || d.Annotations[appsv1.DeprecatedTemplateGeneration] != "2" || d.Generation != 2 {
		t.Errorf("template generations %v, %v", old.Annotations, d.Annotations)
	}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	expect(t, row.Strategy.ValidateUpdate(t.Context(), d, old), "field is immutable")
	d = old.DeepCopy()
	d.Status.NumberReady = -1
	expect(t, row.Status.ValidateUpdate(t.Context(), d, old), "status.numberReady: Invalid value: -1")
}

func TestControllerRevision(t *testing.T) {
	s := ControllerRevision().Strategy
	revision := func(data string) *appsv1.ControllerRevision {
		r := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "b", ResourceVersion: "1"}, Revision: 1}
		if data != "" {
			r.Data = runtime.RawExtension{Raw: []byte(data)}
		}
		return r
	}
	for data, want := range map[string]string{
		`{"spec":{}}`: "", "": "data: Required value: data is mandatory", "null": "data is mandatory", "[]": "data must be a valid JSON object", "{": "error parsing data",
	} {
		expect(t, s.Validate(context.Background(), revision(data)), want)
	}
	r := revision(`{"a":2}`)
	expect(t, s.ValidateUpdate(context.Background(), r, revision(`{"a":1}`)), "data: Invalid value")
	r.Data, r.Revision = revision(`{"a":1}`).Data, 2
	expect(t, s.ValidateUpdate(context.Background(), r, revision(`{"a":1}`)), "")
}
