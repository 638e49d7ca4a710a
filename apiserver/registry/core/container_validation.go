package core

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// containerKind is which of a pod's lists a container stands in; the rules differ a little.
type containerKind int

const (
	regular containerKind = iota
	initial
	debugging // ephemeral
)

// containerScope is what the containers of one pod are checked against.
type containerScope struct {
	spec      *corev1.PodSpec
	volumes   map[string]*corev1.Volume
	names     sets.Set[string]
	hostPorts sets.Set[string]
}

func validateContainers(spec *corev1.PodSpec, volumes map[string]*corev1.Volume, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	scope := &containerScope{spec: spec, volumes: volumes, names: sets.New[string](), hostPorts: sets.New[string]()}
	if len(spec.Containers) == 0 {
		errs = append(errs, field.Required(at.Child("containers"), ""))
	}
	for i := range spec.Containers {
		errs = append(errs, scope.validate(&spec.Containers[i], regular, at.Child("containers").Index(i))...)
	}
	for i := range spec.InitContainers {
		errs = append(errs, scope.validate(&spec.InitContainers[i], initial, at.Child("initContainers").Index(i))...)
	}
	for i := range spec.EphemeralContainers {
		e := &spec.EphemeralContainers[i]
		c := corev1.Container(e.EphemeralContainerCommon)
		path := at.Child("ephemeralContainers").Index(i)
		if e.TargetContainerName != "" && !hasContainer(spec, e.TargetContainerName) {
			errs = append(errs, field.NotFound(path.Child("targetContainerName"), e.TargetContainerName))
		}
		errs = append(errs, scope.validate(&c, debugging, path)...)
		errs = append(errs, validateEphemeral(&c, path)...)
	}
	return errs
}

func hasContainer(spec *corev1.PodSpec, name string) bool {
	for _, list := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return true
			}
		}
	}
	return false
}

// validateEphemeral refuses what a container that comes and goes in a running pod cannot have.
func validateEphemeral(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	refuse := func(child string, present bool) {
		if present {
			errs = append(errs, field.Forbidden(at.Child(child), "cannot be set for an Ephemeral Container"))
		}
	}
	refuse("ports", len(c.Ports) > 0)
	refuse("livenessProbe", c.LivenessProbe != nil)
	refuse("readinessProbe", c.ReadinessProbe != nil)
	refuse("startupProbe", c.StartupProbe != nil)
	refuse("lifecycle", c.Lifecycle != nil)
	refuse("resources", len(c.Resources.Limits)+len(c.Resources.Requests) > 0)
	refuse("restartPolicy", c.RestartPolicy != nil)
	for i, m := range c.VolumeMounts {
		if m.SubPath != "" {
			errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(i).Child("subPath"), "cannot be set for an Ephemeral Container"))
		}
		if m.SubPathExpr != "" {
			errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(i).Child("subPathExpr"), "cannot be set for an Ephemeral Container"))
		}
	}
	return errs
}

