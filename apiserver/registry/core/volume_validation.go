package core

import (
	"path"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const badMode = "must be a number between 0 and 0777 (octal), both inclusive"

// validateVolumes checks a pod's volumes and returns them by name.
func validateVolumes(volumes []corev1.Volume, at *field.Path) (map[string]*corev1.Volume, field.ErrorList) {
	var errs field.ErrorList
	byName := make(map[string]*corev1.Volume, len(volumes))
	for i := range volumes {
		v, path := &volumes[i], at.Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(path.Child("name"), ""))
		} else {
			errs = append(errs, invalid(path.Child("name"), v.Name, validation.IsDNS1123Label(v.Name))...)
		}
		if byName[v.Name] != nil {
			errs = append(errs, field.Duplicate(path.Child("name"), v.Name))
		}
		byName[v.Name] = v
		errs = append(errs, validateVolumeSource(&v.VolumeSource, path)...)
	}
	return byName, errs
}

func validateVolumeSource(s *corev1.VolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	sources := setSources(s)
	if len(sources) == 0 {
		return field.ErrorList{field.Required(at, "must specify a volume type")}
	}
	for _, extra := range sources[1:] {
		errs = append(errs, field.Forbidden(at.Child(extra), "may not specify more than 1 volume type"))
	}
	at = at.Child(sources[0])
	required := func(child, value string) {
		if value == "" {
			errs = append(errs, field.Required(at.Child(child), ""))
		}
	}
	switch sources[0] {
	case "emptyDir":
		if l := s.EmptyDir.SizeLimit; l != nil && l.Sign() < 0 {
			errs = append(errs, field.Forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity"))
		}
	case "hostPath":
		errs = append(errs, validateHostPath(s.HostPath, at)...)
	case "secret":
		required("secretName", s.Secret.SecretName)
		errs = append(errs, validateMode(s.Secret.DefaultMode, at.Child("defaultMode"))...)
		errs = append(errs, validateItems(s.Secret.Items, at.Child("items"))...)
	case "configMap":
		required("name", s.ConfigMap.Name)
		errs = append(errs, validateMode(s.ConfigMap.DefaultMode, at.Child("defaultMode"))...)
		errs = append(errs, validateItems(s.ConfigMap.Items, at.Child("items"))...)
	case "downwardAPI":
		errs = append(errs, validateMode(s.DownwardAPI.DefaultMode, at.Child("defaultMode"))...)
		errs = append(errs, validateDownwardItems(s.DownwardAPI.Items, at)...)
	case "projected":
		errs = append(errs, validateMode(s.Projected.DefaultMode, at.Child("defaultMode"))...)
		errs = append(errs, validateProjections(s.Projected.Sources, at.Child("sources"))...)
	case "persistentVolumeClaim":
		required("claimName", s.PersistentVolumeClaim.ClaimName)
	case "nfs":
		required("server", s.NFS.Server)
		required("path", s.NFS.Path)
		if s.NFS.Path != "" && !path.IsAbs(s.NFS.Path) {
			errs = append(errs, field.Invalid(at.Child("path"), s.NFS.Path, "must be an absolute path"))
		}
	case "csi":
		required("driver", s.CSI.Driver)
	case "image":
		errs = append(errs, oneOf(at.Child("pullPolicy"), s.Image.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	case "ephemeral":
		if s.Ephemeral.VolumeClaimTemplate == nil {
			errs = append(errs, field.Required(at.Child("volumeClaimTemplate"), ""))
		}
	}
	return errs
}

// setSources are the JSON names of the sources that are set, in the API's order.
func setSources(s *corev1.VolumeSource) []string {
	var names []string
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

func validateHostPath(h *corev1.HostPathVolumeSource, at *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(at.Child("path"), "")}
	}
	errs := noBacksteps(h.Path, at.Child("path"))
	if h.Type == nil || *h.Type == corev1.HostPathUnset {
		return errs
	}
	return append(errs, oneOf(at.Child("type"), *h.Type, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
		corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
}

func validateMode(mode *int32, at *field.Path) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(at, *mode, badMode)}
	}
	return nil
}

func validateItems(items []corev1.KeyToPath, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, item := range items {
		path := at.Index(i)
		if item.Key == "" {
			errs = append(errs, field.Required(path.Child("key"), ""))
		}
		if item.Path == "" {
			errs = append(errs, field.Required(path.Child("path"), ""))
		}
		errs = append(errs, localPath(item.Path, path.Child("path"))...)
		errs = append(errs, validateMode(item.Mode, path.Child("mode"))...)
	}
	return errs
}

// localPath requires a path below the volume that does not collide with the names the kubelet keeps for itself ("..data").
func localPath(p string, at *field.Path) field.ErrorList {
	errs := relativePath(p, at)
	if strings.HasPrefix(p, "..") && len(errs) == 0 {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

func validateDownwardItems(items []corev1.DownwardAPIVolumeFile, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range items {
		item := &items[i]
		if item.Path == "" {
			errs = append(errs, field.Required(at.Child("path"), ""))
		}
		errs = append(errs, localPath(item.Path, at.Child("path"))...)
		switch {
		case item.FieldRef != nil:
			errs = append(errs, validateFieldRef(item.FieldRef, volumeFields, at.Child("fieldRef"))...)
			if item.ResourceFieldRef != nil {
				errs = append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
			}
		case item.ResourceFieldRef != nil:
			errs = append(errs, validateResourceFieldRef(item.ResourceFieldRef, true, at.Child("resourceFieldRef"))...)
		default:
			errs = append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
		}
		errs = append(errs, validateMode(item.Mode, at.Child("mode"))...)
	}
	return errs
}

func validateProjections(sources []corev1.VolumeProjection, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	paths := sets.New[string]()
	// Two sources must not write one file.
	claim := func(p string, path *field.Path) {
		if p == "" {
			return
		}
		if paths.Has(p) {
			errs = append(errs, field.Invalid(path, p, "conflicting duplicate paths"))
		}
		paths.Insert(p)
	}
	for i := range sources {
		s, path := &sources[i], at.Index(i)
		n := 0
		first := func(child string) *field.Path {
			if n++; n > 1 {
				errs = append(errs, field.Forbidden(path.Child(child), "may not specify more than 1 volume type per source"))
			}
			return path.Child(child)
		}
		named := func(at *field.Path, name string, items []corev1.KeyToPath) {
			if name == "" {
				errs = append(errs, field.Required(at.Child("name"), ""))
			}
			errs = append(errs, validateItems(items, at.Child("items"))...)
			for j := range items {
				claim(items[j].Path, at)
			}
		}
		if s.Secret != nil {
			named(first("secret"), s.Secret.Name, s.Secret.Items)
		}
		if s.ConfigMap != nil {
			named(first("configMap"), s.ConfigMap.Name, s.ConfigMap.Items)
		}
		if s.DownwardAPI != nil {
			p := first("downwardAPI")
			errs = append(errs, validateDownwardItems(s.DownwardAPI.Items, p)...)
			for j := range s.DownwardAPI.Items {
				claim(s.DownwardAPI.Items[j].Path, p)
			}
		}
		if s.ServiceAccountToken != nil {
			p := first("serviceAccountToken")
			errs = append(errs, validateTokenProjection(s.ServiceAccountToken, p)...)
			claim(s.ServiceAccountToken.Path, p)
		}
		if s.ClusterTrustBundle != nil {
			errs = append(errs, field.Forbidden(first("clusterTrustBundle"), "is not supported"))
		}
		if s.PodCertificate != nil {
			errs = append(errs, field.Forbidden(first("podCertificate"), "is not supported"))
		}
		if n == 0 {
			errs = append(errs, field.Required(path, "must specify a volume type"))
		}
	}
	return errs
}

func validateTokenProjection(t *corev1.ServiceAccountTokenProjection, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s := t.ExpirationSeconds; s != nil {
		if *s < 10*60 {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes"))
		}
		if *s > 1<<32 {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	if t.Path == "" {
		return append(errs, field.Required(at.Child("path"), ""))
	}
	return append(errs, localPath(t.Path, at.Child("path"))...)
}
