package admissionregistration

import (
	"context"
	"errors"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// A policy shows its parameters in its messages, so whoever writes one, or binds one to parameters, must be able to read
// them (KEP-3488). What cannot be found out asks for the right to read everything.

// mayReadKind wants the author of a policy to be able to get all objects of the kind; one that was there already may stay.
func mayReadKind(ctx context.Context, deps registry.Deps, kind, old *admissionv1.ParamKind) *field.Error {
	if deps.Authorizer == nil || kind == nil || old != nil && *kind == *old {
		return nil
	}
	path := field.NewPath("spec", "paramKind")
	attributes := authorizer.AttributesRecord{Verb: "get", ResourceRequest: true, Name: "*", Namespace: "*", APIGroup: "*", APIVersion: "*", Resource: "*"}
	if gv, err := schema.ParseGroupVersion(kind.APIVersion); err == nil {
		attributes.APIGroup, attributes.APIVersion = gv.Group, gv.Version
		if resource, ok := resourceOf(deps, gv.WithKind(kind.Kind)); ok {
			attributes.Resource = resource
		}
	}
	allowed, u, err := ask(ctx, deps, attributes)
	switch {
	case err != nil:
		return field.Forbidden(path, err.Error())
	case !allowed:
		return field.Forbidden(path, fmt.Sprintf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`,
			u, kind.Kind, kind.APIVersion))
	}
	return nil
}

// mayReadParams wants the author of a binding to be able to read the parameters that it names.
func mayReadParams(ctx context.Context, deps registry.Deps, policies string, b bound, old *bound) *field.Error {
	if deps.Authorizer == nil || b.params == nil || old != nil && old.policy == b.policy && apiequality.Semantic.DeepEqual(old.params, b.params) {
		return nil
	}
	path := field.NewPath("spec", "paramRef")
	attributes := authorizer.AttributesRecord{
		Verb: "get", ResourceRequest: true, Name: b.params.Name, Namespace: b.params.Namespace, APIGroup: "*", APIVersion: "*", Resource: "*",
	}
	if b.params.Name == "" {
		attributes.Verb = "list"
	}
	problem := ""
	kind, err := policyKind(ctx, deps, policies, b.policy)
	if err != nil {
		problem = "unable to get policy " + b.policy
	} else if kind != nil {
		gv, err := schema.ParseGroupVersion(kind.APIVersion)
		if err != nil {
			problem = fmt.Sprintf("unable to parse paramKind %v", kind)
		} else if attributes.APIGroup, attributes.APIVersion = gv.Group, gv.Version; true {
			if resource, ok := resourceOf(deps, gv.WithKind(kind.Kind)); ok {
				attributes.Resource = resource
			} else {
				problem = fmt.Sprintf("unable to resolve paramKind %v", kind)
			}
		}
	}
	allowed, u, err := ask(ctx, deps, attributes)
	switch {
	case err != nil:
		return field.Forbidden(path, err.Error())
	case !allowed && problem != "":
		return field.Forbidden(path, fmt.Sprintf(`%s to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`,
			problem, u, attributes.Verb))
	case !allowed:
		return field.Forbidden(path, fmt.Sprintf(`user %v does not have "%v" permission on the object referenced by paramRef`, u, attributes.Verb))
	}
	return nil
}

func resourceOf(deps registry.Deps, kind schema.GroupVersionKind) (string, bool) {
	if deps.ResourceOf == nil {
		return "", false
	}
	return deps.ResourceOf(kind)
}

// policyKind is the kind of a stored policy's parameters.
func policyKind(ctx context.Context, deps registry.Deps, policies, name string) (*admissionv1.ParamKind, error) {
	kind := "ValidatingAdmissionPolicy"
	if policies == "mutatingadmissionpolicies" {
		kind = "MutatingAdmissionPolicy"
	}
	item, err := deps.Collection(policies, admissionv1.SchemeGroupVersion.WithKind(kind)).Get(ctx, name, "")
	if err != nil {
		return nil, err
	}
	switch p := item.Object.(type) {
	case *admissionv1.ValidatingAdmissionPolicy:
		return p.Spec.ParamKind, nil
	case *admissionv1.MutatingAdmissionPolicy:
		return p.Spec.ParamKind, nil
	}
	return nil, fmt.Errorf("%s is a %T", name, item.Object)
}

// ask is true for a master, who needs no permission.
func ask(ctx context.Context, deps registry.Deps, attributes authorizer.AttributesRecord) (bool, user.Info, error) {
	var u user.Info
	if deps.User != nil {
		u, _ = deps.User(ctx)
	}
	if u == nil {
		return false, nil, errors.New("cannot identify user to authorize read access to parameters")
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return true, u, nil
	}
	attributes.User = u
	decision, _, err := deps.Authorizer.Authorize(ctx, attributes)
	return decision == authorizer.DecisionAllow, u, err
}