func (s *containerScope) validate(c *corev1.Container, kind containerKind, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, invalid(at.Child("name"), c.Name, validation.IsDNS1123Label(c.Name))...)
		if s.names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		s.names.Insert(c.Name)
	}
	if c.Image == "" {
		errs = append(errs, field.Required(at.Child("image"), ""))
	} else if strings.TrimSpace(c.Image) != c.Image {
		errs = append(errs, field.Invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	errs = append(errs, oneOf(at.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, oneOf(at.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, s.validatePorts(c.Ports, kind, at.Child("ports"))...)
	errs = append(errs, validateEnv(c.Env, at.Child("env"))...)
	errs = append(errs, validateEnvFrom(c.EnvFrom, at.Child("envFrom"))...)
	errs = append(errs, s.validateMounts(c, at.Child("volumeMounts"))...)
	errs = append(errs, s.validateDevices(c, at.Child("volumeDevices"))...)
	errs = append(errs, ValidateResources(&c.Resources, at.Child("resources"))...)
	errs = append(errs, validateSecurityContext(c.SecurityContext, hostUsers(s.spec), at.Child("securityContext"))...)
	errs = append(errs, s.validateRestart(c, kind, at)...)
	if kind == regular || (kind == initial && isSidecar(c)) {
		grace := int64(0)
		if s.spec.TerminationGracePeriodSeconds != nil {
			grace = *s.spec.TerminationGracePeriodSeconds
		}
		errs = append(errs, validateLifecycle(c.Lifecycle, grace, at.Child("lifecycle"))...)
		errs = append(errs, validateProbes(c, at)...)
	}
	return errs
}

// validateRestart allows a restart policy of its own only to sidecars, and probes and hooks only to what keeps running.
func (s *containerScope) validateRestart(c *corev1.Container, kind containerKind, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch kind {
	case regular:
		if c.RestartPolicy != nil {
			errs = append(errs, field.Forbidden(at.Child("restartPolicy"), "may not be set for non-init containers"))
		}
	case initial:
		if c.RestartPolicy != nil {
			errs = append(errs, oneOf(at.Child("restartPolicy"), *c.RestartPolicy, corev1.ContainerRestartPolicyAlways)...)
		}
		if isSidecar(c) {
			break
		}
		refuse := func(child string, present bool) {
			if present {
				errs = append(errs, field.Forbidden(at.Child(child), "may not be set for init containers without restartPolicy=Always"))
			}
		}
		refuse("lifecycle", c.Lifecycle != nil)
		refuse("livenessProbe", c.LivenessProbe != nil)
		refuse("readinessProbe", c.ReadinessProbe != nil)
		refuse("startupProbe", c.StartupProbe != nil)
	}
	if len(c.RestartPolicyRules) > 0 {
		errs = append(errs, field.Forbidden(at.Child("restartPolicyRules"), "may not be set"))
	}
	return errs
}

func (s *containerScope) validatePorts(ports []corev1.ContainerPort, kind containerKind, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		path := at.Index(i)
		if p.Name != "" {
			if msgs := validation.IsValidPortName(p.Name); len(msgs) > 0 {
				errs = append(errs, invalid(path.Child("name"), p.Name, msgs)...)
			} else if names.Has(p.Name) {
				errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(path.Child("containerPort"), ""))
		} else {
			errs = append(errs, invalid(path.Child("containerPort"), p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort)))...)
		}
		errs = append(errs, oneOf(path.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		if p.HostIP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(path.Child("hostIP"), p.HostIP, false, nil)...)
		}
		if p.HostPort == 0 {
			continue
		}
		errs = append(errs, invalid(path.Child("hostPort"), p.HostPort, validation.IsValidPortNum(int(p.HostPort)))...)
		if s.spec.HostNetwork && p.HostPort != p.ContainerPort {
			errs = append(errs, field.Invalid(path.Child("hostPort"), p.HostPort, "must match `containerPort` when `hostNetwork` is true"))
		}
		if kind == initial {
			continue // runs before the others, so that it cannot be in their way
		}
		if id := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort); s.hostPorts.Has(id) {
			errs = append(errs, field.Duplicate(path.Child("hostPort"), id))
		} else {
			s.hostPorts.Insert(id)
		}
	}
	return errs
}

