package apiserver

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func claimsAnother(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, "Impersonate-") {
			return true
		}
	}
	return false
}

// impersonated reads who the request wants to be, and what must be allowed for it.
func impersonated(h http.Header) (user.Info, []authorizer.AttributesRecord, error) {
	name := h.Get(authenticationv1.ImpersonateUserHeader)
	if name == "" {
		return nil, nil, apierrors.NewBadRequest("requested impersonation of groups, uid or extra without impersonating a user")
	}
	as := &user.DefaultInfo{Name: name, UID: h.Get(authenticationv1.ImpersonateUIDHeader)}
	var checks []authorizer.AttributesRecord
	given := h[authenticationv1.ImpersonateGroupHeader]
	if namespace, account, ok := serviceAccount(name); ok {
		checks = append(checks, authorizer.AttributesRecord{APIVersion: "v1", Resource: "serviceaccounts", Namespace: namespace, Name: account})
		if len(given) == 0 {
			as.Groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}
		}
	} else {
		checks = append(checks, authorizer.AttributesRecord{APIVersion: "v1", Resource: "users", Name: name})
	}
	for _, group := range given {
		checks = append(checks, authorizer.AttributesRecord{APIVersion: "v1", Resource: "groups", Name: group})
		as.Groups = append(as.Groups, group)
	}
	if as.UID != "" {
		checks = append(checks, authorizer.AttributesRecord{APIGroup: "authentication.k8s.io", APIVersion: "v1", Resource: "uids", Name: as.UID})
	}
	for header, values := range h {
		key, ok := strings.CutPrefix(header, authenticationv1.ImpersonateUserExtraHeaderPrefix)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		if as.Extra == nil {
			as.Extra = map[string][]string{}
		}
		for _, value := range values {
			checks = append(checks, authorizer.AttributesRecord{
				APIGroup: "authentication.k8s.io", APIVersion: "v1", Resource: "userextras", Subresource: key, Name: value,
			})
			as.Extra[key] = append(as.Extra[key], value)
		}
	}
	everybody := user.AllAuthenticated
	if name == user.Anonymous {
		everybody = user.AllUnauthenticated
	}
	if !slices.Contains(as.Groups, user.AllAuthenticated) && !slices.Contains(as.Groups, user.AllUnauthenticated) {
		as.Groups = append(as.Groups, everybody)
	}
	return as, checks, nil
}

func serviceAccount(name string) (namespace, account string, ok bool) {
	rest, ok := strings.CutPrefix(name, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, account, ok = strings.Cut(rest, ":")
	return namespace, account, ok && namespace != "" && account != "" && !strings.Contains(account, ":")
}
