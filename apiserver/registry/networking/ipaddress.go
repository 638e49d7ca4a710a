package networking

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// IPAddress is the row of ipaddresses.
func IPAddress() registry.Resource {
	return registry.Resource{
		GVK: networkingv1.SchemeGroupVersion.WithKind("IPAddress"), Name: "ipaddresses", Singular: "ipaddress", ShortNames: []string{"ip"},
		Strategy: registry.Strategy{
			Validate: registry.Validate(validateIPAddress),
			ValidateUpdate: registry.ValidateUpdate(func(ip, old *networkingv1.IPAddress) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&ip.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				return append(errs, apivalidation.ValidateImmutableField(ip.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
			}),
		},
		Fields: registry.Select(func(ip *networkingv1.IPAddress) fields.Set {
			ref := ip.Spec.ParentRef
			if ref == nil {
				ref = &networkingv1.ParentReference{}
			}
			return fields.Set{
				"spec.parentRef.group": ref.Group, "spec.parentRef.resource": ref.Resource,
				"spec.parentRef.namespace": ref.Namespace, "spec.parentRef.name": ref.Name,
			}
		}),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("ParentRef", "What the address is claimed for"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(ip *networkingv1.IPAddress) []any {
				return []any{ip.Name, parent(ip.Spec.ParentRef), registry.Age(ip.CreationTimestamp)}
			}),
		},
	}
}

func parent(ref *networkingv1.ParentReference) string {
	if ref == nil {
		return registry.None
	}
	s := ref.Resource
	if ref.Group != "" {
		s += "." + ref.Group
	}
	if ref.Namespace != "" {
		return fmt.Sprintf("%s/%s/%s", s, ref.Namespace, ref.Name)
	}
	return s + "/" + ref.Name
}

// canonicalIP holds for names: one address must have one name.
func canonicalIP(name string, _ bool) []string {
	addr, err := netip.ParseAddr(name)
	if err != nil {
		return []string{err.Error()}
	}
	if addr.String() != name {
		return []string{"must be a canonical format IP address"}
	}
	return nil
}

func validateIPAddress(ip *networkingv1.IPAddress) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&ip.ObjectMeta, false, canonicalIP, field.NewPath("metadata"))
	path := field.NewPath("spec", "parentRef")
	ref := ip.Spec.ParentRef
	if ref == nil {
		return append(errs, field.Required(path, ""))
	}
	for _, msg := range validation.IsDNS1123Subdomain(ref.Group) {
		if ref.Group != "" {
			errs = append(errs, field.Invalid(path.Child("group"), ref.Group, msg))
		}
	}
	segment := func(child, value string, required bool) {
		if value == "" {
			if required {
				errs = append(errs, field.Required(path.Child(child), ""))
			}
			return
		}
		for _, msg := range pathvalidation.IsValidPathSegmentName(value) {
			errs = append(errs, field.Invalid(path.Child(child), value, msg))
		}
	}
	segment("resource", ref.Resource, true)
	segment("name", ref.Name, true)
	segment("namespace", ref.Namespace, false)
	return errs
}

// ServiceCIDR is the row of servicecidrs.
func ServiceCIDR() registry.Resource {
	status := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(c, old *networkingv1.ServiceCIDR) { c.Spec = old.Spec }),
		ValidateUpdate: registry.ValidateUpdate(func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
			return apivalidation.ValidateObjectMetaUpdate(&c.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
		}),
	}
	return registry.Resource{
		GVK: networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"), Name: "servicecidrs", Singular: "servicecidr",
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(c *networkingv1.ServiceCIDR) { c.Status = networkingv1.ServiceCIDRStatus{} }),
			PrepareForUpdate: registry.PrepareUpdate(func(c, old *networkingv1.ServiceCIDR) {
				c.Status, c.Generation = old.Status, old.Generation
				if !apiequality.Semantic.DeepEqual(c.Spec, old.Spec) {
					c.Generation++
				}
			}),
			Validate: registry.Validate(validateServiceCIDR),
			ValidateUpdate: registry.ValidateUpdate(func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&c.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				if !slices.Equal(c.Spec.CIDRs, old.Spec.CIDRs) {
					errs = append(errs, field.Invalid(field.NewPath("spec", "cidrs"), c.Spec.CIDRs, apivalidation.FieldImmutableErrorMsg))
				}
				return errs
			}),
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("CIDRs", "The ranges"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(c *networkingv1.ServiceCIDR) []any {
				return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), registry.Age(c.CreationTimestamp)}
			}),
		},
		Status: &status,
	}
}

func validateServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	path := field.NewPath("spec", "cidrs")
	if len(c.Spec.CIDRs) == 0 {
		return append(errs, field.Required(path, "at least one CIDR required"))
	}
	if len(c.Spec.CIDRs) > 2 {
		return append(errs, field.Invalid(path, c.Spec.CIDRs, "may only hold up to 2 values"))
	}
	var families []bool
	for i, cidr := range c.Spec.CIDRs {
		errs = append(errs, validation.IsValidCIDR(path.Index(i), cidr)...)
		if p, err := netip.ParsePrefix(cidr); err == nil {
			families = append(families, p.Addr().Is4())
		}
	}
	if len(families) == 2 && families[0] == families[1] {
		errs = append(errs, field.Invalid(path, c.Spec.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96"))
	}
	return errs
}
