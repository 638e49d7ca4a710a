package networking

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// classAnnotation named an Ingress's class before spec.ingressClassName did.
const classAnnotation = "kubernetes.io/ingress.class"

// Ingress is the row of ingresses.
func Ingress() registry.Resource {
	spec := func(i *networkingv1.Ingress) *networkingv1.IngressSpec { return &i.Spec }
	status := registry.StatusView(spec, validateIngressStatus)
	status.Warnings = registry.Warn(func(i, _ *networkingv1.Ingress) []string {
		var out []string
		for n, in := range i.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				out = append(out, validation.GetWarningsForIP(field.NewPath("status", "loadBalancer", "ingress").Index(n), in.IP)...)
			}
		}
		return out
	})
	return registry.Resource{
		GVK: networkingv1.SchemeGroupVersion.WithKind("Ingress"), Name: "ingresses", Singular: "ingress", ShortNames: []string{"ing"}, Namespaced: true,
		Key: "ingress",
		Strategy: registry.OwnStatus(registry.Counted(registry.Strategy{
			Validate: registry.Validate(func(i *networkingv1.Ingress) field.ErrorList {
				errs := validateIngress(i, nil)
				if class, ok := i.Annotations[classAnnotation]; ok && i.Spec.IngressClassName != nil && class != *i.Spec.IngressClassName {
					errs = append(errs, field.Invalid(field.NewPath("annotations").Child(classAnnotation), class, "must match `ingressClassName` when both are specified"))
				}
				return errs
			}),
			ValidateUpdate: registry.ValidateUpdate(func(i, old *networkingv1.Ingress) field.ErrorList {
				return append(registry.ValidateMetaUpdate(i, old), validateIngress(i, old)...)
			}),
			Warnings: registry.Warn(func(i, old *networkingv1.Ingress) []string {
				if _, ok := i.Annotations[classAnnotation]; ok && old == nil && i.Spec.IngressClassName == nil {
					return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
				}
				return nil
			}),
			UnconditionalUpdate: true,
		}, func(i *networkingv1.Ingress) any { return i.Spec }), func(i *networkingv1.Ingress) *networkingv1.IngressStatus { return &i.Status }),
		Status: status,
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Class", "The IngressClass that serves it"),
				registry.Column("Hosts", "Hosts that incoming requests are matched against"),
				registry.Column("Address", "Where the load balancer is"),
				registry.Column("Ports", "Ports that are open"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(i *networkingv1.Ingress) []any {
				ports := "80"
				if len(i.Spec.TLS) > 0 {
					ports = "80, 443"
				}
				return []any{
					i.Name, ptr.Deref(i.Spec.IngressClassName, registry.None), hosts(i.Spec.Rules), addresses(i.Status.LoadBalancer.Ingress), ports,
					registry.Age(i.CreationTimestamp),
				}
			}),
		},
	}
}

// hosts shows the first three.
func hosts(rules []networkingv1.IngressRule) string {
	const most = 3
	var names []string
	for _, r := range rules {
		if len(names) == most {
			return fmt.Sprintf("%s + %d more...", strings.Join(names, ","), len(rules)-most)
		}
		if r.Host != "" {
			names = append(names, r.Host)
		}
	}
	if len(names) == 0 {
		return "*"
	}
	return strings.Join(names, ",")
}