func (s *containerScope) validateMounts(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	devices, deviceNames := sets.New[string](), sets.New[string]()
	for _, d := range c.VolumeDevices {
		devices.Insert(d.DevicePath)
		deviceNames.Insert(d.Name)
	}
	for i, m := range c.VolumeMounts {
		path := at.Index(i)
		volume := s.volumes[m.Name]
		switch {
		case m.Name == "":
			errs = append(errs, field.Required(path.Child("name"), ""))
		case volume == nil:
			errs = append(errs, field.NotFound(path.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			errs = append(errs, field.Required(path.Child("mountPath"), ""))
		}
		if seen.Has(m.MountPath) {
			errs = append(errs, field.Invalid(path.Child("mountPath"), m.MountPath, "must be unique"))
		}
		seen.Insert(m.MountPath)
		if deviceNames.Has(m.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), m.Name, "must not already exist in volumeDevices"))
		}
		if devices.Has(m.MountPath) {
			errs = append(errs, field.Invalid(path.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
		}
		if m.SubPath != "" {
			errs = append(errs, relativePath(m.SubPath, path.Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				errs = append(errs, field.Invalid(path.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			errs = append(errs, relativePath(m.SubPathExpr, path.Child("subPathExpr"))...)
		}
		errs = append(errs, validatePropagation(m.MountPropagation, c, path.Child("mountPropagation"))...)
		if r := m.RecursiveReadOnly; r != nil {
			errs = append(errs, oneOf(path.Child("recursiveReadOnly"), *r, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)...)
			if *r != corev1.RecursiveReadOnlyDisabled && !m.ReadOnly {
				errs = append(errs, field.Forbidden(path.Child("recursiveReadOnly"), "may only be specified when readOnly is true"))
			}
			if p := m.MountPropagation; *r != corev1.RecursiveReadOnlyDisabled && p != nil && *p != corev1.MountPropagationNone {
				errs = append(errs, field.Forbidden(path.Child("recursiveReadOnly"), "may only be specified when mountPropagation is None or not specified"))
			}
		}
	}
	return errs
}

func validatePropagation(p *corev1.MountPropagationMode, c *corev1.Container, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := oneOf(at, *p, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
	if *p == corev1.MountPropagationBidirectional && !privileged {
		errs = append(errs, field.Forbidden(at, "Bidirectional mount propagation is available only to privileged containers"))
	}
	return errs
}

func (s *containerScope) validateDevices(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seenPath, seenName := sets.New[string](), sets.New[string]()
	mountPaths, mountNames := sets.New[string](), sets.New[string]()
	for _, m := range c.VolumeMounts {
		mountPaths.Insert(m.MountPath)
		mountNames.Insert(m.Name)
	}
	for i, d := range c.VolumeDevices {
		path := at.Index(i)
		volume := s.volumes[d.Name]
		switch {
		case d.Name == "":
			errs = append(errs, field.Required(path.Child("name"), ""))
		case volume == nil:
			errs = append(errs, field.NotFound(path.Child("name"), d.Name))
		case volume.PersistentVolumeClaim == nil && volume.Ephemeral == nil:
			errs = append(errs, field.Invalid(path.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		case seenName.Has(d.Name):
			errs = append(errs, field.Invalid(path.Child("name"), d.Name, "must be unique"))
		}
		seenName.Insert(d.Name)
		switch {
		case d.DevicePath == "":
			errs = append(errs, field.Required(path.Child("devicePath"), ""))
		case seenPath.Has(d.DevicePath):
			errs = append(errs, field.Invalid(path.Child("devicePath"), d.DevicePath, "must be unique"))
		default:
			if len(noBacksteps(d.DevicePath, path)) > 0 {
				errs = append(errs, field.Invalid(path.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')"))
			}
		}
		if mountNames.Has(d.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), d.Name, "must not already exist in volumeMounts"))
		}
		if mountPaths.Has(d.DevicePath) {
			errs = append(errs, field.Invalid(path.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts"))
		}
		seenPath.Insert(d.DevicePath)
	}
	return errs
}

// relativePath requires a path that stays below where it starts.
func relativePath(p string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(p) {
		errs = append(errs, field.Invalid(at, p, "must be a relative path"))
	}
	return append(errs, noBacksteps(p, at)...)
}

func noBacksteps(p string, at *field.Path) field.ErrorList {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
		}
	}
	return nil
}

func validateEnv(env []corev1.EnvVar, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range env {
		e, path := &env[i], at.Index(i)
		if e.Name == "" {
			errs = append(errs, field.Required(path.Child("name"), ""))
		} else {
			errs = append(errs, invalid(path.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))...)
		}
		errs = append(errs, validateEnvSource(e, path.Child("valueFrom"))...)
	}
	return errs
}

func validateEnvSource(e *corev1.EnvVar, at *field.Path) field.ErrorList {
	from := e.ValueFrom
	if from == nil {
		return nil
	}
	var errs field.ErrorList
	n := 0
	if from.FieldRef != nil {
		n++
		errs = append(errs, validateFieldRef(from.FieldRef, envFields, at.Child("fieldRef"))...)
	}
	if from.ResourceFieldRef != nil {
		n++
		errs = append(errs, validateResourceFieldRef(from.ResourceFieldRef, false, at.Child("resourceFieldRef"))...)
	}
	if r := from.ConfigMapKeyRef; r != nil {
		n++
		errs = append(errs, validateKeyRef(r.Name, r.Key, at.Child("configMapKeyRef"))...)
	}
	if r := from.SecretKeyRef; r != nil {
		n++
		errs = append(errs, validateKeyRef(r.Name, r.Key, at.Child("secretKeyRef"))...)
	}
	if from.FileKeyRef != nil {
		n++
		errs = append(errs, field.Forbidden(at.Child("fileKeyRef"), "is not supported"))
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"))
	case e.Value != "":
		errs = append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func validateKeyRef(name, key string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	if key == "" {
		return append(errs, field.Required(at.Child("key"), ""))
	}
	return append(errs, invalid(at.Child("key"), key, validation.IsConfigMapKey(key))...)
}

var (
	envFields = sets.New("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
	volumeFields = sets.New("metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid")
	knownFields  = sets.New("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
		"spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName", "status.phase",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
	subscript = regexp.MustCompile(`^(metadata\.(?:annotations|labels))\['(.*)'\]$`)
)

func validateFieldRef(r *corev1.ObjectFieldSelector, supported sets.Set[string], at *field.Path) field.ErrorList {
	if r.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	if r.FieldPath == "" {
		return field.ErrorList{field.Required(at.Child("fieldPath"), "")}
	}
	if m := subscript.FindStringSubmatch(r.FieldPath); m != nil {
		name := m[2]
		if m[1] == "metadata.annotations" {
			name = strings.ToLower(name) // annotation keys are case sensitive, their syntax is not
		}
		return invalid(at, m[2], validation.IsQualifiedName(name))
	}
	if !knownFields.Has(r.FieldPath) {
		return field.ErrorList{field.Invalid(at.Child("fieldPath"), r.FieldPath, "error converting fieldPath: field label not supported: "+r.FieldPath)}
	}
	if !supported.Has(r.FieldPath) {
		return field.ErrorList{field.NotSupported(at.Child("fieldPath"), r.FieldPath, sets.List(supported))}
	}
	return nil
}

var containerResourceFields = sets.New("limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage")

func validateResourceFieldRef(r *corev1.ResourceFieldSelector, volume bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if volume && r.ContainerName == "" {
		errs = append(errs, field.Required(at.Child("containerName"), ""))
	}
	if r.Resource == "" {
		return append(errs, field.Required(at.Child("resource"), ""))
	}
	if !containerResourceFields.Has(r.Resource) && !strings.HasPrefix(r.Resource, "limits.hugepages-") && !strings.HasPrefix(r.Resource, "requests.hugepages-") {
		return append(errs, field.NotSupported(at.Child("resource"), r.Resource, sets.List(containerResourceFields)))
	}
	if r.Divisor.IsZero() {
		return errs
	}
	units := sets.New("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
	name := strings.TrimPrefix(strings.TrimPrefix(r.Resource, "limits."), "requests.")
	if name == string(corev1.ResourceCPU) {
		units = sets.New("1m", "1")
	}
	if !units.Has(r.Divisor.String()) {
		errs = append(errs, field.Invalid(at.Child("divisor"), r.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", strings.Join(sets.List(units), ", "), name)))
	}
	return errs
}

func validateEnvFrom(sources []corev1.EnvFromSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range sources {
		path := at.Index(i)
		if s.Prefix != "" {
			errs = append(errs, invalid(path.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		n := 0
		if s.ConfigMapRef != nil {
			n++
			if s.ConfigMapRef.Name == "" {
				errs = append(errs, field.Required(path.Child("configMapRef", "name"), ""))
			}
		}
		if s.SecretRef != nil {
			n++
			if s.SecretRef.Name == "" {
				errs = append(errs, field.Required(path.Child("secretRef", "name"), ""))
			}
		}
		switch {
		case n == 0:
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		case n > 1:
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}
