package authz

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/mini-k8s/mini/internal/bootstrap"
	"github.com/mini-k8s/mini/internal/pki"
)

// Verb lists of the tables below.
const (
	reads  = "get list watch"
	writes = "create delete deletecollection patch update"
	all    = reads + " " + writes
)

// Policy is a set of roles and bindings.
type Policy struct {
	ClusterRoles        []*rbacv1.ClusterRole
	ClusterRoleBindings []*rbacv1.ClusterRoleBinding
	Roles               []*rbacv1.Role
	RoleBindings        []*rbacv1.RoleBinding
}

// DefaultPolicy is what every cluster starts with: upstream's roles and bindings by their names and rules
// (plugin/pkg/auth/authorizer/rbac/bootstrappolicy), without those of controllers that run inside the server here, and
// mini's own ("mini:…"), which let nodes join, renew their certificates and run proxy and DNS.
func DefaultPolicy() Policy {
	p := Policy{}
	p.userFacing()
	p.components()
	p.certificates()
	p.bind("cluster-admin", "cluster-admin", group(user.SystemPrivilegedGroup))
	p.bind("system:monitoring", "system:monitoring", group(user.MonitoringGroup))
	p.bind("system:discovery", "system:discovery", group(user.AllAuthenticated))
	p.bind("system:basic-user", "system:basic-user", group(user.AllAuthenticated))
	p.bind("system:public-info-viewer", "system:public-info-viewer", group(user.AllAuthenticated), group(user.AllUnauthenticated))
	p.bind("system:node-proxier", "system:node-proxier", subject(user.KubeProxy))
	p.bind("system:kube-controller-manager", "system:kube-controller-manager", subject(user.KubeControllerManager))
	p.bind("system:kube-dns", "system:kube-dns", rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "kube-system", Name: "kube-dns"})
	p.bind("system:kube-scheduler", "system:kube-scheduler", subject(user.KubeScheduler))
	p.bind("system:volume-scheduler", "system:volume-scheduler", subject(user.KubeScheduler))
	p.bind("system:service-account-issuer-discovery", "system:service-account-issuer-discovery", group("system:serviceaccounts"))
	p.bind("system:node", "system:node") // nobody: the node authorizer replaces it

	p.bind("mini:node-bootstrap", "system:node-bootstrapper", group(bootstrap.Group))
	p.bind("mini:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", group(bootstrap.Group))
	p.bind("mini:node-autoapprove-renewal", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", group(user.NodesGroup))
	p.bind("mini:node-proxier", "system:node-proxier", group(user.NodesGroup))
	p.bind("mini:node-dns", "mini:node-dns", group(user.NodesGroup))
	p.bind("mini:kubelet-api-admin", "system:kubelet-api-admin", subject(pki.KubeletClientUser))
	p.namespaced()
	p.fillAggregates("view", "edit", "admin")
	return p
}

// fillAggregates writes the rules that Aggregation would, so that the roles are whole from their first revision. A role
// comes after those that it is made of.
func (p *Policy) fillAggregates(names ...string) {
	for _, name := range names {
		for _, role := range p.ClusterRoles {
			if role.Name == name {
				role.Rules, _ = aggregateRules(role, p.ClusterRoles) // the selectors are our own
			}
		}
	}
}