func addresses(ingress []networkingv1.IngressLoadBalancerIngress) string {
	all := sets.New[string]()
	for _, in := range ingress {
		if in.IP != "" {
			all.Insert(in.IP)
		} else if in.Hostname != "" {
			all.Insert(in.Hostname)
		}
	}
	return strings.Join(sets.List(all), ",")
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// validateIngress judges an Ingress; what old has wrong already may stay.
func validateIngress(i, old *networkingv1.Ingress) field.ErrorList {
	errs := registry.ValidateMeta(i, true, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec")
	spec := &i.Spec
	if len(spec.Rules) == 0 && spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if spec.DefaultBackend != nil {
		errs = append(errs, validateBackend(spec.DefaultBackend, path.Child("defaultBackend"))...)
	}
	badWildcards := old != nil && slices.ContainsFunc(old.Spec.Rules, func(r networkingv1.IngressRule) bool {
		return strings.Contains(r.Host, "*") && len(validateHTTP(r.HTTP, nil)) > 0
	})
	for n, r := range spec.Rules {
		at := path.Child("rules").Index(n)
		errs = append(errs, validateHost(r.Host, at.Child("host"))...)
		if !strings.Contains(r.Host, "*") || !badWildcards {
			errs = append(errs, validateHTTP(r.HTTP, at.Child("http"))...)
		}
	}
	badSecrets := old != nil && slices.ContainsFunc(old.Spec.TLS, func(t networkingv1.IngressTLS) bool { return len(secretName(t.SecretName)) > 0 })
	for n, t := range spec.TLS {
		at := path.Child("tls").Index(n)
		for m, host := range t.Hosts {
			errs = append(errs, registry.Invalid(at.Child("hosts").Index(m), host, hostName(host))...)
		}
		if !badSecrets {
			errs = append(errs, registry.Invalid(at.Child("secretName"), t.SecretName, secretName(t.SecretName))...)
		}
	}
	if name := spec.IngressClassName; name != nil {
		errs = append(errs, registry.Invalid(path.Child("ingressClassName"), *name, apivalidation.NameIsDNSSubdomain(*name, false))...)
	}
	return errs
}

func secretName(name string) []string {
	if name == "" {
		return nil
	}
	return apivalidation.NameIsDNSSubdomain(name, false)
}

func hostName(host string) []string {
	if strings.Contains(host, "*") {
		return validation.IsWildcardDNS1123Subdomain(host)
	}
	return validation.IsDNS1123Subdomain(host)
}

func validateHost(host string, path *field.Path) field.ErrorList {
	if host == "" {
		return nil
	}
	var errs field.ErrorList
	if isAddress(host) {
		errs = append(errs, field.Invalid(path, host, "must be a DNS name, not an IP address"))
	}
	return append(errs, registry.Invalid(path, host, hostName(host))...)
}

func validateHTTP(http *networkingv1.HTTPIngressRuleValue, path *field.Path) field.ErrorList {
	if http == nil {
		return nil
	}
	var errs field.ErrorList
	if len(http.Paths) == 0 {
		errs = append(errs, field.Required(path.Child("paths"), ""))
	}
	for i := range http.Paths {
		errs = append(errs, validatePath(&http.Paths[i], path.Child("paths").Index(i))...)
	}
	return errs
}

func validatePath(p *networkingv1.HTTPIngressPath, path *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	at := path.Child("path")
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
		for _, s := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, s) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("must not contain '%s'", s)))
			}
		}
		for _, s := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, s) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("cannot end with '%s'", s)))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("pathType"), *p.PathType,
			[]networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	}
	return append(errs, validateBackend(&p.Backend, path.Child("backend"))...)
}

func validateBackend(b *networkingv1.IngressBackend, path *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReference(b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name, path.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
	}
	var errs field.ErrorList
	at, s := path.Child("service"), b.Service
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, registry.Invalid(at.Child("name"), s.Name, apivalidation.NameIsDNSLabel(s.Name, false))...)
	}
	switch {
	case s.Port.Name != "" && s.Port.Number != 0:
		errs = append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case s.Port.Name != "":
		errs = append(errs, registry.Invalid(at.Child("port", "name"), s.Port.Name, validation.IsValidPortName(s.Port.Name))...)
	case s.Port.Number != 0:
		errs = append(errs, registry.Invalid(at.Child("port", "number"), s.Port.Number, validation.IsValidPortNum(int(s.Port.Number)))...)
	default:
		errs = append(errs, field.Required(path, "port name or number is required"))
	}
	return errs
}

// validateReference judges a reference to an object of any kind.
func validateReference(group *string, kind, name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if group != nil {
		errs = append(errs, registry.Invalid(path.Child("apiGroup"), *group, validation.IsDNS1123Subdomain(*group))...)
	}
	return append(errs, validateSegments(path, segment{"kind", kind, true}, segment{"name", name, true})...)
}

