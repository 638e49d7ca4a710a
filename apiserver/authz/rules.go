package authz

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// allows says whether the rule covers the request.
func allows(rule *rbacv1.PolicyRule, a authorizer.Attributes) bool {
	if !matches(rule.Verbs, a.GetVerb()) {
		return false
	}
	if !a.IsResourceRequest() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool { return matchesURL(pattern, a.GetPath()) })
	}
	return matches(rule.APIGroups, a.GetAPIGroup()) &&
		matchesResource(rule.Resources, a.GetResource(), a.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName()))
}

func matches(patterns []string, value string) bool {
	for _, p := range patterns {
		if p == "*" || p == value {
			return true
		}
	}
	return false
}

// matchesResource knows "*", "pods", "pods/log" and "*/scale".
func matchesResource(patterns []string, resource, sub string) bool {
	for _, p := range patterns {
		if p == "*" {
			return true
		}
		r, s, _ := strings.Cut(p, "/")
		if s == sub && (r == resource || r == "*" && sub != "") {
			return true
		}
	}
	return false
}

// matchesURL knows "*", "/healthz" and "/healthz/*".
func matchesURL(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}
