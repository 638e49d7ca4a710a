package core

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// invalid turns the messages of apimachinery's string checks into errors at path.
func invalid(path *field.Path, value any, msgs []string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range msgs {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}

// oneOf requires value to be one of the supported ones.
func oneOf[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {
	for _, s := range supported {
		if value == s {
			return nil
		}
	}
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

func validatePod(pod *corev1.Pod) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&pod.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	errs = append(errs, validatePodSpec(pod)...)
	spec := field.NewPath("spec")
	if len(pod.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return errs
}

func validatePodSpec(pod *corev1.Pod) field.ErrorList {
	errs := validatePodAnnotations(pod.Annotations, field.NewPath("metadata", "annotations"))
	errs = append(errs, ValidatePodSpec(&pod.Spec, field.NewPath("spec"))...)
	for i, v := range pod.Spec.Volumes { // of a template it may be left open
		if v.Image != nil && v.Image.Reference == "" {
			errs = append(errs, field.Required(field.NewPath("spec", "volumes").Index(i).Child("image", "reference"), ""))
		}
	}
	return errs
}

// newlyInvalid is what is wrong with a pod and was not already before an update. Objects that an upstream server stored may
// hold what is refused here; they must still lose their finalizers and get their labels.
func newlyInvalid(pod, old *corev1.Pod) field.ErrorList {
	errs := validatePodSpec(pod)
	if len(errs) == 0 {
		return nil
	}
	known := sets.New[string]()
	for _, err := range validatePodSpec(old) {
		known.Insert(err.Error())
	}
	return slices.DeleteFunc(errs, func(err *field.Error) bool { return known.Has(err.Error()) })
}

func validatePodAnnotations(annotations map[string]string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if mirror, ok := annotations[corev1.MirrorPodAnnotationKey]; ok && mirror == "" {
		errs = append(errs, field.Required(path.Key(corev1.MirrorPodAnnotationKey), ""))
	}
	return errs
}

// ValidatePodTemplate validates the template of a workload.
func ValidatePodTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabels(t.Labels, path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, validatePodAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, ValidatePodSpec(&t.Spec, path.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// ValidatePodSpec validates what pods and pod templates have in common. Defaults must have been filled in.
func ValidatePodSpec(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	volumes, errs := validateVolumes(spec.Volumes, path.Child("volumes"))
	errs = append(errs, validateContainers(spec, volumes, path)...)
	errs = append(errs, oneOf(path.Child("restartPolicy"), spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, oneOf(path.Child("dnsPolicy"), spec.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	errs = append(errs, validateDNSConfig(spec, path.Child("dnsConfig"))...)
	errs = append(errs, metav1validation.ValidateLabels(spec.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, validatePodSecurityContext(spec, path.Child("securityContext"))...)
	if !hostUsers(spec) {
		errs = append(errs, field.Forbidden(path.Child("hostUsers"), "is not supported"))
	}
	for i, ref := range spec.ImagePullSecrets {
		if ref.Name == "" {
			errs = append(errs, field.Required(path.Child("imagePullSecrets").Index(i).Child("name"), ""))
		}
	}
	errs = append(errs, validateAffinity(spec.Affinity, path.Child("affinity"))...)
	errs = append(errs, ValidateTolerations(spec.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, validateSpread(spec.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))...)
	errs = append(errs, validatePodNames(spec, path)...)
	for i, gate := range spec.ReadinessGates {
		errs = append(errs, invalid(path.Child("readinessGates").Index(i).Child("conditionType"), gate.ConditionType, validation.IsQualifiedName(string(gate.ConditionType)))...)
	}
	gates := sets.New[string]()
	for i, gate := range spec.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		errs = append(errs, invalid(at, gate.Name, validation.IsQualifiedName(gate.Name))...)
		if gates.Has(gate.Name) {
			errs = append(errs, field.Duplicate(at, gate.Name))
		}
		gates.Insert(gate.Name)
	}
	if s := spec.ActiveDeadlineSeconds; s != nil && (*s < 1 || *s > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *s, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	for i, alias := range spec.HostAliases {
		at := path.Child("hostAliases").Index(i)
		errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), alias.IP, false, nil)...)
		for j, name := range alias.Hostnames {
			errs = append(errs, invalid(at.Child("hostnames").Index(j), name, validation.IsDNS1123Subdomain(name))...)
		}
	}
	if p := spec.PreemptionPolicy; p != nil {
		errs = append(errs, oneOf(path.Child("preemptionPolicy"), *p, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if spec.Overhead != nil {
		errs = append(errs, validateResourceList(spec.Overhead, path.Child("overhead"))...)
	}
	if spec.Resources != nil {
		errs = append(errs, validatePodResources(spec.Resources, path.Child("resources"))...)
	}
	if spec.OS != nil {
		errs = append(errs, oneOf(path.Child("os", "name"), spec.OS.Name, corev1.Linux, corev1.Windows)...)
	}
	return errs
}

// validatePodNames checks the fields that name something: a node, an account, the pod itself in DNS.
func validatePodNames(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(child, value string, valid func(string) []string) {
		if value != "" {
			errs = append(errs, invalid(path.Child(child), value, valid(value))...)
		}
	}
	check("serviceAccountName", spec.ServiceAccountName, validation.IsDNS1123Subdomain)
	check("nodeName", spec.NodeName, validation.IsDNS1123Subdomain)
	check("priorityClassName", spec.PriorityClassName, validation.IsDNS1123Subdomain)
	check("hostname", spec.Hostname, validation.IsDNS1123Label)
	check("subdomain", spec.Subdomain, validation.IsDNS1123Label)
	if spec.RuntimeClassName != nil {
		check("runtimeClassName", *spec.RuntimeClassName, validation.IsDNS1123Subdomain)
	}
	if o := spec.HostnameOverride; o != nil {
		errs = append(errs, invalid(path.Child("hostnameOverride"), *o, validation.IsDNS1123Subdomain(*o))...)
		if len(*o) > 64 {
			errs = append(errs, field.TooLong(path.Child("hostnameOverride"), *o, 64))
		}
		if spec.HostNetwork {
			errs = append(errs, field.Forbidden(path.Child("hostnameOverride"), "may not be specified when hostNetwork is true"))
		}
		if spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN {
			errs = append(errs, field.Forbidden(path.Child("hostnameOverride"), "may not be specified when setHostnameAsFQDN is true"))
		}
	}
	return errs
}

// hostUsers says whether the pod's users are those of its node (KEP-127).
func hostUsers(spec *corev1.PodSpec) bool { return spec.HostUsers == nil || *spec.HostUsers }

func validateDNSConfig(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	c := spec.DNSConfig
	if spec.DNSPolicy == corev1.DNSNone {
		if c == nil {
			return field.ErrorList{field.Required(path, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
		}
		if len(c.Nameservers) == 0 {
			errs = append(errs, field.Required(path.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone)))
		}
	}
	if c == nil {
		return errs
	}
	if len(c.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(path.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, ns := range c.Nameservers {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Child("nameservers").Index(i), ns, false, nil)...)
	}
	if len(c.Searches) > maxSearches {
		errs = append(errs, field.Invalid(path.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches)))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(path.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, s := range c.Searches {
		if s == "." {
			continue
		}
		errs = append(errs, invalid(path.Child("searches").Index(i), s, validation.IsDNS1123SubdomainWithUnderscore(strings.TrimSuffix(s, ".")))...)
	}
	for i, o := range c.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func validatePodSecurityContext(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	sc := spec.SecurityContext
	var errs field.ErrorList
	if spec.HostPID && spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if sc == nil {
		return errs
	}
	groupID := func(child string, id *int64) {
		if id != nil {
			errs = append(errs, invalid(path.Child(child), *id, validation.IsValidGroupID(*id))...)
		}
	}
	groupID("fsGroup", sc.FSGroup)
	groupID("runAsGroup", sc.RunAsGroup)
	if sc.RunAsUser != nil {
		errs = append(errs, invalid(path.Child("runAsUser"), *sc.RunAsUser, validation.IsValidUserID(*sc.RunAsUser))...)
	}
	for i, id := range sc.SupplementalGroups {
		errs = append(errs, invalid(path.Child("supplementalGroups").Index(i), id, validation.IsValidGroupID(id))...)
	}
	if sc.FSGroupChangePolicy != nil {
		errs = append(errs, oneOf(path.Child("fsGroupChangePolicy"), *sc.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	}
	if sc.SupplementalGroupsPolicy != nil {
		errs = append(errs, oneOf(path.Child("supplementalGroupsPolicy"), *sc.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	names := sets.New[string]()
	for i, s := range sc.Sysctls {
		at := path.Child("sysctls").Index(i).Child("name")
		switch {
		case s.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(s.Name) > 253 || !sysctlName.MatchString(s.Name):
			errs = append(errs, field.Invalid(at, s.Name, fmt.Sprintf("must have at most 253 characters and match regex %s", sysctlName)))
		case names.Has(s.Name):
			errs = append(errs, field.Duplicate(at, s.Name))
		}
		if spec.HostNetwork && strings.HasPrefix(strings.ReplaceAll(s.Name, "/", "."), "net.") {
			errs = append(errs, field.Invalid(at, s.Name, "may not be specified when 'hostNetwork' is true"))
		}
		names.Insert(s.Name)
	}
	errs = append(errs, validateSeccomp(sc.SeccompProfile, path.Child("seccompProfile"))...)
	return append(errs, validateAppArmor(sc.AppArmorProfile, path.Child("appArmorProfile"))...)
}

func validateSeccomp(p *corev1.SeccompProfile, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := oneOf(path.Child("type"), p.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	local := p.Type == corev1.SeccompProfileTypeLocalhost
	switch {
	case local && p.LocalhostProfile == nil:
		errs = append(errs, field.Required(path.Child("localhostProfile"), "must be set when seccomp type is Localhost"))
	case local:
		errs = append(errs, relativePath(*p.LocalhostProfile, path.Child("localhostProfile"))...)
	case p.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(path.Child("localhostProfile"), p, "can only be set when seccomp type is Localhost"))
	}
	return errs
}

func validateAppArmor(p *corev1.AppArmorProfile, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := oneOf(path.Child("type"), p.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	local := p.Type == corev1.AppArmorProfileTypeLocalhost
	switch {
	case local && (p.LocalhostProfile == nil || strings.TrimSpace(*p.LocalhostProfile) == ""):
		errs = append(errs, field.Required(path.Child("localhostProfile"), "must be set when AppArmor type is Localhost"))
	case !local && p.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(path.Child("localhostProfile"), *p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
	}
	return errs
}

// PodTemplateWarnings are hints about a template that is valid but will hardly do what was meant. old is the template
// before an update, nil on create; what it had already is not said again.
func PodTemplateWarnings(t, old *corev1.PodTemplateSpec, path *field.Path) []string {
	if old != nil && apiequality.Semantic.DeepEqual(t.Spec, old.Spec) {
		return nil
	}
	return podSpecWarnings(&t.Spec, path.Child("spec"))
}

func podSpecWarnings(spec *corev1.PodSpec, path *field.Path) []string {
	var warnings []string
	for key := range spec.NodeSelector {
		if replaced, ok := map[string]string{
			"beta.kubernetes.io/os": corev1.LabelOSStable, "beta.kubernetes.io/arch": corev1.LabelArchStable,
		}[key]; ok {
			warnings = append(warnings, fmt.Sprintf("%s: deprecated since v1.14; use %q instead", path.Child("nodeSelector").Key(key), replaced))
		}
	}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", spec.InitContainers}, {"containers", spec.Containers}} {
		for i := range list.containers {
			c := &list.containers[i]
			at := path.Child(list.name).Index(i)
			for _, kind := range []struct {
				name string
				list corev1.ResourceList
			}{{"limits", c.Resources.Limits}, {"requests", c.Resources.Requests}} {
				for name, q := range kind.list {
					if q.MilliValue()%1000 != 0 && (name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage) {
						warnings = append(warnings, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer", at.Child("resources", kind.name).Key(string(name)), q.String()))
					}
				}
			}
			env := map[string]bool{}
			for j, e := range c.Env {
				if env[e.Name] {
					warnings = append(warnings, fmt.Sprintf("%s: hides previous definition of %q, which may be dropped when using apply", at.Child("env").Index(j), e.Name))
				}
				env[e.Name] = true
			}
		}
	}
	return warnings
}
