package core

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// The finalizers that keep a volume while a claim has it and a claim while a pod uses it (KEP-498). Upstream's admission adds
// them; here it is part of making the object. The volume controller takes them away.
const (
	volumeProtection = "kubernetes.io/pv-protection"
	claimProtection  = "kubernetes.io/pvc-protection"
)

func protect(o metav1.Object, finalizer string) {
	if f := o.GetFinalizers(); !slices.Contains(f, finalizer) {
		o.SetFinalizers(append(slices.Clone(f), finalizer))
	}
}

func now() *metav1.Time {
	t := metav1.NewTime(time.Now().Truncate(time.Second))
	return &t
}

// PersistentVolume is the row of persistentvolumes.
func PersistentVolume() registry.Resource {
	main, status := registry.SpecStatus(func(pv *corev1.PersistentVolume) (*corev1.PersistentVolumeSpec, *corev1.PersistentVolumeStatus) {
		return &pv.Spec, &pv.Status
	})
	main.PrepareForCreate = registry.Prepare(func(pv *corev1.PersistentVolume) { // has no generation
		pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: now()}
		protect(pv, volumeProtection)
	})
	main.PrepareForUpdate = registry.PrepareUpdate(func(pv, old *corev1.PersistentVolume) { pv.Status = old.Status })
	main.Validate = registry.Validate(validatePersistentVolume)
	main.ValidateUpdate = registry.ValidateUpdate(validatePersistentVolumeUpdate)
	main.ReturnDeleted = true
	status.PrepareForUpdate = registry.PrepareUpdate(func(pv, old *corev1.PersistentVolume) {
		pv.Spec = old.Spec
		at, was := pv.Status.LastPhaseTransitionTime, old.Status.LastPhaseTransitionTime
		switch {
		case pv.Status.Phase == old.Status.Phase && at == nil:
			pv.Status.LastPhaseTransitionTime = was
		case pv.Status.Phase != old.Status.Phase && (at == nil || at.Equal(was)):
			pv.Status.LastPhaseTransitionTime = now()
		}
	})
	status.ValidateUpdate = registry.ValidateUpdate(validatePersistentVolumeStatusUpdate)
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("PersistentVolume"), Name: "persistentvolumes", Singular: "persistentvolume", ShortNames: []string{"pv"},
		Default:  registry.Defaulter(defaultPersistentVolume),
		Strategy: main,
		Fields:   registry.Select(func(pv *corev1.PersistentVolume) fields.Set { return fields.Set{"name": pv.Name} }),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Capacity", "How much the volume holds"),
				registry.Column("Access Modes", "How the volume can be mounted"),
				registry.Column("Reclaim Policy", "What happens to the volume when its claim is gone"),
				registry.Column("Status", "Whether the volume is available, bound to a claim or released by it"),
				registry.Column("Claim", "The claim that has the volume"),
				registry.Column("StorageClass", "The class of the volume"),
				registry.Column("VolumeAttributesClass", "The class of the volume's changeable attributes"),
				registry.Column("Reason", "Why the volume is in this state"),
				registry.AgeColumn(),
				registry.Wide(registry.Column("VolumeMode", "Filesystem or Block")),
			},
			Cells: registry.Cells(persistentVolumeCells),
		},
		Status: &status,
	}
}

func persistentVolumeCells(pv *corev1.PersistentVolume) []any {
	capacity, claim, phase := pv.Spec.Capacity[corev1.ResourceStorage], "", pv.Status.Phase
	if ref := pv.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	if pv.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	class := pv.Spec.StorageClassName
	if older, ok := pv.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		class = older
	}
	return []any{
		pv.Name, capacity.String(), accessModes(pv.Spec.AccessModes), string(pv.Spec.PersistentVolumeReclaimPolicy), string(phase), claim,
		class, unset(pv.Spec.VolumeAttributesClassName), pv.Status.Reason, registry.Age(pv.CreationTimestamp), unset(pv.Spec.VolumeMode),
	}
}

// unset is a cell for a value that may not be there.
func unset[T ~string](p *T) string {
	if p == nil {
		return "<unset>"
	}
	return string(*p)
}

// accessModes are the modes in kubectl's short form, each once, in the order in which it names them.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		name string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			short = append(short, m.name)
		}
	}
	return strings.Join(short, ",")
}

func defaultPersistentVolume(pv *corev1.PersistentVolume) {
	fill(&pv.Status.Phase, corev1.VolumePending)
	fill(&pv.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	set(&pv.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	DefaultVolumeSource(&pv.Spec)
}

// DefaultVolumeSource fills what a volume leaves open about where it is and how large, in a PersistentVolume or inline in a
// VolumeAttachment.
func DefaultVolumeSource(spec *corev1.PersistentVolumeSpec) {
	defaultResources(spec.Capacity)
	s := &spec.PersistentVolumeSource
	switch {
	case s.HostPath != nil:
		set(&s.HostPath.Type, corev1.HostPathUnset)
	case s.ISCSI != nil:
		fill(&s.ISCSI.ISCSIInterface, "default")
	case s.RBD != nil:
		fill(&s.RBD.RBDPool, "rbd")
		fill(&s.RBD.RadosUser, "admin")
		fill(&s.RBD.Keyring, "/etc/ceph/keyring")
	case s.AzureDisk != nil:
		set(&s.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		set(&s.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		set(&s.AzureDisk.FSType, "ext4")
		set(&s.AzureDisk.ReadOnly, false)
	case s.ScaleIO != nil:
		fill(&s.ScaleIO.StorageMode, "ThinProvisioned")
		fill(&s.ScaleIO.FSType, "xfs")
	}
}
