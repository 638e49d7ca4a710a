package storage

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/mini-k8s/mini/apiserver/registry/registrytest"
	"github.com/mini-k8s/mini/store"
)

func TestValidation(t *testing.T) {
	class, attributes, attachment := StorageClass(), VolumeAttributesClass(), VolumeAttachment()
	driver, node, capacity := CSIDriver(), CSINode(), CSIStorageCapacity()
	long := strings.Repeat("a", 64)
	registrytest.Run(t, []registrytest.Case{
		{Name: "good", Row: class, New: `{metadata: {name: a}, provisioner: x/Y, allowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a]}]}]}`, Then: func(t *testing.T, o store.Object) {
			if c := o.(*storagev1.StorageClass); *c.ReclaimPolicy != "Delete" || *c.VolumeBindingMode != "Immediate" {
				t.Errorf("%+v", c)
			}
		}},
		{Name: "provisioner", Row: class, New: `{metadata: {name: a}}`, Want: "provisioner: Required value"},
		{Name: "policy", Row: class, New: `{metadata: {name: a}, provisioner: p, reclaimPolicy: Recycle}`, Want: `reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"`},
		{Name: "mode", Row: class, New: `{metadata: {name: a}, provisioner: p, volumeBindingMode: Later}`, Want: `volumeBindingMode: Unsupported value: "Later"`},
		{Name: "topology", Row: class, New: `{metadata: {name: a}, provisioner: p, allowedTopologies: [{matchLabelExpressions: [{key: z, values: []}]}]}`, Want: "allowedTopologies[0].matchLabelExpressions[0].values: Required value"},
		{Name: "same_topology", Row: class, New: `{metadata: {name: a}, provisioner: p, allowedTopologies: [{matchLabelExpressions: [{key: z, values: [a]}]}, {matchLabelExpressions: [{key: z, values: [a]}]}]}`, Want: "allowedTopologies[1].matchLabelExpressions: Duplicate value"},
		{Name: "parameters_stay", Row: class, Old: `{metadata: {name: a}, provisioner: p}`, New: `{metadata: {name: a}, provisioner: p, parameters: {a: b}}`, Want: "parameters: Invalid value: {\"a\":\"b\"}: field is immutable"},
		{Name: "provisioner_stays", Row: class, Old: `{metadata: {name: a}, provisioner: p}`, New: `{metadata: {name: a}, provisioner: q}`, Want: "provisioner: Invalid value: \"q\": field is immutable"},
		{Name: "expansion_changes", Row: class, Old: `{metadata: {name: a}, provisioner: p}`, New: `{metadata: {name: a}, provisioner: p, allowVolumeExpansion: true}`},

		{Name: "good", Row: attributes, New: `{metadata: {name: a}, driverName: d, parameters: {a: b}}`},
		{Name: "protected", Row: attributes, New: `{metadata: {name: a, finalizers: [a/b]}, driverName: d, parameters: {a: b}}`, Then: func(t *testing.T, o store.Object) {
			if f := o.GetFinalizers(); len(f) != 2 || f[1] != "kubernetes.io/vac-protection" {
				t.Errorf("%v", f)
			}
		}},
		{Name: "nothing", Row: attributes, New: `{metadata: {name: a}, driverName: d}`, Want: "parameters: Required value: must contain at least one key/value pair"},
		{Name: "driver_stays", Row: attributes, Old: `{metadata: {name: a}, driverName: d, parameters: {a: b}}`, New: `{metadata: {name: a}, driverName: e, parameters: {a: c}}`, Want: "driverName: Forbidden: updates to driverName are forbidden., parameters: Forbidden: updates to parameters are forbidden."},

		{Name: "good", Row: attachment, New: `{metadata: {name: a}, spec: {attacher: d, nodeName: n, source: {persistentVolumeName: v}}, status: {attached: true}}`, Then: func(t *testing.T, o store.Object) {
			if o.(*storagev1.VolumeAttachment).Status.Attached {
				t.Error("a client set the status on create")
			}
		}},
		{Name: "no_source", Row: attachment, New: `{metadata: {name: a}, spec: {attacher: d, nodeName: n}}`, Want: "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"},
		{Name: "attacher", Row: attachment, New: `{metadata: {name: a}, spec: {attacher: ` + long + `, nodeName: n, source: {persistentVolumeName: v}}}`, Want: "spec.attacher: Too long: may not be more than 63 bytes"},
		{Name: "inline", Row: attachment, New: `{metadata: {name: a}, spec: {attacher: d, nodeName: n, source: {inlineVolumeSpec: {accessModes: [ReadWriteOnce]}}}}`, Want: "spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes"},
		{Name: "inline_default", Row: attachment, New: `{metadata: {name: a}, spec: {attacher: d, nodeName: n, source: {inlineVolumeSpec: {accessModes: [ReadWriteOnce], csi: {driver: d, volumeHandle: h}, iscsi: {targetPortal: p, iqn: i}}}}}`, Then: func(t *testing.T, o store.Object) {
			if i := o.(*storagev1.VolumeAttachment).Spec.Source.InlineVolumeSpec.ISCSI; i.ISCSIInterface != "default" {
				t.Errorf("%+v", i)
			}
		}},
		{Name: "spec_stays", Row: attachment, Old: `{metadata: {name: a}, spec: {attacher: d, nodeName: n, source: {persistentVolumeName: v}}}`, New: `{metadata: {name: a}, spec: {attacher: d, nodeName: m, source: {persistentVolumeName: v}}}`, Want: "field is immutable"},
		{Name: "status", Row: attachment, View: "status", Old: `{metadata: {name: a}, spec: {attacher: d, nodeName: n, source: {persistentVolumeName: v}}}`, New: `{metadata: {name: a}, status: {attached: true, attachError: {errorCode: -1}}}`, Want: "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive"},

		{Name: "good", Row: driver, New: `{metadata: {name: a}}`, Then: func(t *testing.T, o store.Object) {
			d := o.(*storagev1.CSIDriver)
			if !*d.Spec.AttachRequired || *d.Spec.SELinuxMount || *d.Spec.FSGroupPolicy != "ReadWriteOnceWithFSType" || d.Spec.VolumeLifecycleModes[0] != "Persistent" {
				t.Errorf("%+v", d.Spec)
			}
		}},
		{Name: "policy", Row: driver, New: `{metadata: {name: a}, spec: {fsGroupPolicy: x}}`, Want: `spec.fsGroupPolicy: Unsupported value: "x": supported values: "File", "None", "ReadWriteOnceWithFSType"`},
		{Name: "tokens", Row: driver, New: `{metadata: {name: a}, spec: {tokenRequests: [{audience: a}, {audience: a}, {audience: b, expirationSeconds: 5}]}}`, Want: "spec.tokenRequests[1].audience: Duplicate value: \"a\", spec.tokenRequests[2].expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"},
		{Name: "secrets", Row: driver, New: `{metadata: {name: a}, spec: {serviceAccountTokenInSecrets: true}}`, Want: "spec.serviceAccountTokenInSecrets: Invalid value: true: serviceAccountTokenInSecrets is set but no tokenRequests are specified"},
		{Name: "attach_stays", Row: driver, Old: `{metadata: {name: a}}`, New: `{metadata: {name: a}, spec: {attachRequired: false}}`, Want: "spec.attachedRequired: Invalid value: false: field is immutable"},
		{Name: "generation", Row: driver, Old: `{metadata: {name: a, generation: 3}}`, New: `{metadata: {name: a}, spec: {podInfoOnMount: true}}`, Then: func(t *testing.T, o store.Object) {
			if o.GetGeneration() != 4 {
				t.Errorf("generation %d", o.GetGeneration())
			}
		}},

		{Name: "good", Row: node, New: `{metadata: {name: a}, spec: {drivers: [{name: d, nodeID: i, topologyKeys: [a/b], allocatable: {count: 3}}]}}`},
		{Name: "bad", Row: node, New: `{metadata: {name: a}, spec: {drivers: [{name: d, nodeID: "", topologyKeys: [a, a], allocatable: {count: -1}}, {name: d, nodeID: i}]}}`, Want: "[spec.drivers[0].nodeID: Required value, spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0, spec.drivers[0]: Duplicate value: \"a\", spec.drivers[1].name: Duplicate value: \"d\"]"},
		{Name: "id_stays", Row: node, Old: `{metadata: {name: a}, spec: {drivers: [{name: d, nodeID: i}]}}`, New: `{metadata: {name: a}, spec: {drivers: [{name: d, nodeID: j}]}}`, Want: "spec.drivers: Invalid value"},
		{Name: "count_changes", Row: node, Old: `{metadata: {name: a}, spec: {drivers: [{name: d, nodeID: i}]}}`, New: `{metadata: {name: a}, spec: {drivers: [{name: d, nodeID: i, allocatable: {count: 4}}]}}`},

		{Name: "good", Row: capacity, New: `{metadata: {name: a, namespace: n}, storageClassName: c, capacity: 1Gi, nodeTopology: {matchLabels: {a: b}}}`},
		{Name: "class", Row: capacity, New: `{metadata: {name: a, namespace: n}, storageClassName: C}`, Want: "storageClassName: Invalid value: \"C\""},
		{Name: "negative", Row: capacity, New: `{metadata: {name: a, namespace: n}, storageClassName: c, capacity: -1}`, Want: "capacity: Invalid value: \"-1\": must be greater than or equal to 0"},
		{Name: "class_stays", Row: capacity, Old: `{metadata: {name: a, namespace: n}, storageClassName: c}`, New: `{metadata: {name: a, namespace: n}, storageClassName: d}`, Want: "storageClassName: Invalid value: \"d\": field is immutable"},
	})
}

func TestCells(t *testing.T) {
	cells := func(row string, got []any, want ...any) {
		t.Helper()
		if diff := cmp.Diff(want, got[:len(got)-1]); diff != "" { // without the age
			t.Errorf("%s: %s", row, diff)
		}
	}
	class := StorageClass()
	o := registrytest.Decode(t, class, `{metadata: {name: a, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}, provisioner: p}`)
	cells("class", class.Table.Cells(o), "a (default)", "p", "Delete", "Immediate", false)
	driver := CSIDriver()
	o = registrytest.Decode(t, driver, `{metadata: {name: a}, spec: {tokenRequests: [{audience: x}, {audience: "y"}]}}`)
	cells("driver", driver.Table.Cells(o), "a", true, false, false, "x,y", false, "Persistent")
	if warnings := driver.Strategy.Warnings(t.Context(), o, nil); len(warnings) != 1 {
		t.Errorf("warnings %v", warnings)
	}
}
