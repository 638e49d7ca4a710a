package core

import (
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	volumeAccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}
	reclaimPolicies   = []corev1.PersistentVolumeReclaimPolicy{
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain,
	}
	volumeModes = []corev1.PersistentVolumeMode{corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem}
)

// among is oneOf for a value whose absence another rule deals with.
func among[T ~string](at *field.Path, value T, supported []T) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, value, supported)}
}

func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path, ifNone string) field.ErrorList {
	var errs field.ErrorList
	if len(modes) == 0 {
		errs = append(errs, field.Required(at, ifNone))
	}
	others := 0
	for _, m := range modes {
		bad := among(at, m, volumeAccessModes)
		errs = append(errs, bad...)
		if len(bad) == 0 && m != corev1.ReadWriteOncePod {
			others++
		}
	}
	if others > 0 && slices.Contains(modes, corev1.ReadWriteOncePod) {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// validateStorageAmount requires a positive amount.
func validateStorageAmount(q resource.Quantity, at *field.Path) field.ErrorList {
	if q.Sign() <= 0 {
		return field.ErrorList{field.Invalid(at, q.String(), "must be greater than zero")}
	}
	return nil
}

func validatePersistentVolume(pv *corev1.PersistentVolume) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&pv.ObjectMeta, false, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	return append(errs, validatePersistentVolumeSpec(pv, field.NewPath("spec"))...)
}

func validatePersistentVolumeSpec(pv *corev1.PersistentVolume, at *field.Path) field.ErrorList {
	spec := &pv.Spec
	errs := validateAccessModes(spec.AccessModes, at.Child("accessModes"), "")
	if len(spec.Capacity) == 0 {
		errs = append(errs, field.Required(at.Child("capacity"), ""))
	}
	if _, ok := spec.Capacity[corev1.ResourceStorage]; !ok || len(spec.Capacity) > 1 {
		errs = append(errs, field.NotSupported(at.Child("capacity"), spec.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for name, q := range spec.Capacity {
		errs = append(errs, validateStorageAmount(q, at.Child("capacity").Key(string(name)))...)
	}
	if p := spec.PersistentVolumeReclaimPolicy; p != "" {
		errs = append(errs, among(at.Child("persistentVolumeReclaimPolicy"), p, reclaimPolicies)...)
	}
	if a := spec.NodeAffinity; a != nil {
		required := at.Child("nodeAffinity", "required")
		if a.Required == nil {
			errs = append(errs, field.Required(required, "must specify required node constraints"))
		} else {
			errs = append(errs, ValidateNodeSelector(a.Required, required)...)
		}
	}
	errs = append(errs, validatePersistentVolumeSource(pv, at)...)
	if h := spec.HostPath; h != nil && path.Clean(h.Path) == "/" && spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if c := spec.StorageClassName; c != "" {
		errs = append(errs, invalid(at.Child("storageClassName"), c, validation.IsDNS1123Subdomain(c))...)
	}
	if m := spec.VolumeMode; m != nil {
		errs = append(errs, among(at.Child("volumeMode"), *m, volumeModes)...)
	}
	if c := spec.VolumeAttributesClassName; c != nil {
		class := at.Child("volumeAttributesClassName")
		if *c == "" {
			errs = append(errs, field.Required(class, "an empty string is disallowed"))
		} else {
			errs = append(errs, invalid(class, *c, validation.IsDNS1123Subdomain(*c))...)
		}
		if spec.CSI == nil {
			errs = append(errs, field.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
	return errs
}

// validatePersistentVolumeSource requires exactly one source, and of the sources that are in use what they cannot do without.
func validatePersistentVolumeSource(pv *corev1.PersistentVolume, at *field.Path) field.ErrorList {
	s := &pv.Spec.PersistentVolumeSource
	var sources []string
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			sources = append(sources, name)
		}
	}
	if len(sources) == 0 {
		return field.ErrorList{field.Required(at, "must specify a volume type")}
	}
	var errs field.ErrorList
	for _, extra := range sources[1:] {
		errs = append(errs, field.Forbidden(at.Child(extra), "may not specify more than 1 volume type"))
	}
	source := at.Child(sources[0])
	required := func(child, value string) {
		if value == "" {
			errs = append(errs, field.Required(source.Child(child), ""))
		}
	}
	switch {
	case s.HostPath != nil:
		errs = append(errs, validateHostPath(s.HostPath, source)...)
	case s.Local != nil:
		if required("path", s.Local.Path); s.Local.Path != "" {
			errs = append(errs, noBacksteps(s.Local.Path, source.Child("path"))...)
		}
		if pv.Spec.NodeAffinity == nil {
			errs = append(errs, field.Required(at.Child("nodeAffinity"), "Local volume requires node affinity"))
		}
	case s.NFS != nil:
		required("server", s.NFS.Server)
		required("path", s.NFS.Path)
		if s.NFS.Path != "" && !path.IsAbs(s.NFS.Path) {
			errs = append(errs, field.Invalid(source.Child("path"), s.NFS.Path, "must be an absolute path"))
		}
	case s.CSI != nil:
		errs = append(errs, validateCSISource(s.CSI, source)...)
	case s.GCEPersistentDisk != nil:
		required("pdName", s.GCEPersistentDisk.PDName)
	case s.AWSElasticBlockStore != nil:
		required("volumeID", s.AWSElasticBlockStore.VolumeID)
	case s.Cinder != nil:
		required("volumeID", s.Cinder.VolumeID)
	case s.CephFS != nil:
		if len(s.CephFS.Monitors) == 0 {
			errs = append(errs, field.Required(source.Child("monitors"), ""))
		}
	case s.RBD != nil:
		if len(s.RBD.CephMonitors) == 0 {
			errs = append(errs, field.Required(source.Child("monitors"), ""))
		}
		required("image", s.RBD.RBDImage)
	case s.AzureFile != nil:
		required("secretName", s.AzureFile.SecretName)
		required("shareName", s.AzureFile.ShareName)
	case s.AzureDisk != nil:
		required("diskName", s.AzureDisk.DiskName)
		required("diskURI", s.AzureDisk.DataDiskURI)
	case s.FlexVolume != nil:
		required("driver", s.FlexVolume.Driver)
	case s.ISCSI != nil:
		required("targetPortal", s.ISCSI.TargetPortal)
		required("iqn", s.ISCSI.IQN)
	case s.VsphereVolume != nil:
		required("volumePath", s.VsphereVolume.VolumePath)
	}
	return errs
}

func validateCSISource(s *corev1.CSIPersistentVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch driver := at.Child("driver"); {
	case s.Driver == "":
		errs = append(errs, field.Required(driver, ""))
	default:
		if len(s.Driver) > 63 {
			errs = append(errs, field.TooLong(driver, "", 63))
		}
		errs = append(errs, invalid(driver, s.Driver, validation.IsDNS1123Subdomain(strings.ToLower(s.Driver)))...)
	}
	if s.VolumeHandle == "" {
		errs = append(errs, field.Required(at.Child("volumeHandle"), ""))
	}
	for child, ref := range map[string]*corev1.SecretReference{
		"controllerPublishSecretRef": s.ControllerPublishSecretRef, "controllerExpandSecretRef": s.ControllerExpandSecretRef,
		"nodePublishSecretRef": s.NodePublishSecretRef, "nodeExpandSecretRef": s.NodeExpandSecretRef,
	} {
		if ref == nil {
			continue
		}
		if ref.Name == "" {
			errs = append(errs, field.Required(at.Child(child, "name"), ""))
		} else {
			errs = append(errs, invalid(at.Child(child, "name"), ref.Name, validation.IsDNS1123Subdomain(ref.Name))...)
		}
		if ref.Namespace == "" {
			errs = append(errs, field.Required(at.Child(child, "namespace"), ""))
		} else {
			errs = append(errs, invalid(at.Child(child, "namespace"), ref.Namespace, validation.IsDNS1123Label(ref.Namespace))...)
		}
	}
	return errs
}

func validatePersistentVolumeUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&pv.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	if !apiequality.Semantic.DeepEqual(pv.Spec, old.Spec) {
		errs = append(errs, validatePersistentVolumeSpec(pv, field.NewPath("spec"))...)
	}
	was, is := old.Spec.PersistentVolumeSource, pv.Spec.PersistentVolumeSource
	if was.CSI != nil && is.CSI != nil && was.CSI.ControllerExpandSecretRef == nil && is.CSI.ControllerExpandSecretRef != nil {
		csi := *is.CSI // may be set later
		csi.ControllerExpandSecretRef = nil
		is.CSI = &csi
	}
	if !apiequality.Semantic.DeepEqual(is, was) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(was, is))))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(pv.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.NodeAffinity != nil && !apiequality.Semantic.DeepEqual(pv.Spec.NodeAffinity, old.Spec.NodeAffinity) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), pv.Spec.NodeAffinity,
			apivalidation.FieldImmutableErrorMsg+", except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && pv.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

func validatePersistentVolumeStatusUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	return apivalidation.ValidateObjectMetaUpdate(&pv.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
}

func validateClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	return append(errs, ValidateClaimSpec(&c.Spec, field.NewPath("spec"))...)
}

// ValidateClaimSpec validates what is claimed; templates of claims are held to the same.
func ValidateClaimSpec(spec *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	errs := validateAccessModes(spec.AccessModes, at.Child("accessModes"), "at least 1 access mode is required")
	if spec.Selector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(spec.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	}
	amount := at.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := spec.Resources.Requests[corev1.ResourceStorage]; ok {
		errs = append(errs, validateStorageAmount(q, amount)...)
	} else {
		errs = append(errs, field.Required(amount, ""))
	}
	if c := spec.StorageClassName; c != nil && *c != "" {
		errs = append(errs, invalid(at.Child("storageClassName"), *c, validation.IsDNS1123Subdomain(*c))...)
	}
	if m := spec.VolumeMode; m != nil {
		errs = append(errs, among(at.Child("volumeMode"), *m, volumeModes)...)
	}
	if s := spec.DataSource; s != nil {
		errs = append(errs, validateDataSource(s.APIGroup, s.Kind, s.Name, at.Child("dataSource"))...)
	}
	if r := spec.DataSourceRef; r != nil {
		errs = append(errs, validateDataSource(r.APIGroup, r.Kind, r.Name, at.Child("dataSourceRef"))...)
		if r.Namespace != nil && *r.Namespace != "" {
			errs = append(errs, invalid(at.Child("dataSourceRef", "namespace"), *r.Namespace, validation.IsDNS1123Label(*r.Namespace))...)
			if spec.DataSource != nil {
				errs = append(errs, field.Invalid(at, at.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
			}
		} else if s := spec.DataSource; s != nil && (s.Kind != r.Kind || s.Name != r.Name || !apiequality.Semantic.DeepEqual(s.APIGroup, r.APIGroup)) {
			errs = append(errs, field.Invalid(at, at.Child("dataSource"), "must match dataSourceRef"))
		}
	}
	if c := spec.VolumeAttributesClassName; c != nil && *c != "" {
		errs = append(errs, invalid(at.Child("volumeAttributesClassName"), *c, validation.IsDNS1123Subdomain(*c))...)
	}
	return errs
}

func validateDataSource(apiGroup *string, kind, name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	if kind == "" {
		errs = append(errs, field.Required(at.Child("kind"), ""))
	}
	switch {
	case apiGroup != nil && *apiGroup != "":
		errs = append(errs, invalid(at.Child("apiGroup"), *apiGroup, validation.IsDNS1123Subdomain(*apiGroup))...)
	case kind != "PersistentVolumeClaim":
		errs = append(errs, field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	}
	return errs
}

// ClaimWarnings are about amounts that mean less than a byte.
func ClaimWarnings(spec *corev1.PersistentVolumeClaimSpec, at *field.Path) []string {
	var warnings []string
	for _, list := range []struct {
		name    string
		amounts corev1.ResourceList
	}{{"requests", spec.Resources.Requests}, {"limits", spec.Resources.Limits}} {
		if q := list.amounts[corev1.ResourceStorage]; q.MilliValue()%1000 != 0 {
			warnings = append(warnings, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer",
				at.Child("resources", list.name).Key(string(corev1.ResourceStorage)), q.String()))
		}
	}
	return warnings
}

// validateClaimUpdate lets a claim be bound once, be given the class that became the default, and ask for more when bound.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&c.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	spec := field.NewPath("spec")
	if !apiequality.Semantic.DeepEqual(c.Spec, old.Spec) {
		errs = append(errs, ValidateClaimSpec(&c.Spec, spec)...)
	}
	is, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	matchDataSources(was, was) // from before the fields were kept in step
	if was.VolumeName == "" {
		was.VolumeName = is.VolumeName
	}
	older, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
	newer, stays := c.Annotations[corev1.BetaStorageClassAnnotation]
	if is.StorageClassName != nil && was.StorageClassName == nil && (!annotated || *is.StorageClassName == older) {
		was.StorageClassName = is.StorageClassName
		if annotated && !stays {
			newer = older // the annotation has become the field
		}
	}
	if newer != older {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation), newer, apivalidation.FieldImmutableErrorMsg))
	}
	if c.Status.Phase == corev1.ClaimBound {
		if q, ok := was.Resources.Requests[corev1.ResourceStorage]; ok && is.Resources.Requests != nil {
			is.Resources.Requests[corev1.ResourceStorage] = q
		}
		is.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	if !apiequality.Semantic.DeepEqual(is, was) {
		errs = append(errs, field.Forbidden(spec, fmt.Sprintf(
			"spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(*was, *is))))
	}
	before, after := old.Spec.Resources.Requests[corev1.ResourceStorage], c.Spec.Resources.Requests[corev1.ResourceStorage]
	if has := old.Status.Capacity[corev1.ResourceStorage]; after.Cmp(before) < 0 && after.Cmp(has) <= 0 {
		errs = append(errs, field.Forbidden(spec.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Status.CurrentVolumeAttributesClassName != nil && !apiequality.Semantic.DeepEqual(c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName) {
		class := spec.Child("volumeAttributesClassName")
		if n := c.Spec.VolumeAttributesClassName; n == nil {
			errs = append(errs, field.Forbidden(class, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"))
		} else if *n == "" {
			errs = append(errs, field.Forbidden(class, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil"))
		}
	}
	return errs
}

func validateClaimStatusUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&c.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	status := field.NewPath("status")
	for list, amounts := range map[string]corev1.ResourceList{"capacity": c.Status.Capacity, "allocatedResources": c.Status.AllocatedResources} {
		for name, q := range amounts {
			if q.Sign() < 0 {
				errs = append(errs, field.Invalid(status.Child(list).Key(string(name)), q.Value(), "must be a valid resource quantity"))
			}
		}
	}
	for _, s := range c.Status.AllocatedResourceStatuses {
		errs = append(errs, among(status.Child("allocatedResourceStatus"), s, []corev1.ClaimResourceStatus{
			corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
			corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible,
			corev1.PersistentVolumeClaimNodeResizePending,
		})...)
	}
	return errs
}
