package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// PersistentVolumeClaim is the row of persistentvolumeclaims.
func PersistentVolumeClaim() registry.Resource {
	main, status := registry.SpecStatus(func(c *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaimSpec, *corev1.PersistentVolumeClaimStatus) {
		return &c.Spec, &c.Status
	})
	main.PrepareForCreate = registry.Prepare(func(c *corev1.PersistentVolumeClaim) { // has no generation
		c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		matchDataSources(&c.Spec, nil)
		protect(c, claimProtection)
	})
	main.PrepareForUpdate = registry.PrepareUpdate(func(c, old *corev1.PersistentVolumeClaim) {
		c.Status = old.Status
		matchDataSources(&c.Spec, &old.Spec)
	})
	main.Validate = registry.Validate(validateClaim)
	main.ValidateUpdate = registry.ValidateUpdate(validateClaimUpdate)
	main.Warnings = registry.Warn(func(c, _ *corev1.PersistentVolumeClaim) []string {
		var warnings []string
		if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
			warnings = append(warnings, fmt.Sprintf("%s: deprecated since v1.8; use \"storageClassName\" attribute instead",
				field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation)))
		}
		return append(warnings, ClaimWarnings(&c.Spec, field.NewPath("spec"))...)
	})
	main.ReturnDeleted = true
	status.ValidateUpdate = registry.ValidateUpdate(validateClaimStatusUpdate)
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"), Name: "persistentvolumeclaims", Singular: "persistentvolumeclaim",
		ShortNames: []string{"pvc"}, Namespaced: true,
		Default:  registry.Defaulter(DefaultPersistentVolumeClaim),
		Strategy: main,
		Fields:   registry.Select(func(c *corev1.PersistentVolumeClaim) fields.Set { return fields.Set{"name": c.Name} }),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Status", "Whether the claim has a volume"),
				registry.Column("Volume", "The volume"),
				registry.Column("Capacity", "How much the volume holds"),
				registry.Column("Access Modes", "How the volume can be mounted"),
				registry.Column("StorageClass", "The class of the volume"),
				registry.Column("VolumeAttributesClass", "The class of the volume's changeable attributes"),
				registry.AgeColumn(),
				registry.Wide(registry.Column("VolumeMode", "Filesystem or Block")),
			},
			Cells: registry.Cells(claimCells),
		},
		Status: &status,
	}
}

func claimCells(c *corev1.PersistentVolumeClaim) []any {
	phase, capacity, modes := c.Status.Phase, "", ""
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	if c.Spec.VolumeName != "" {
		q := c.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = q.String(), accessModes(c.Status.AccessModes)
	}
	class := ""
	if older, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		class = older
	} else if c.Spec.StorageClassName != nil {
		class = *c.Spec.StorageClassName
	}
	return []any{
		c.Name, string(phase), c.Spec.VolumeName, capacity, modes, class, unset(c.Spec.VolumeAttributesClassName),
		registry.Age(c.CreationTimestamp), unset(c.Spec.VolumeMode),
	}
}

// DefaultPersistentVolumeClaim fills the defaults of a claim; a StatefulSet's templates get the same.
func DefaultPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	fill(&c.Status.Phase, corev1.ClaimPending)
	set(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	defaultResources(c.Spec.Resources.Limits)
	defaultResources(c.Spec.Resources.Requests)
	defaultResources(c.Status.Capacity)
	defaultResources(c.Status.AllocatedResources)
}

// matchDataSources keeps the older dataSource and the newer dataSourceRef in step (KEP-1495). The older one alone only
// ever meant claims and snapshots: anything else in it is dropped, unless the claim had a source before.
func matchDataSources(spec, old *corev1.PersistentVolumeClaimSpec) {
	if r := spec.DataSourceRef; r != nil && r.Namespace != nil && *r.Namespace != "" && (old == nil || old.DataSourceRef == nil) {
		spec.DataSourceRef = nil // sources of other namespaces are not served (KEP-3294)
	}
	had := old != nil && (old.DataSource != nil || old.DataSourceRef != nil)
	if s := spec.DataSource; s != nil && spec.DataSourceRef == nil && !had {
		group := ""
		if s.APIGroup != nil {
			group = *s.APIGroup
		}
		if (s.Kind != "PersistentVolumeClaim" || group != "") && (s.Kind != "VolumeSnapshot" || group != "snapshot.storage.k8s.io") {
			spec.DataSource = nil
		}
	}
	switch s, r := spec.DataSource, spec.DataSourceRef; {
	case s != nil && r == nil:
		spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.APIGroup, Kind: s.Kind, Name: s.Name}
	case r != nil && s == nil && (r.Namespace == nil || *r.Namespace == ""):
		spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: r.APIGroup, Kind: r.Kind, Name: r.Name}
	}
}
