package storage

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
)

const (
	maxMetadataBytes = 256 << 10
	maxErrorBytes    = 1024
	maxDriverName    = 63
)

// VolumeAttachment is the row of volumeattachments.
func VolumeAttachment() registry.Resource {
	return registry.Resource{
		GVK: storagev1.SchemeGroupVersion.WithKind("VolumeAttachment"), Name: "volumeattachments", Singular: "volumeattachment",
		Default: registry.Defaulter(func(a *storagev1.VolumeAttachment) {
			if spec := a.Spec.Source.InlineVolumeSpec; spec != nil {
				core.DefaultVolumeSource(spec)
			}
		}),
		Strategy: registry.OwnStatus(registry.Strategy{
			Validate: registry.Validate(validateAttachment),
			ValidateUpdate: registry.ValidateUpdate(func(a, old *storagev1.VolumeAttachment) field.ErrorList {
				return append(validateAttachment(a), registry.Immutable(a.Spec, old.Spec, field.NewPath("spec"))...)
			}),
		}, func(a *storagev1.VolumeAttachment) *storagev1.VolumeAttachmentStatus { return &a.Status }),
		Status: registry.KeepMeta(registry.StatusView(func(a *storagev1.VolumeAttachment) *storagev1.VolumeAttachmentSpec { return &a.Spec },
			func(a, _ *storagev1.VolumeAttachment) field.ErrorList { return validateAttachment(a) })),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				{Name: "Attacher", Type: "string", Format: "name", Description: "The driver that attaches the volume"},
				registry.Column("PV", "The volume"),
				registry.Column("Node", "The node it shall be attached to"),
				registry.Boolean("Attached", "Whether it is attached"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(a *storagev1.VolumeAttachment) []any {
				return []any{
					a.Name, a.Spec.Attacher, ptr.Deref(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached, registry.Age(a.CreationTimestamp),
				}
			}),
		},
	}
}

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	errs := registry.ValidateMeta(a, false, apivalidation.NameIsDNSSubdomain)
	spec := field.NewPath("spec")
	errs = append(errs, validateDriverName(a.Spec.Attacher, spec.Child("attacher"))...)
	errs = append(errs, validateSource(&a.Spec.Source, spec.Child("source"))...)
	errs = append(errs, registry.Invalid(spec.Child("nodeName"), a.Spec.NodeName, apivalidation.NameIsDNSSubdomain(a.Spec.NodeName, false))...)
	status := field.NewPath("status")
	size := 0
	for k, v := range a.Status.AttachmentMetadata {
		size += len(k) + len(v)
	}
	if size > maxMetadataBytes {
		errs = append(errs, field.TooLong(status.Child("attachmentMetadata"), "", maxMetadataBytes))
	}
	errs = append(errs, validateVolumeError(a.Status.AttachError, status.Child("attachError"))...)
	errs = append(errs, validateVolumeError(a.Status.DetachError, status.Child("detachError"))...)
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		errs = append(errs, registry.Invalid(field.NewPath("spec.source.persistentVolumeName"), *name, apivalidation.NameIsDNSSubdomain(*name, false))...)
	}
	return errs
}

func validateDriverName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > maxDriverName {
		errs = append(errs, field.TooLong(path, "", maxDriverName))
	}
	return append(errs, registry.Invalid(path, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

func validateSource(s *storagev1.VolumeAttachmentSource, path *field.Path) field.ErrorList {
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch {
	case s.InlineVolumeSpec == nil && s.PersistentVolumeName == nil:
		return field.ErrorList{field.Required(path, one)}
	case s.InlineVolumeSpec != nil && s.PersistentVolumeName != nil:
		return field.ErrorList{field.Forbidden(path, one)}
	case s.InlineVolumeSpec != nil:
		return validateInline(s.InlineVolumeSpec, path.Child("inlineVolumeSpec"))
	case *s.PersistentVolumeName == "":
		return field.ErrorList{field.Required(path.Child("persistentVolumeName"), "must specify non empty persistentVolumeName")}
	}
	return nil
}

// validateInline judges what a driver's migration from an older plugin writes instead of a PersistentVolume's name.
func validateInline(spec *corev1.PersistentVolumeSpec, path *field.Path) field.ErrorList {
	const inline = "may not be specified in the context of inline volumes"
	var errs field.ErrorList
	if spec.ClaimRef != nil {
		errs = append(errs, field.Forbidden(path.Child("claimRef"), inline))
	}
	if len(spec.Capacity) > 0 {
		errs = append(errs, field.Forbidden(path.Child("capacity"), inline))
	}
	if len(spec.AccessModes) == 0 {
		errs = append(errs, field.Required(path.Child("accessModes"), ""))
	}
	if p := spec.PersistentVolumeReclaimPolicy; p != "" && p != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.Forbidden(path.Child("persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes"))
	}
	if spec.CSI == nil {
		return append(errs, field.Required(path.Child("csi"), "has to be specified in the context of inline volumes"))
	}
	errs = append(errs, validateDriverName(spec.CSI.Driver, path.Child("csi", "driver"))...)
	if spec.CSI.VolumeHandle == "" {
		errs = append(errs, field.Required(path.Child("csi", "volumeHandle"), ""))
	}
	return errs
}

func validateVolumeError(e *storagev1.VolumeError, path *field.Path) field.ErrorList {
	if e == nil {
		return nil
	}
	var errs field.ErrorList
	if len(e.Message) > maxErrorBytes {
		errs = append(errs, field.TooLong(path.Child("message"), "", maxMetadataBytes)) // upstream names that limit
	}
	if c := e.ErrorCode; c != nil && *c < 0 {
		errs = append(errs, field.Invalid(path.Child("errorCode"), *c, validation.InclusiveRangeError(0, 1<<31-1)))
	}
	return errs
}