func (p *Policy) userFacing() {
	p.role("cluster-admin", rule("*", "*", "*"), urls("*", "*"))
	p.role("system:discovery", urls("get", "/healthz /livez /readyz /version /version/ /openapi /openapi/* /api /api/* /apis /apis/*"))
	p.role("system:public-info-viewer", urls("get", "/healthz /livez /readyz /version /version/"))
	p.role("system:monitoring", urls("get", "/metrics /metrics/slis /livez /readyz /healthz /livez/* /readyz/* /healthz/*"))
	p.role("system:service-account-issuer-discovery", urls("get", "/.well-known/openid-configuration /openid/v1/jwks"))
	p.role("system:basic-user",
		rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
		rule("create", "authentication.k8s.io", "selfsubjectreviews"))

	p.aggregate("admin", "", "admin")
	p.aggregate("edit", "admin", "edit")
	p.aggregate("view", "edit", "view")
	p.role("system:aggregate-to-admin",
		rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
		rule(all, "rbac.authorization.k8s.io", "roles rolebindings"),
	).Labels[aggregateLabel+"admin"] = "true"
	p.role("system:aggregate-to-edit",
		rule(reads, "", "pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy"),
		rule("impersonate", "", "serviceaccounts"),
		rule(writes, "", "pods pods/attach pods/proxy pods/exec pods/portforward"),
		rule("create", "", "pods/eviction"),
		rule("patch update", "", "pods/resize"),
		rule(writes, "", "replicationcontrollers replicationcontrollers/scale serviceaccounts services services/proxy persistentvolumeclaims configmaps secrets events"),
		rule("create", "", "serviceaccounts/token"),
		rule(writes, "apps", "statefulsets statefulsets/scale daemonsets deployments deployments/scale deployments/rollback replicasets replicasets/scale"),
		rule(writes, "autoscaling", "horizontalpodautoscalers"),
		rule(writes, "batch", "jobs cronjobs"),
		rule(writes, "extensions", "daemonsets deployments deployments/scale deployments/rollback ingresses replicasets replicasets/scale replicationcontrollers/scale networkpolicies"),
		rule(writes, "policy", "poddisruptionbudgets"),
		rule(writes, "networking.k8s.io", "networkpolicies ingresses"),
		rule(all, "coordination.k8s.io", "leases"),
		rule(writes, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
	).Labels[aggregateLabel+"edit"] = "true"
	p.role("system:aggregate-to-view",
		rule(reads, "", "pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status endpoints persistentvolumeclaims persistentvolumeclaims/status configmaps"),
		rule(reads, "", "limitranges resourcequotas bindings events pods/status resourcequotas/status namespaces/status replicationcontrollers/status pods/log"),
		rule(reads, "", "namespaces"),
		rule(reads, "discovery.k8s.io", "endpointslices"),
		rule(reads, "apps", "controllerrevisions statefulsets statefulsets/status statefulsets/scale daemonsets daemonsets/status deployments deployments/status deployments/scale replicasets replicasets/status replicasets/scale"),
		rule(reads, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
		rule(reads, "batch", "jobs cronjobs cronjobs/status jobs/status"),
		rule(reads, "extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status replicasets replicasets/scale replicasets/status replicationcontrollers/scale networkpolicies"),
		rule(reads, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
		rule(reads, "networking.k8s.io", "networkpolicies ingresses ingresses/status"),
		rule(reads, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
	).Labels[aggregateLabel+"view"] = "true"
}

func (p *Policy) components() {
	events := rule("create patch update", " events.k8s.io", "events")
	p.role("system:heapster",
		rule(reads, "", "events pods nodes namespaces"), rule(reads, "extensions", "deployments"))
	p.role("system:auth-delegator",
		rule("create", "authentication.k8s.io", "tokenreviews"), rule("create", "authorization.k8s.io", "subjectaccessreviews"))
	p.role("system:kube-aggregator", rule(reads, "", "services endpoints"))
	p.role("system:kubelet-api-admin",
		rule(reads, "", "nodes"), rule("proxy", "", "nodes"),
		rule("*", "", "nodes/proxy nodes/metrics nodes/stats nodes/log nodes/configz nodes/healthz nodes/pods"))
	p.role("system:node", nodeRules()...)
	p.role("system:node-problem-detector", rule("get", "", "nodes"), rule("patch", "", "nodes/status"), events)
	p.role("system:node-proxier",
		rule("list watch", "", "services endpoints"), rule(reads, "", "nodes"), events,
		rule("list watch", "discovery.k8s.io", "endpointslices"), rule("list watch", "networking.k8s.io", "servicecidrs"))
	p.role("mini:node-dns", rule(reads, "", "namespaces"))
	p.role("system:node-bootstrapper", rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests"))
	p.role("system:kube-dns", rule("list watch", "", "endpoints services"))
	p.role("system:persistent-volume-provisioner",
		rule("create delete get list watch", "", "persistentvolumes"), rule("get list update watch", "", "persistentvolumeclaims"),
		rule(reads, "storage.k8s.io", "storageclasses"), rule("watch", "", "events"), events)
	p.role("system:volume-scheduler",
		rule("get list patch update watch", "", "persistentvolumes"), rule(reads, "storage.k8s.io", "storageclasses"),
		rule("get list patch update watch", "", "persistentvolumeclaims"))
	p.role("system:kube-controller-manager",
		events,
		rule("create", "coordination.k8s.io", "leases"), named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
		rule("create", "", "secrets serviceaccounts"), rule("delete", "", "secrets"),
		rule("get", "", "namespaces secrets serviceaccounts configmaps"), rule("update", "", "secrets serviceaccounts"),
		rule("create", "authentication.k8s.io", "tokenreviews"), rule("create", "authorization.k8s.io", "subjectaccessreviews"),
		rule("list watch", "*", "*"), rule("create", "", "serviceaccounts/token"))
	p.role("system:kube-scheduler",
		events,
		rule("create", "coordination.k8s.io", "leases"), rule("get update list watch", "coordination.k8s.io", "leases"),
		rule(reads, "", "nodes"), rule("delete get list watch", "", "pods"),
		rule("create", "", "pods/binding bindings"), rule("patch update", "", "pods/status"),
		rule(reads, "", "services replicationcontrollers"), rule(reads, "apps extensions", "replicasets"),
		rule(reads, "apps", "statefulsets"), rule(reads, "policy", "poddisruptionbudgets"),
		rule(reads, "", "persistentvolumeclaims persistentvolumes"),
		rule("create", "authentication.k8s.io", "tokenreviews"), rule("create", "authorization.k8s.io", "subjectaccessreviews"),
		rule(reads, "storage.k8s.io", "csinodes csidrivers csistoragecapacities volumeattachments storageclasses"),
		rule(reads, "", "namespaces"),
		rule(reads, "resource.k8s.io", "deviceclasses resourceslices resourceclaims"),
		rule("update patch", "resource.k8s.io", "resourceclaims/status resourceclaims"))
}

func (p *Policy) certificates() {
	for _, name := range []string{"nodeclient", "selfnodeclient"} {
		p.role("system:certificates.k8s.io:certificatesigningrequests:"+name,
			rule("create", "certificates.k8s.io", "certificatesigningrequests/"+name))
	}
	for name, signer := range map[string]string{
		"legacy-unknown-approver":                "kubernetes.io/legacy-unknown",
		"kubelet-serving-approver":               "kubernetes.io/kubelet-serving",
		"kube-apiserver-client-approver":         "kubernetes.io/kube-apiserver-client",
		"kube-apiserver-client-kubelet-approver": "kubernetes.io/kube-apiserver-client-kubelet",
	} {
		p.role("system:certificates.k8s.io:"+name, named("approve", "certificates.k8s.io", "signers", signer))
	}
}

// namespaced are the Roles of kube-system and kube-public. The namespaces must exist.
func (p *Policy) namespaced() {
	p.roleIn("kube-system", "extension-apiserver-authentication-reader",
		named(reads, "", "configmaps", "extension-apiserver-authentication"))
	p.roleIn("kube-system", "system::leader-locking-kube-controller-manager",
		rule("watch", "", "configmaps"), named("get update", "", "configmaps", "kube-controller-manager"))
	p.roleIn("kube-system", "system::leader-locking-kube-scheduler",
		rule("watch", "", "configmaps"), named("get update", "", "configmaps", "kube-scheduler"))
	p.bindIn("kube-system", "system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader",
		subject(user.KubeControllerManager), subject(user.KubeScheduler))
	p.bindIn("kube-system", "system::leader-locking-kube-controller-manager", "system::leader-locking-kube-controller-manager", subject(user.KubeControllerManager))
	p.bindIn("kube-system", "system::leader-locking-kube-scheduler", "system::leader-locking-kube-scheduler", subject(user.KubeScheduler))
	p.roleIn("kube-system", "mini:node-settings", named(reads, "", "configmaps", "mini-settings"))
	p.bindIn("kube-system", "mini:node-settings", "mini:node-settings", group(user.NodesGroup))
	p.roleIn("kube-public", "mini:cluster-info", named("get", "", "configmaps", "cluster-info"))
	p.bindIn("kube-public", "mini:cluster-info", "mini:cluster-info", subject(user.Anonymous), group(bootstrap.Group))
}

// nodeRules is what every kubelet may do, before the node authorizer narrows it to its own objects.
func nodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("create", "authentication.k8s.io", "tokenreviews"),
		rule("create", "authorization.k8s.io", "subjectaccessreviews localsubjectaccessreviews"),
		rule(reads, "", "services"),
		rule("create get list watch", "", "nodes"),
		rule("patch update", "", "nodes/status"),
		rule("patch update", "", "nodes"),
		rule("create patch update", " events.k8s.io", "events"),
		rule(reads, "", "pods"),
		rule("create delete", "", "pods"),
		rule("patch update", "", "pods/status"),
		rule("create", "", "pods/eviction"),
		rule(reads, "", "secrets configmaps"),
		rule("get", "", "persistentvolumeclaims persistentvolumes"),
		rule("get", "", "endpoints"),
		rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
		rule("get create update patch delete", "coordination.k8s.io", "leases"),
		rule("get", "storage.k8s.io", "volumeattachments"),
		rule("create", "", "serviceaccounts/token"),
		rule("get update patch", "", "persistentvolumeclaims/status"),
		rule(reads, "storage.k8s.io", "csidrivers"),
		rule("get create update patch delete", "storage.k8s.io", "csinodes"),
		rule(reads, "node.k8s.io", "runtimeclasses"),
		rule("get", "resource.k8s.io", "resourceclaims"),
		rule("get list watch create update patch delete deletecollection", "resource.k8s.io", "resourceslices"),
	}
}

const aggregateLabel = "rbac.authorization.k8s.io/aggregate-to-"

// defaultMeta marks an object as part of the default policy, kept up to date at every start.
func defaultMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:   namespace,
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func (p *Policy) role(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: defaultMeta("", name), Rules: rules}
	p.ClusterRoles = append(p.ClusterRoles, r)
	return r
}

// aggregate adds a role made of those labelled for it; it is itself part of the role into, if that is not empty.
func (p *Policy) aggregate(name, into, label string) {
	r := p.role(name)
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{
		MatchLabels: map[string]string{aggregateLabel + label: "true"},
	}}}
	if into != "" {
		r.Labels[aggregateLabel+into] = "true"
	}
}

func (p *Policy) bind(name, role string, subjects ...rbacv1.Subject) {
	p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{
		ObjectMeta: defaultMeta("", name),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   subjects,
	})
}

func (p *Policy) roleIn(namespace, name string, rules ...rbacv1.PolicyRule) {
	p.Roles = append(p.Roles, &rbacv1.Role{ObjectMeta: defaultMeta(namespace, name), Rules: rules})
}

func (p *Policy) bindIn(namespace, name, role string, subjects ...rbacv1.Subject) {
	p.RoleBindings = append(p.RoleBindings, &rbacv1.RoleBinding{
		ObjectMeta: defaultMeta(namespace, name),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		Subjects:   subjects,
	})
}

// rule reads lists separated by spaces; the core group is the empty string, also as the first of several (" apps").
func rule(verbs, groups, resources string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: strings.Split(groups, " "), Resources: strings.Fields(resources)}
}

func named(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	r := rule(verbs, groups, resources)
	r.ResourceNames = names
	return r
}

func urls(verbs, paths string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), NonResourceURLs: strings.Fields(paths)}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func subject(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}
