package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/store"
)

// CertificateSigningRequest is the row of certificatesigningrequests.
func CertificateSigningRequest(deps registry.Deps) registry.Resource {
	kind := certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest")
	status := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(csr, old *certificatesv1.CertificateSigningRequest) {
			csr.Spec = old.Spec
			stampConditions(csr, old)
		}),
		ValidateUpdate: registry.ValidateUpdate(func(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			errs := validateUpdate(csr, old)
			errs = append(errs, sameDecision(csr, old, "/status", certificatesv1.CertificateApproved, certificatesv1.CertificateDenied)...)
			errs = append(errs, keepsConditions(csr, old, "/status", certificatesv1.CertificateFailed)...)
			if len(csr.Status.Certificate) > 0 {
				if err := checkCertificates(csr.Status.Certificate); err != nil {
					errs = append(errs, field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error()))
				}
			}
			if len(old.Status.Certificate) > 0 && !slices.Equal(old.Status.Certificate, csr.Status.Certificate) {
				errs = append(errs, field.Forbidden(field.NewPath("status", "certificate"), "updates to /status may not modify existing certificate data"))
			}
			return errs
		}),
	}
	approval := registry.Strategy{
		PrepareForUpdate: registry.PrepareUpdate(func(csr, old *certificatesv1.CertificateSigningRequest) {
			conditions := csr.Status.Conditions
			csr.Spec = old.Spec
			csr.Status = *old.Status.DeepCopy()
			csr.Status.Conditions = conditions
			stampConditions(csr, old)
		}),
		ValidateUpdate: registry.ValidateUpdate(func(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			errs := append(validateUpdate(csr, old), keepsConditions(csr, old, "/approval", certificatesv1.CertificateApproved, certificatesv1.CertificateDenied)...)
			return append(errs, sameDecision(csr, old, "/approval", certificatesv1.CertificateFailed)...)
		}),
	}
	return registry.Resource{
		GVK: kind, Name: "certificatesigningrequests", Singular: "certificatesigningrequest", ShortNames: []string{"csr"},
		Default: registry.Defaulter(func(csr *certificatesv1.CertificateSigningRequest) {
			for i := range csr.Status.Conditions {
				if c := &csr.Status.Conditions[i]; c.Status == "" {
					c.Status = corev1.ConditionTrue
				}
			}
		}),
		Strategy: registry.Strategy{
			PrepareForCreate: func(ctx context.Context, o store.Object) {
				prepare(ctx, deps, o.(*certificatesv1.CertificateSigningRequest))
			},
			PrepareForUpdate: registry.PrepareUpdate(func(csr, old *certificatesv1.CertificateSigningRequest) {
				csr.Spec, csr.Status = old.Spec, old.Status
			}),
			Validate:            registry.Validate(validate),
			ValidateUpdate:      registry.ValidateUpdate(validateUpdate),
			UnconditionalUpdate: true,
		},
		Fields: registry.Select(func(csr *certificatesv1.CertificateSigningRequest) fields.Set {
			return fields.Set{"spec.signerName": csr.Spec.SignerName}
		}),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.AgeColumn(),
				registry.Column("SignerName", "Who is asked to sign"),
				registry.Column("Requestor", "Who asks"),
				registry.Column("RequestedDuration", "How long the certificate shall hold"),
				registry.Column("Condition", "What became of the request"),
			},
			Cells: registry.Cells(cells),
		},
		Status:       &status,
		Subresources: []registry.Subresource{{Name: "approval", Kind: kind, Verbs: []string{"get", "patch", "update"}, Strategy: &approval}},
	}
}

// prepare writes the requester into the spec, whatever the client put there.
func prepare(ctx context.Context, deps registry.Deps, csr *certificatesv1.CertificateSigningRequest) {
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = "", "", nil, nil
	if deps.User != nil {
		if u, ok := deps.User(ctx); ok {
			csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups = u.GetName(), u.GetUID(), u.GetGroups()
			for k, v := range u.GetExtra() {
				if csr.Spec.Extra == nil {
					csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
				}
				csr.Spec.Extra[k] = v
			}
		}
	}
	csr.Status = certificatesv1.CertificateSigningRequestStatus{}
}

// stampConditions fills the times of conditions that are new or changed their status.
func stampConditions(csr, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	for i := range csr.Status.Conditions {
		c := &csr.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, was := range old.Status.Conditions {
			if was.Type == c.Type && was.Status == c.Status && !was.LastTransitionTime.IsZero() {
				c.LastTransitionTime = was.LastTransitionTime
			}
		}
	}
}

