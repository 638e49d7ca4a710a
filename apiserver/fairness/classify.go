package fairness

import (
	"cmp"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/mini-k8s/mini/apiserver/request"
)

// Schema is a FlowSchema that is ready to be matched.
type Schema struct {
	name   string
	level  *level
	by     flowcontrolv1.FlowDistinguisherMethodType // "" for one flow
	rules  []rule
	counts *counts

	uid, levelUID []string // as values of headers
}

// Headers of every answer to a request that was classified.
const (
	schemaHeader = "X-Kubernetes-Pf-Flowschema-Uid"
	levelHeader  = "X-Kubernetes-Pf-Prioritylevel-Uid"
)

// SetHeaders says which objects decided. Their values must not be changed.
func (s *Schema) SetHeaders(h map[string][]string) {
	h[schemaHeader], h[levelHeader] = s.uid, s.levelUID
}

// Exempt says whether requests of the schema never wait, so that nobody needs to know their seats.
func (s *Schema) Exempt() bool { return s.level.exempt }

// rule matches where one of its subjects asks for one of its resources or paths.
type rule struct {
	subjects  []subject
	resources []resourceRule
	paths     []pathRule
}

type subject struct {
	all   bool
	group string // else
	user  string // else; a service account by its user's name
	users string // else: the prefix of users' names that all service accounts of a namespace have
}

type resourceRule struct {
	verbs, groups, namespaces values
	resources                 []resource // nil is all
	clusterScope              bool
}

type resource struct{ name, sub string }

type pathRule struct {
	verbs values
	all   bool
	exact []string
	below []string // prefixes with a slash at their end
}

// values is a list of which "*", alone, means everything.
type values []string

func (v values) has(s string) bool { return len(v) == 1 && v[0] == "*" || slices.Contains(v, s) }

// compile makes a schema's rules ready. What upstream takes for a match does here, valid or not.
func compile(rules []flowcontrolv1.PolicyRulesWithSubjects) []rule {
	out := make([]rule, len(rules))
	for i := range rules {
		for _, s := range rules[i].Subjects {
			if c, ok := compileSubject(s); ok {
				out[i].subjects = append(out[i].subjects, c)
			}
		}
		for _, r := range rules[i].ResourceRules {
			c := resourceRule{verbs: r.Verbs, groups: r.APIGroups, namespaces: r.Namespaces, clusterScope: r.ClusterScope}
			if len(r.Resources) != 1 || r.Resources[0] != flowcontrolv1.ResourceAll {
				c.resources = make([]resource, len(r.Resources))
				for j, name := range r.Resources {
					c.resources[j].name, c.resources[j].sub, _ = strings.Cut(name, "/")
				}
			}
			out[i].resources = append(out[i].resources, c)
		}
		for _, r := range rules[i].NonResourceRules {
			c := pathRule{verbs: r.Verbs, all: slices.Contains(r.NonResourceURLs, flowcontrolv1.NonResourceAll), exact: r.NonResourceURLs}
			for _, path := range r.NonResourceURLs {
				c.below = append(c.below, strings.TrimSuffix(strings.TrimSuffix(path, "*"), "/")+"/")
			}
			out[i].paths = append(out[i].paths, c)
		}
	}
	return out
}

func compileSubject(s flowcontrolv1.Subject) (subject, bool) {
	switch {
	case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil:
		return subject{all: s.User.Name == flowcontrolv1.NameAll, user: s.User.Name}, true
	case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil:
		return subject{all: s.Group.Name == flowcontrolv1.NameAll, group: s.Group.Name}, true
	case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
		if s.ServiceAccount.Name == flowcontrolv1.NameAll {
			return subject{users: serviceaccount.ServiceAccountUsernamePrefix + s.ServiceAccount.Namespace + ":"}, true
		}
		return subject{user: serviceaccount.MakeUsername(s.ServiceAccount.Namespace, s.ServiceAccount.Name)}, true
	}
	return subject{}, false
}

func (s *subject) is(name string, groups []string) bool {
	switch {
	case s.all:
		return true
	case s.group != "":
		return slices.Contains(groups, s.group)
	case s.users != "":
		return strings.HasPrefix(name, s.users)
	}
	return s.user == name
}

func (r *resourceRule) matches(info *request.Info) bool {
	if !r.verbs.has(info.Verb) || !r.groups.has(info.Group) {
		return false
	}
	if r.resources != nil && !slices.Contains(r.resources, resource{info.Resource, info.Subresource}) {
		return false
	}
	if info.Namespace == "" {
		return r.clusterScope
	}
	return r.namespaces.has(info.Namespace)
}

func (r *pathRule) matches(info *request.Info) bool {
	if !r.verbs.has(info.Verb) {
		return false
	}
	return r.all || slices.Contains(r.exact, info.Path) ||
		slices.ContainsFunc(r.below, func(prefix string) bool { return strings.HasPrefix(info.Path, prefix) })
}

func (r *rule) matches(name string, groups []string, info *request.Info) bool {
	asks := false
	if info.IsResource {
		for i := range r.resources {
			asks = asks || r.resources[i].matches(info)
		}
	} else {
		for i := range r.paths {
			asks = asks || r.paths[i].matches(info)
		}
	}
	if asks {
		for i := range r.subjects {
			if r.subjects[i].is(name, groups) {
				return true
			}
		}
	}
	return false
}

// schemas are those of one moment, in the order in which they are tried.
type schemas struct {
	ordered  []*Schema
	catchAll *Schema // what none matches
}

func (s *schemas) classify(u user.Info, info *request.Info) *Schema {
	name, groups := u.GetName(), u.GetGroups()
	for _, schema := range s.ordered {
		for i := range schema.rules {
			if schema.rules[i].matches(name, groups, info) {
				return schema
			}
		}
	}
	return s.catchAll
}

// flow is what tells a schema's requests apart.
func (s *Schema) flow(u user.Info, info *request.Info) string {
	switch s.by {
	case flowcontrolv1.FlowDistinguisherMethodByUserType:
		return u.GetName()
	case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		return info.Namespace
	}
	return ""
}

// inOrder sorts schemas as they are tried.
func inOrder(a, b *flowcontrolv1.FlowSchema) int {
	return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), strings.Compare(a.Name, b.Name))
}
