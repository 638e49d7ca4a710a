package core

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const claimManifest = `{metadata: {name: a, namespace: n, resourceVersion: "1"}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}}`

func parseInto(t *testing.T, o any, manifest string) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(manifest), o); err != nil {
		t.Fatal(err)
	}
}

func TestClaimUpdate(t *testing.T) {
	row := PersistentVolumeClaim()
	const bound = `{spec: {volumeName: pv}, status: {phase: Bound, capacity: {storage: 1Gi}}}`
	for _, c := range []struct{ name, old, change, want string }{
		{"bind", `{}`, `{spec: {volumeName: pv}}`, ""},
		{"bind_twice", bound, `{spec: {volumeName: other}}`, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"},
		{"class_later", `{}`, `{spec: {storageClassName: fast}}`, ""},
		{"class_changed", `{spec: {storageClassName: slow}}`, `{spec: {storageClassName: fast}}`, "spec is immutable"},
		{"grow", bound, `{spec: {resources: {requests: {storage: 3Gi}}}}`, ""},
		{"grow_unbound", `{}`, `{spec: {resources: {requests: {storage: 3Gi}}}}`, "spec is immutable"},
		{"shrink", bound, `{spec: {resources: {requests: {storage: 1Gi}}}}`, "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"},
		{"modes", bound, `{spec: {accessModes: [ReadWriteMany]}}`, "spec is immutable"},
		{"labels", bound, `{metadata: {labels: {a: b}}}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := &corev1.PersistentVolumeClaim{}
			parseInto(t, old, claimManifest)
			parseInto(t, old, c.old)
			row.Default(old)
			claim := old.DeepCopy()
			parseInto(t, claim, c.change)
			row.Strategy.PrepareForUpdate(t.Context(), claim, old)
			errs := row.Strategy.ValidateUpdate(t.Context(), claim, old)
			if (c.want == "") != (len(errs) == 0) || c.want != "" && !hasError(errs, c.want) {
				t.Errorf("want %q, got %v", c.want, errs)
			}
		})
	}
}

func TestDataSources(t *testing.T) {
	for _, c := range []struct{ name, spec, source, ref string }{
		{"older", `{dataSource: {kind: PersistentVolumeClaim, name: a}}`, "a", "a"},
		{"newer", `{dataSourceRef: {apiGroup: example.com, kind: Tape, name: a}}`, "a", "a"},
		{"older_unknown", `{dataSource: {apiGroup: example.com, kind: Tape, name: a}}`, "", ""},
		{"other_namespace", `{dataSourceRef: {kind: PersistentVolumeClaim, name: a, namespace: b}}`, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := &corev1.PersistentVolumeClaimSpec{}
			parseInto(t, spec, c.spec)
			matchDataSources(spec, nil)
			source, ref := "", ""
			if spec.DataSource != nil {
				source = spec.DataSource.Name
			}
			if spec.DataSourceRef != nil {
				ref = spec.DataSourceRef.Name
			}
			if source != c.source || ref != c.ref {
				t.Errorf("%q and %q, want %q and %q", source, ref, c.source, c.ref)
			}
		})
	}
}

func TestPersistentVolumeUpdate(t *testing.T) {
	row := PersistentVolume()
	old := &corev1.PersistentVolume{}
	parseInto(t, old, `{metadata: {name: a, resourceVersion: "1"}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce, ReadOnlyMany], hostPath: {path: /d}}}`)
	row.Default(old)
	row.Strategy.PrepareForCreate(t.Context(), old)
	if old.Status.Phase != corev1.VolumePending || old.Status.LastPhaseTransitionTime == nil || !slices.Contains(old.Finalizers, volumeProtection) {
		t.Errorf("made: %+v %v", old.Status, old.Finalizers)
	}
	for _, c := range []struct{ name, change, want string }{
		{"claim", `{spec: {claimRef: {namespace: n, name: c}}}`, ""},
		{"reclaim", `{spec: {persistentVolumeReclaimPolicy: Delete}}`, ""},
		{"source", `{spec: {hostPath: {path: /e}}}`, "spec.persistentvolumesource is immutable after creation"},
		{"mode", `{spec: {volumeMode: Block}}`, "volumeMode: Invalid value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pv := old.DeepCopy()
			parseInto(t, pv, c.change)
			row.Strategy.PrepareForUpdate(t.Context(), pv, old)
			errs := row.Strategy.ValidateUpdate(t.Context(), pv, old)
			if (c.want == "") != (len(errs) == 0) || c.want != "" && !hasError(errs, c.want) {
				t.Errorf("want %q, got %v", c.want, errs)
			}
		})
	}
	pv := old.DeepCopy()
	pv.Status.Phase, pv.Status.LastPhaseTransitionTime = corev1.VolumeAvailable, nil
	row.Status.PrepareForUpdate(t.Context(), pv, old)
	if pv.Status.LastPhaseTransitionTime == nil {
		t.Error("a new phase has no time")
	}
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "n", Name: "c"}
	cells := row.Table.Cells(pv)
	if cells[1] != "1Gi" || cells[2] != "RWO,ROX" || cells[4] != "Available" || cells[5] != "n/c" || cells[7] != "<unset>" {
		t.Errorf("cells %v", cells)
	}
}
