package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/mini-k8s/mini/apiserver/registry"
)

const (
	nodeRolePrefix = "node-role.kubernetes.io/"
	nodeRoleLabel  = "kubernetes.io/role"
)

// Node is the row of nodes, kept in etcd under their first name, minions.
func Node() registry.Resource {
	status := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(n, old *corev1.Node) { n.Spec = old.Spec }),
		ValidateUpdate:   registry.ValidateUpdate(validateNodeUpdate),
	}
	return registry.Resource{
		GVK: corev1.SchemeGroupVersion.WithKind("Node"), Name: "nodes", Singular: "node", ShortNames: []string{"no"}, Key: "minions",
		Default: registry.Defaulter(defaultNode),
		Strategy: registry.Strategy{
			PrepareForUpdate:    registry.PrepareUpdate(func(n, old *corev1.Node) { n.Status = old.Status }),
			Validate:            registry.Validate(validateNode),
			ValidateUpdate:      registry.ValidateUpdate(validateNodeUpdate),
			UnconditionalUpdate: true,
		},
		Fields: registry.Select(func(n *corev1.Node) fields.Set {
			return fields.Set{"spec.unschedulable": boolString(n.Spec.Unschedulable)}
		}),
		Table:  registry.Table{Columns: nodeColumns(), Cells: registry.Cells(nodeCells)},
		Status: &status,
		Subresources: []registry.Subresource{{
			Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("NodeProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"},
		}},
	}
}

func boolString(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

func defaultNode(n *corev1.Node) {
	defaultResources(n.Status.Capacity)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	defaultResources(n.Status.Allocatable)
	// podCIDR is the first of podCIDRs; a client that knows only one of the two still writes both.
	switch {
	case n.Spec.PodCIDR != "" && (len(n.Spec.PodCIDRs) == 0 || n.Spec.PodCIDRs[0] != n.Spec.PodCIDR):
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	case n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0:
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&n.ObjectMeta, false, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	spec := field.NewPath("spec")
	errs = append(errs, validateTaints(n.Spec.Taints, spec.Child("taints"))...)
	errs = append(errs, validateNodeResources(n)...)
	cidrs := spec.Child("podCIDRs")
	for i, cidr := range n.Spec.PodCIDRs {
		errs = append(errs, validation.IsValidCIDR(cidrs.Index(i), cidr)...)
	}
	if dual, err := netutils.IsDualStackCIDRStrings(n.Spec.PodCIDRs); len(n.Spec.PodCIDRs) > 2 || (len(n.Spec.PodCIDRs) == 2 && err == nil && !dual) {
		errs = append(errs, field.Invalid(cidrs, n.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

func validateNodeResources(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	for name, q := range n.Status.Capacity {
		errs = append(errs, validateQuantity(name, q, field.NewPath("status", "capacity").Key(string(name)))...)
	}
	for name, q := range n.Status.Allocatable {
		errs = append(errs, validateQuantity(name, q, field.NewPath("status", "allocatable").Key(string(name)))...)
	}
	return errs
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&n.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	spec := field.NewPath("spec")
	errs = append(errs, validateNodeResources(n)...)
	if !apiequality.Semantic.DeepEqual(n.Spec.Taints, old.Spec.Taints) {
		errs = append(errs, validateTaints(n.Spec.Taints, spec.Child("taints"))...)
	}
	seen := sets.New[corev1.NodeAddress]()
	for i, address := range n.Status.Addresses {
		if seen.Has(address) {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), address))
		}
		seen.Insert(address)
	}
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(spec.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(spec.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	rest := n.Spec.DeepCopy()
	rest.PodCIDR, rest.PodCIDRs, rest.ProviderID = old.Spec.PodCIDR, old.Spec.PodCIDRs, old.Spec.ProviderID
	rest.Taints, rest.Unschedulable, rest.ConfigSource = old.Spec.Taints, old.Spec.Unschedulable, old.Spec.ConfigSource
	if !apiequality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath(""), "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)"))
	}
	return errs
}

func validateTaints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	type identity struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := sets.New[identity]()
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		for _, msg := range validation.IsValidLabelValue(t.Value) {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, msg))
		}
		errs = append(errs, validateTaintEffect(t.Effect, false, at.Child("effect"))...)
		if id := (identity{t.Key, t.Effect}); seen.Has(id) {
			duplicate := field.Duplicate(at, t)
			duplicate.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, duplicate)
		} else {
			seen.Insert(id)
		}
	}
	return errs
}

func nodeColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		registry.NameColumn(),
		registry.Column("Status", "The status of the node"),
		registry.Column("Roles", "The roles of the node"),
		registry.AgeColumn(),
		registry.Column("Version", "Version of the node's kubelet"),
		registry.Wide(registry.Column("Internal-IP", "The node's address inside the cluster")),
		registry.Wide(registry.Column("External-IP", "The node's address outside the cluster")),
		registry.Wide(registry.Column("OS-Image", "The node's operating system")),
		registry.Wide(registry.Column("Kernel-Version", "The node's kernel")),
		registry.Wide(registry.Column("Container-Runtime", "The node's container runtime and its version")),
	}
}

func nodeCells(n *corev1.Node) []any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	info := n.Status.NodeInfo
	return []any{
		n.Name, status, nodeRoles(n), registry.Age(n.CreationTimestamp), info.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		orUnknown(info.OSImage), orUnknown(info.KernelVersion), orUnknown(info.ContainerRuntimeVersion),
	}
}

func orUnknown(s string) string {
	if s == "" {
		return registry.Unknown
	}
	return s
}

func nodeRoles(n *corev1.Node) string {
	roles := sets.New[string]()
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, nodeRolePrefix); ok && role != "" {
			roles.Insert(role)
		} else if k == nodeRoleLabel && v != "" {
			roles.Insert(v)
		}
	}
	if roles.Len() == 0 {
		return registry.None
	}
	return strings.Join(sets.List(roles), ",")
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return registry.None
}
