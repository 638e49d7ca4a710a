// Package authz decides what an authenticated user may do.
//
// New gives one authorizer.Authorizer that asks, in this order and until one has an opinion:
//
//   - the group system:masters, which may do everything, also before any object was read;
//   - Node: what a kubelet needs for the pods bound to its node, and nothing of other nodes' (KEP-279, and
//     plugin/pkg/auth/authorizer/node upstream);
//   - RBAC: Roles and ClusterRoles through their bindings (plugin/pkg/auth/authorizer/rbac upstream).
//
// Nothing denies: what none of them allows is forbidden. Decisions read informers through indexes (bindings by subject, pods
// by node and what they refer to), so that their cost does not grow with the number of bindings or pods, and no decision
// waits for I/O. They lag writes by as much as the informers do.
//
// EnsurePolicy writes upstream's default roles and bindings, and those that mini's nodes need. RBAC.RulesFor and
// RBAC.CheckEscalation serve rules reviews and the rule that nobody grants what he does not have. Reviews answers the
// authorization.k8s.io kinds.
//
// The one goroutine is Aggregation.Run, which fills ClusterRoles that have an aggregationRule.
package authz
