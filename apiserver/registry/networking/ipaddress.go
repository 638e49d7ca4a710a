package networking

import (
	"fmt"
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
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
				errs := append(validateIPAddress(ip), registry.ValidateMetaUpdate(ip, old)...)
				return append(errs, registry.Immutable(ip.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
			}),
			UnconditionalUpdate: true,
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

// addressName holds for names: one address must have one name.
func addressName(name string, _ bool) []string {
	var messages []string
	for _, err := range validation.IsValidIP(nil, name) {
		messages = append(messages, err.Detail)
	}
	return messages
}

func validateIPAddress(ip *networkingv1.IPAddress) field.ErrorList {
	errs := registry.ValidateMeta(ip, false, addressName)
	path := field.NewPath("spec", "parentRef")
	ref := ip.Spec.ParentRef
	if ref == nil {
		return append(errs, field.Required(path, ""))
	}
	if ref.Group != "" {
		errs = append(errs, registry.Invalid(path.Child("group"), ref.Group, validation.IsDNS1123Subdomain(ref.Group))...)
	}
	return append(errs, validateSegments(path, segment{"resource", ref.Resource, true}, segment{"name", ref.Name, true}, segment{"namespace", ref.Namespace, false})...)
}

// ServiceCIDR is the row of servicecidrs.
func ServiceCIDR() registry.Resource {
	return registry.Resource{
		GVK: networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"), Name: "servicecidrs", Singular: "servicecidr",
		Strategy: registry.OwnStatus(registry.Strategy{
			Validate: registry.Validate(func(c *networkingv1.ServiceCIDR) field.ErrorList {
				return append(registry.ValidateMeta(c, false, apivalidation.NameIsDNSSubdomain), validateRanges(c.Spec.CIDRs)...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
				return append(registry.ValidateMetaUpdate(c, old), keepsRanges(c.Spec.CIDRs, old.Spec.CIDRs)...)
			}),
			UnconditionalUpdate: true,
		}, func(c *networkingv1.ServiceCIDR) *networkingv1.ServiceCIDRStatus { return &c.Status }),
		Status: registry.KeepMeta(registry.StatusView(func(c *networkingv1.ServiceCIDR) *networkingv1.ServiceCIDRSpec { return &c.Spec },
			func(c, old *networkingv1.ServiceCIDR) field.ErrorList { return registry.ValidateMetaUpdate(c, old) })),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("CIDRs", "The ranges"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(c *networkingv1.ServiceCIDR) []any {
				return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), registry.Age(c.CreationTimestamp)}
			}),
		},
	}
}

func validateRanges(cidrs []string) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	if len(cidrs) == 0 {
		return field.ErrorList{field.Required(path, "at least one CIDR required")}
	}
	if len(cidrs) > 2 {
		return field.ErrorList{field.Invalid(path, &networkingv1.ServiceCIDRSpec{CIDRs: cidrs}, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	var families []bool
	for i, cidr := range cidrs {
		errs = append(errs, validation.IsValidCIDR(path.Index(i), cidr)...)
		if p, err := netip.ParsePrefix(cidr); err == nil {
			families = append(families, p.Addr().Is4())
		}
	}
	if len(families) == 2 && families[0] == families[1] {
		errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
	}
	return errs
}

// keepsRanges lets a range of the other family be added to a single one, and nothing else change.
func keepsRanges(cidrs, old []string) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	added := len(old) == 1 && len(cidrs) == 2
	if len(cidrs) != len(old) && !added {
		return field.ErrorList{field.Invalid(path, cidrs, apivalidation.FieldImmutableErrorMsg)}
	}
	var errs field.ErrorList
	for i, was := range old {
		if cidrs[i] != was {
			errs = append(errs, field.Invalid(path.Index(i), cidrs[i], apivalidation.FieldImmutableErrorMsg))
		}
	}
	if added {
		errs = append(errs, validateRanges(cidrs)...)
	}
	return errs
}
