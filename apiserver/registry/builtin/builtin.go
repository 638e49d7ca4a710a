package builtin

import (
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/coordination"
	"github.com/mini-k8s/mini/apiserver/registry/core"
	"github.com/mini-k8s/mini/apiserver/registry/events"
	"github.com/mini-k8s/mini/apiserver/registry/networking"
)

// Resources returns the rows of all built-in kinds, in the order in which discovery shows groups and kinds, and the
// allocators of cluster addresses and node ports, whose Run repairs what a crash left claimed.
func Resources(deps registry.Deps) ([]registry.Resource, *core.Allocators) {
	allocators := core.NewAllocators(deps)
	return []registry.Resource{
		core.Binding(deps),
		core.ConfigMap(),
		events.Core(),
		core.Namespace(),
		core.Node(),
		core.Pod(deps),
		core.Secret(),
		core.ServiceAccount(deps),
		core.Service(deps, allocators),

		coordination.Lease(),
		events.Events(),
		networking.IPAddress(),
		networking.ServiceCIDR(),
	}, allocators
}
