package core

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
)

var protocols = sets.New(corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)

// Endpoints is the row of endpoints.
func Endpoints() registry.Resource {
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("Endpoints"), Name: "endpoints", Singular: "endpoints", ShortNames: []string{"ep"}, Namespaced: true,
		Key: "services/endpoints",
		Default: registry.Defaulter(func(e *corev1.Endpoints) {
			for i := range e.Subsets {
				for j := range e.Subsets[i].Ports {
					fill(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
				}
			}
		}),
		Strategy: registry.Strategy{
			Validate: registry.Validate(func(e *corev1.Endpoints) field.ErrorList {
				errs := apivalidation.ValidateObjectMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
				return append(errs, validateSubsets(e.Subsets, nil, field.NewPath("subsets"))...)
			}),
			ValidateUpdate: registry.ValidateUpdate(func(e, old *corev1.Endpoints) field.ErrorList {
				errs := apivalidation.ValidateObjectMetaUpdate(&e.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
				if !apiequality.Semantic.DeepEqual(e.Subsets, old.Subsets) {
					errs = append(errs, validateSubsets(e.Subsets, old.Subsets, field.NewPath("subsets"))...)
				}
				return errs
			}),
			CreateOnUpdate: true, UnconditionalUpdate: true,
		},
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(), registry.Column("Endpoints", "The first addresses and ports"), registry.AgeColumn(),
			},
			Cells: registry.Cells(func(e *corev1.Endpoints) []any {
				return []any{e.Name, endpointsCell(e.Subsets), registry.Age(e.CreationTimestamp)}
			}),
		},
	}
}

// endpointsCell lists the first three addresses with their ports and counts the rest.
func endpointsCell(subsets []corev1.EndpointSubset) string {
	if len(subsets) == 0 {
		return registry.None
	}
	const most = 3
	var shown []string
	n := 0
	add := func(s string) {
		if n++; n <= most {
			shown = append(shown, s)
		}
	}
	for _, s := range subsets {
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				add(a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				add(net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	cell := strings.Join(shown, ",")
	if n > most {
		return fmt.Sprintf("%s + %d more...", cell, n-most)
	}
	return cell
}

func validateSubsets(subsets, old []corev1.EndpointSubset, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	nodes := map[string]string{}
	for _, s := range old {
		for _, a := range slices.Concat(s.Addresses, s.NotReadyAddresses) {
			if a.NodeName != nil {
				nodes[a.IP] = *a.NodeName
			}
		}
	}
	for i, s := range subsets {
		at := path.Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, validateEndpointAddress(&s.Addresses[j], nodes, at.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&s.NotReadyAddresses[j], nodes, at.Child("notReadyAddresses").Index(j))...)
		}
		for j := range s.Ports {
			errs = append(errs, validateEndpointPort(&s.Ports[j], len(s.Ports) > 1, at.Child("ports").Index(j))...)
		}
	}
	return errs
}

func validateEndpointAddress(a *corev1.EndpointAddress, nodes map[string]string, path *field.Path) field.ErrorList {
	errs := validation.IsValidIPForLegacyField(path.Child("ip"), a.IP, false, nil)
	if a.Hostname != "" {
		for _, msg := range validation.IsDNS1123Label(a.Hostname) {
			errs = append(errs, field.Invalid(path.Child("hostname"), a.Hostname, msg))
		}
	}
	if a.NodeName != nil {
		for _, msg := range validation.IsDNS1123Subdomain(*a.NodeName) {
			errs = append(errs, field.Invalid(path.Child("nodeName"), *a.NodeName, msg))
		}
		if was, ok := nodes[a.IP]; ok && was != *a.NodeName {
			errs = append(errs, field.Forbidden(path.Child("nodeName"), "NodeName cannot be changed for an existing address"))
		}
	}
	return append(errs, ValidateEndpointIP(a.IP, path.Child("ip"))...)
}

// ValidateEndpointIP refuses addresses that traffic to a Service must not be sent to: no pod can have them, and a proxy
// that followed them would open the node's own services.
func ValidateEndpointIP(ip string, path *field.Path) field.ErrorList {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil // reported already
	}
	addr = addr.Unmap()
	switch {
	case addr.IsUnspecified():
		return field.ErrorList{field.Invalid(path, ip, fmt.Sprintf("may not be unspecified (%v)", ip))}
	case addr.IsLoopback():
		return field.ErrorList{field.Invalid(path, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)")}
	case addr.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(path, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")}
	case addr.IsLinkLocalMulticast():
		return field.ErrorList{field.Invalid(path, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")}
	}
	return nil
}

func validateEndpointPort(p *corev1.EndpointPort, named bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if named && p.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else if p.Name != "" {
		for _, msg := range validation.IsDNS1123Label(p.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), p.Name, msg))
		}
	}
	for _, msg := range validation.IsValidPortNum(int(p.Port)) {
		errs = append(errs, field.Invalid(path.Child("port"), p.Port, msg))
	}
	if p.Protocol == "" {
		errs = append(errs, field.Required(path.Child("protocol"), ""))
	} else if !protocols.Has(p.Protocol) {
		errs = append(errs, field.NotSupported(path.Child("protocol"), p.Protocol, sets.List(protocols)))
	}
	if p.AppProtocol != nil {
		for _, msg := range validation.IsQualifiedName(*p.AppProtocol) {
			errs = append(errs, field.Invalid(path.Child("appProtocol"), *p.AppProtocol, msg))
		}
	}
	return errs
}
