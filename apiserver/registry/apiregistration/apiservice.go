package apiregistration

import (
	"fmt"
	"slices"
	"strings"
	"time"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/registry"
)

// Key is where APIServices lie in etcd.
const Key = "apiregistration.k8s.io/apiservices"

// Kind is that of the objects below Key.
var Kind = apiregistrationv1.SchemeGroupVersion.WithKind("APIService")

const (
	maxGroupPriority   = 20000
	maxVersionPriority = 1000
	// managedLabel marks the objects that a server makes by itself: those of built-in groups when it starts, those of custom
	// resources always.
	managedLabel = "kube-aggregator.kubernetes.io/automanaged"
	onStart      = "onstart"
	always       = "true"
	// Custom resources come after all built-in groups in discovery, and among each other by their versions' names.
	customGroupPriority   = 1000
	customVersionPriority = 100
)

// APIService is the row of apiservices.
func APIService() registry.Resource {
	type service = apiregistrationv1.APIService
	return registry.Resource{
		GVK: Kind, Name: "apiservices", Singular: "apiservice", Categories: []string{"api-extensions"},
		Key: Key, StoredJSON: true,
		Default: registry.Defaulter(func(s *service) {
			if s.Spec.Service != nil && s.Spec.Service.Port == nil {
				s.Spec.Service.Port = ptr.To[int32](443)
			}
		}),
		Strategy: registry.OwnStatus(registry.Strategy{
			PrepareForCreate: registry.Prepare(func(s *service) {
				if s.Spec.Service == nil {
					s.Status.Conditions = []apiregistrationv1.APIServiceCondition{{
						Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Truncate(time.Second)),
						Reason: "Local", Message: "Local APIServices are always available",
					}}
				}
			}),
			Validate: registry.Validate(validate),
			ValidateUpdate: registry.ValidateUpdate(func(s, old *service) field.ErrorList {
				return append(registry.ValidateMetaUpdate(s, old), validate(s)...)
			}),
		}, func(s *service) *apiregistrationv1.APIServiceStatus { return &s.Status }),
		Status: registry.KeepMeta(registry.StatusView(func(s *service) *apiregistrationv1.APIServiceSpec { return &s.Spec }, validateStatus)),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Service", "The reference to the service that hosts this API endpoint."),
				registry.Column("Available", "Whether this service is available."),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(s *service) []any {
				where := "Local"
				if r := s.Spec.Service; r != nil {
					where = r.Namespace + "/" + r.Name
				}
				return []any{s.Name, where, available(s), registry.Age(s.CreationTimestamp)}
			}),
		},
	}
}

func available(s *apiregistrationv1.APIService) string {
	for _, c := range s.Status.Conditions {
		if c.Type != apiregistrationv1.Available {
			continue
		}
		if c.Status != apiregistrationv1.ConditionTrue && c.Reason != "" {
			return fmt.Sprintf("%s (%s)", c.Status, c.Reason)
		}
		return string(c.Status)
	}
	return string(apiregistrationv1.ConditionUnknown)
}

func validate(s *apiregistrationv1.APIService) field.ErrorList {
	name := s.Spec.Version + "." + s.Spec.Group
	errs := registry.ValidateMeta(s, false, apivalidation.ValidateNameFunc(func(have string, _ bool) []string {
		if problems := pathvalidation.IsValidPathSegmentName(have); len(problems) > 0 {
			return problems
		}
		if have != name {
			return []string{fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", name)}
		}
		return nil
	}))
	spec, path := &s.Spec, field.NewPath("spec")
	if spec.Group == "" && spec.Version != "v1" {
		errs = append(errs, field.Required(path.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	if spec.Group != "" {
		errs = append(errs, registry.Invalid(path.Child("group"), spec.Group, validation.IsDNS1123Subdomain(spec.Group))...)
	}
	errs = append(errs, registry.Invalid(path.Child("version"), spec.Version, validation.IsDNS1035Label(spec.Version))...)
	if p := spec.GroupPriorityMinimum; p <= 0 || p > maxGroupPriority {
		errs = append(errs, field.Invalid(path.Child("groupPriorityMinimum"), p, "must be positive and less than 20000"))
	}
	if p := spec.VersionPriority; p <= 0 || p > maxVersionPriority {
		errs = append(errs, field.Invalid(path.Child("versionPriority"), p, "must be positive and less than 1000"))
	}
	if spec.Service == nil {
		if n := len(spec.CABundle); n > 0 {
			errs = append(errs, field.Invalid(path.Child("caBundle"), fmt.Sprintf("%d bytes", n), "local APIServices may not have a caBundle"))
		}
		if spec.InsecureSkipTLSVerify {
			errs = append(errs, field.Invalid(path.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify"))
		}
		return errs
	}
	at := path.Child("service")
	if spec.Service.Namespace == "" {
		errs = append(errs, field.Required(at.Child("namespace"), ""))
	}
	if spec.Service.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	port := ptr.Deref(spec.Service.Port, 0)
	if problems := validation.IsValidPortNum(int(port)); len(problems) > 0 {
		errs = append(errs, field.Invalid(at.Child("port"), port, "port is not valid: "+strings.Join(problems, ", ")))
	}
	if spec.InsecureSkipTLSVerify && len(spec.CABundle) > 0 {
		errs = append(errs, field.Invalid(path.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"))
	}
	return errs
}

func validateStatus(s, old *apiregistrationv1.APIService) field.ErrorList {
	errs := registry.ValidateMetaUpdate(s, old)
	supported := []apiregistrationv1.ConditionStatus{apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown}
	for i, c := range s.Status.Conditions {
		if !slices.Contains(supported, c.Status) {
			errs = append(errs, field.NotSupported(field.NewPath("status", "conditions").Index(i).Child("status"), c.Status, supported))
		}
	}
	return errs
}

// groupPriorities order groups as upstream's discovery does.
var groupPriorities = map[string]int32{
	"": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600, "autoscaling": 17500,
	"batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100, "rbac.authorization.k8s.io": 17000,
	"storage.k8s.io": 16800, "apiextensions.k8s.io": 16700, "admissionregistration.k8s.io": 16700, "scheduling.k8s.io": 16600,
	"coordination.k8s.io": 16500, "node.k8s.io": 16300, "discovery.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100, "resource.k8s.io": 16200,
}

// Local is the object that stands for a built-in group and version of this server. It is nil for the group of APIServices
// itself, which has none.
func Local(gv schema.GroupVersion) *apiregistrationv1.APIService {
	if gv.Group == apiregistrationv1.GroupName {
		return nil
	}
	s := &apiregistrationv1.APIService{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiregistrationv1.SchemeGroupVersion.String(), Kind: "APIService"},
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group, Labels: map[string]string{managedLabel: onStart}},
		Spec:       apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: groupPriorities[gv.Group], VersionPriority: 15},
	}
	switch {
	case s.Spec.GroupPriorityMinimum == 0:
		s.Spec.GroupPriorityMinimum = 15000
	case gv.Group == "":
		s.Spec.VersionPriority = 1
	case gv.Group == "autoscaling" && gv.Version == "v2":
		s.Spec.VersionPriority = 30
	case gv.Group == "flowcontrol.apiserver.k8s.io" || gv.Group == "resource.k8s.io":
		s.Spec.VersionPriority = 21
	}
	return s
}
