package discovery

import (
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
)

const (
	maxAddresses  = 100
	maxPorts      = 20000
	maxEndpoints  = 1000
	maxTopology   = 16
	maxZoneHints  = 8
	maxNodeHints  = 8
	shownInTables = 3
)

// EndpointSlice is the row of endpointslices.
func EndpointSlice() registry.Resource {
	return registry.Resource{
		GVK: discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), Name: "endpointslices", Singular: "endpointslice", Namespaced: true,
		Default: registry.Defaulter(func(s *discoveryv1.EndpointSlice) {
			for i := range s.Ports {
				p := &s.Ports[i]
				if p.Name == nil {
					p.Name = new(string)
				}
				if p.Protocol == nil {
					tcp := corev1.ProtocolTCP
					p.Protocol = &tcp
				}
			}
		}),
		Strategy: registry.Strategy{
			PrepareForCreate: registry.Prepare(func(s *discoveryv1.EndpointSlice) { s.Generation = 1 }),
			PrepareForUpdate: registry.PrepareUpdate(func(s, old *discoveryv1.EndpointSlice) {
				s.Generation = old.Generation
				if s.AddressType != old.AddressType || !apiequality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) ||
					!apiequality.Semantic.DeepEqual(s.Ports, old.Ports) || !maps.Equal(s.Labels, old.Labels) {
					s.Generation++
				}
			}),
			Validate: registry.Validate(validateSlice),
			ValidateUpdate: registry.ValidateUpdate(func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&s.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				errs = append(errs, apivalidation.ValidateImmutableField(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
				return append(errs, validateSlice(s)...)
			}),
			UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("AddressType", "The kind of the slice's addresses"),
				registry.Column("Ports", "The first ports"),
				registry.Column("Endpoints", "The first addresses"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(s *discoveryv1.EndpointSlice) []any {
				return []any{s.Name, string(s.AddressType), portsCell(s.Ports), endpointsCell(s.Endpoints), registry.Age(s.CreationTimestamp)}
			}),
		},
	}
}

func portsCell(ports []discoveryv1.EndpointPort) string {
	var all []string
	for _, p := range ports {
		port := "*"
		if p.Port != nil {
			port = strconv.Itoa(int(*p.Port))
		}
		all = append(all, port)
	}
	return firstFew(all)
}

func endpointsCell(endpoints []discoveryv1.Endpoint) string {
	var all []string
	for _, e := range endpoints {
		all = append(all, e.Addresses...)
	}
	return firstFew(all)
}

func firstFew(all []string) string {
	switch n := len(all); {
	case n == 0:
		return "<unset>"
	case n > shownInTables:
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:shownInTables], ","), n-shownInTables)
	}
	return strings.Join(all, ",")
}

func validateSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	supported := sets.New(discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	if s.AddressType == "" {
		errs = append(errs, field.Required(field.NewPath("addressType"), ""))
	} else if !supported.Has(s.AddressType) {
		errs = append(errs, field.NotSupported(field.NewPath("addressType"), s.AddressType, sets.List(supported)))
	}
	path := field.NewPath("endpoints")
	if len(s.Endpoints) > maxEndpoints {
		return append(errs, field.TooMany(path, len(s.Endpoints), maxEndpoints))
	}
	for i := range s.Endpoints {
		errs = append(errs, validateEndpoint(&s.Endpoints[i], s.AddressType, path.Index(i))...)
	}
	return append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
}

func validateEndpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	addresses := path.Child("addresses")
	switch n := len(e.Addresses); {
	case n == 0:
		errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
	case n > maxAddresses:
		errs = append(errs, field.TooMany(addresses, n, maxAddresses))
	}
	for i, a := range e.Addresses {
		at := addresses.Index(i)
		switch kind {
		case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
			errs = append(errs, validation.IsValidIPForLegacyField(at, a, false, nil)...)
			if addr, err := netip.ParseAddr(a); err == nil && addr.Is4() != (kind == discoveryv1.AddressTypeIPv4) {
				errs = append(errs, field.Invalid(at, a, "must be an "+string(kind)+" address"))
			}
			errs = append(errs, core.ValidateEndpointIP(a, at)...)
		case discoveryv1.AddressTypeFQDN:
			errs = append(errs, validation.IsFullyQualifiedDomainName(at, a)...)
		}
	}
	if e.NodeName != nil {
		for _, msg := range validation.IsDNS1123Subdomain(*e.NodeName) {
			errs = append(errs, field.Invalid(path.Child("nodeName"), *e.NodeName, msg))
		}
	}
	if len(e.DeprecatedTopology) > maxTopology {
		errs = append(errs, field.TooMany(path.Child("deprecatedTopology"), len(e.DeprecatedTopology), maxTopology))
	}
	errs = append(errs, metav1validation.ValidateLabels(e.DeprecatedTopology, path.Child("deprecatedTopology"))...)
	if e.Hostname != nil {
		for _, msg := range validation.IsDNS1123Label(*e.Hostname) {
			errs = append(errs, field.Invalid(path.Child("hostname"), *e.Hostname, msg))
		}
	}
	if h := e.Hints; h != nil {
		errs = append(errs, validateZoneHints(h.ForZones, path.Child("hints", "forZones"))...)
		errs = append(errs, validateNodeHints(h.ForNodes, path.Child("hints", "forNodes"))...)
	}
	return errs
}

func validateZoneHints(zones []discoveryv1.ForZone, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(zones) > maxZoneHints {
		return append(errs, field.TooMany(path, len(zones), maxZoneHints))
	}
	seen := sets.New[string]()
	for i, z := range zones {
		at := path.Index(i).Child("name")
		if seen.Has(z.Name) {
			errs = append(errs, field.Duplicate(at, z.Name))
		}
		seen.Insert(z.Name)
		for _, msg := range validation.IsValidLabelValue(z.Name) {
			errs = append(errs, field.Invalid(at, z.Name, msg))
		}
	}
	return errs
}

func validateNodeHints(nodes []discoveryv1.ForNode, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(nodes) > maxNodeHints {
		return append(errs, field.TooMany(path, len(nodes), maxNodeHints))
	}
	seen := sets.New[string]()
	for i, n := range nodes {
		at := path.Index(i).Child("name")
		if seen.Has(n.Name) {
			errs = append(errs, field.Duplicate(at, n.Name))
		}
		seen.Insert(n.Name)
		for _, msg := range validation.IsDNS1123Subdomain(n.Name) {
			errs = append(errs, field.Invalid(at, n.Name, msg))
		}
	}
	return errs
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(ports) > maxPorts {
		return append(errs, field.TooMany(path, len(ports), maxPorts))
	}
	seen := sets.New[string]()
	protocols := sets.New(corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != nil {
			if *p.Name != "" {
				for _, msg := range validation.IsDNS1123Label(*p.Name) {
					errs = append(errs, field.Invalid(at.Child("name"), *p.Name, msg))
				}
			}
			if seen.Has(*p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), *p.Name))
			}
			seen.Insert(*p.Name)
		}
		if p.Port != nil {
			for _, msg := range validation.IsValidPortNum(int(*p.Port)) {
				errs = append(errs, field.Invalid(at.Child("port"), *p.Port, msg))
			}
		}
		switch {
		case p.Protocol == nil:
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		case !protocols.Has(*p.Protocol):
			errs = append(errs, field.NotSupported(at.Child("protocol"), *p.Protocol, sets.List(protocols)))
		}
		if p.AppProtocol != nil {
			for _, msg := range validation.IsQualifiedName(*p.AppProtocol) {
				errs = append(errs, field.Invalid(at.Child("appProtocol"), *p.AppProtocol, msg))
			}
		}
	}
	return errs
}