// segment is a field whose value becomes a part of a path.
type segment struct {
	field, value string
	required     bool
}

func validateSegments(path *field.Path, segments ...segment) field.ErrorList {
	var errs field.ErrorList
	for _, s := range segments {
		if s.value == "" && s.required {
			errs = append(errs, field.Required(path.Child(s.field), ""))
		} else if s.value != "" {
			errs = append(errs, registry.Invalid(path.Child(s.field), s.value, pathvalidation.IsValidPathSegmentName(s.value))...)
		}
	}
	return errs
}

func validateIngressStatus(i, old *networkingv1.Ingress) field.ErrorList {
	errs := registry.ValidateMetaUpdate(i, old)
	var had []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		had = append(had, in.IP)
	}
	for n, in := range i.Status.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(n)
		if in.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, had)...)
		}
		if in.Hostname != "" {
			errs = append(errs, registry.Invalid(at.Child("hostname"), in.Hostname, validation.IsDNS1123Subdomain(in.Hostname))...)
			if isAddress(in.Hostname) {
				errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

const maxController = 250

// IngressClass is the row of ingressclasses.
func IngressClass() registry.Resource {
	return registry.Resource{
		GVK: networkingv1.SchemeGroupVersion.WithKind("IngressClass"), Name: "ingressclasses", Singular: "ingressclass",
		Default: registry.Defaulter(func(c *networkingv1.IngressClass) {
			if p := c.Spec.Parameters; p != nil && p.Scope == nil {
				p.Scope = ptr.To(networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		}),
		Strategy: registry.Counted(registry.Strategy{
			Validate: registry.Validate(validateClass),
			ValidateUpdate: registry.ValidateUpdate(func(c, old *networkingv1.IngressClass) field.ErrorList {
				errs := registry.ValidateMetaUpdate(c, old)
				errs = append(errs, registry.Immutable(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))...)
				return append(errs, validateClass(c)...)
			}),
			UnconditionalUpdate: true,
		}, func(c *networkingv1.IngressClass) any { return c.Spec }),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Controller", "Who serves Ingresses of this class"),
				registry.Column("Parameters", "What configures the controller"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(c *networkingv1.IngressClass) []any {
				name, parameters := c.Name, registry.None
				if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
					name += " (default)"
				}
				if p := c.Spec.Parameters; p != nil {
					parameters = p.Kind
					if p.APIGroup != nil {
						parameters += "." + *p.APIGroup
					}
					parameters += "/" + p.Name
				}
				return []any{name, c.Spec.Controller, parameters, registry.Age(c.CreationTimestamp)}
			}),
		},
	}
}

func validateClass(c *networkingv1.IngressClass) field.ErrorList {
	errs := registry.ValidateMeta(c, false, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec", "controller")
	if len(c.Spec.Controller) > maxController {
		errs = append(errs, field.TooLong(path, "", maxController))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(path, c.Spec.Controller)...)
	p := c.Spec.Parameters
	if p == nil {
		return errs
	}
	path = field.NewPath("spec", "parameters")
	errs = append(errs, validateReference(p.APIGroup, p.Kind, p.Name, path)...)
	switch scope := ptr.Deref(p.Scope, ""); {
	case p.Scope == nil:
		errs = append(errs, field.Required(path.Child("scope"), ""))
	case scope == networkingv1.IngressClassParametersReferenceScopeNamespace && p.Namespace == nil:
		errs = append(errs, field.Required(path.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case scope == networkingv1.IngressClassParametersReferenceScopeNamespace:
		errs = append(errs, registry.Invalid(path.Child("namespace"), *p.Namespace, apivalidation.ValidateNamespaceName(*p.Namespace, false))...)
	case scope == networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(path.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("scope"), scope,
			[]string{networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace}))
	}
	return errs
}

// protocols are those that ports of policies may have.
var protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