func cells(csr *certificatesv1.CertificateSigningRequest) []any {
	wanted := registry.None
	if s := csr.Spec.ExpirationSeconds; s != nil {
		wanted = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	signer := csr.Spec.SignerName
	if signer == "" {
		signer = registry.None
	}
	return []any{csr.Name, registry.Age(csr.CreationTimestamp), signer, csr.Spec.Username, wanted, condition(csr)}
}

func condition(csr *certificatesv1.CertificateSigningRequest) string {
	has := sets.New[certificatesv1.RequestConditionType]()
	for _, c := range csr.Status.Conditions {
		has.Insert(c.Type)
	}
	var status string
	switch {
	case has.Has(certificatesv1.CertificateDenied):
		status = "Denied"
	case has.Has(certificatesv1.CertificateApproved):
		status = "Approved"
	default:
		status = "Pending"
	}
	if has.Has(certificatesv1.CertificateFailed) {
		status += ",Failed"
	}
	if len(csr.Status.Certificate) > 0 {
		status += ",Issued"
	}
	return status
}

var usages = sets.New(
	certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly, certificatesv1.UsageAny, certificatesv1.UsageServerAuth,
	certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning, certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME,
	certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping,
	certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC,
)

func validate(csr *certificatesv1.CertificateSigningRequest) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&csr.ObjectMeta, false, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	spec := field.NewPath("spec")
	if err := checkRequest(csr.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(spec.Child("request"), csr.Spec.Request, err.Error()))
	}
	if len(csr.Spec.Usages) == 0 {
		errs = append(errs, field.Required(spec.Child("usages"), ""))
	}
	seen := sets.New[certificatesv1.KeyUsage]()
	for i, u := range csr.Spec.Usages {
		if !usages.Has(u) {
			errs = append(errs, field.NotSupported(spec.Child("usages").Index(i), u, sets.List(usages)))
		}
		if seen.Has(u) {
			errs = append(errs, field.Duplicate(spec.Child("usages").Index(i), u))
		}
		seen.Insert(u)
	}
	if csr.Spec.SignerName == "kubernetes.io/legacy-unknown" {
		errs = append(errs, field.Invalid(spec.Child("signerName"), csr.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, validateSignerName(spec.Child("signerName"), csr.Spec.SignerName)...)
	}
	if s := csr.Spec.ExpirationSeconds; s != nil && *s < 600 {
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return append(errs, validateConditions(csr)...)
}

func checkRequest(data []byte) error {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	_, err := x509.ParseCertificateRequest(block.Bytes)
	return err
}

// validateSignerName asks for "domain/path" with both parts names, as the path is part of resource names in RBAC.
func validateSignerName(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	domain, signer, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(signer, "/") {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	var errs field.ErrorList
	for _, msg := range validation.IsDNS1123Subdomain(domain) {
		errs = append(errs, field.Invalid(path, name, fmt.Sprintf("validating label %q: %s", domain, msg)))
	}
	if len(strings.Split(domain, ".")) < 2 {
		errs = append(errs, field.Invalid(path, name, "should be a domain with at least two segments separated by dots"))
	}
	for _, segment := range strings.Split(signer, ".") {
		for _, msg := range validation.IsDNS1123Label(segment) {
			errs = append(errs, field.Invalid(path, name, fmt.Sprintf("validating label %q: %s", segment, msg)))
		}
	}
	if limit := validation.DNS1123SubdomainMaxLength*2 + 1 + 63 + 1; len(name) > limit {
		errs = append(errs, field.TooLong(path, name, limit))
	}
	return errs
}

func validateConditions(csr *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "conditions")
	seen := sets.New[certificatesv1.RequestConditionType]()
	for i, c := range csr.Status.Conditions {
		at := path.Index(i)
		switch {
		case c.Type == "":
			errs = append(errs, field.Required(at.Child("type"), ""))
		case seen.Has(c.Type):
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen.Insert(c.Type)
		decision := c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed
		switch {
		case c.Status == "":
			errs = append(errs, field.Required(at.Child("status"), ""))
		case decision && c.Status != corev1.ConditionTrue:
			errs = append(errs, field.NotSupported(at.Child("status"), c.Status, []corev1.ConditionStatus{corev1.ConditionTrue}))
		case c.Status != corev1.ConditionTrue && c.Status != corev1.ConditionFalse && c.Status != corev1.ConditionUnknown:
			errs = append(errs, field.NotSupported(at.Child("status"), c.Status,
				[]corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}))
		}
	}
	if seen.HasAll(certificatesv1.CertificateApproved, certificatesv1.CertificateDenied) {
		errs = append(errs, field.Invalid(path, string(certificatesv1.CertificateDenied), "Approved and Denied conditions are mutually exclusive"))
	}
	return errs
}

func validateUpdate(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&csr.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	return append(errs, validateConditions(csr)...)
}

func find(csr *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range csr.Status.Conditions {
		if csr.Status.Conditions[i].Type == t {
			return &csr.Status.Conditions[i]
		}
	}
	return nil
}

// keepsConditions refuses to lose conditions of the given types.
func keepsConditions(csr, old *certificatesv1.CertificateSigningRequest, sub string, types ...certificatesv1.RequestConditionType) field.ErrorList {
	var errs field.ErrorList
	for _, t := range types {
		if find(old, t) != nil && find(csr, t) == nil {
			errs = append(errs, field.Forbidden(field.NewPath("status", "conditions"), fmt.Sprintf("updates to %s may not remove a condition of type %q", sub, t)))
		}
	}
	return errs
}

// sameDecision refuses to add, change or lose conditions of the given types.
func sameDecision(csr, old *certificatesv1.CertificateSigningRequest, sub string, types ...certificatesv1.RequestConditionType) field.ErrorList {
	errs := keepsConditions(csr, old, sub, types...)
	for _, t := range types {
		now, was := find(csr, t), find(old, t)
		switch {
		case now != nil && was == nil:
			errs = append(errs, field.Forbidden(field.NewPath("status", "conditions"), fmt.Sprintf("updates to %s may not add a condition of type %q", sub, t)))
		case now != nil && (now.Status != was.Status || now.Reason != was.Reason || now.Message != was.Message):
			errs = append(errs, field.Forbidden(field.NewPath("status", "conditions"), fmt.Sprintf("updates to %s may not modify a condition of type %q", sub, t)))
		}
	}
	return errs
}

// checkCertificates wants one or more PEM certificates and nothing else that is PEM.
func checkCertificates(data []byte) error {
	n := 0
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return errors.New("no PEM block headers are permitted")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
		n++
	}
	if n == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}
