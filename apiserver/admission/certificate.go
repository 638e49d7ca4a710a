package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/mini-k8s/mini/internal/pki"
)

var csrResource = certificatesv1.Resource("certificatesigningrequests")

func csrOf(a admission.Attributes, subresource string) (csr, old *certificatesv1.CertificateSigningRequest) {
	if a.GetResource().GroupResource() != csrResource || a.GetSubresource() != subresource {
		return nil, nil
	}
	csr, _ = a.GetObject().(*certificatesv1.CertificateSigningRequest)
	old, _ = a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	return csr, old
}

// mayUseSigner says whether the user has the verb on the signer, or on all of its domain.
func mayUseSigner(ctx context.Context, auth authorizer.UnconditionalAuthorizer, u user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := auth.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, Name: name, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// certificateApproval lets only those approve or deny who may for the signer.
type certificateApproval struct {
	auth authorizer.UnconditionalAuthorizer
}

var _ admission.ValidationInterface = (*certificateApproval)(nil)

func (*certificateApproval) Handles(op admission.Operation) bool { return op == admission.Update }

func (c *certificateApproval) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	csr, _ := csrOf(a, "approval")
	if csr == nil || mayUseSigner(ctx, c.auth, a.GetUserInfo(), "approve", csr.Spec.SignerName) {
		return nil
	}
	return admission.NewForbidden(a, fmt.Errorf("user not permitted to approve requests with signerName %q", csr.Spec.SignerName))
}

// certificateSigning lets only those write a certificate who may sign for the signer.
type certificateSigning struct {
	auth authorizer.UnconditionalAuthorizer
}

var _ admission.ValidationInterface = (*certificateSigning)(nil)

func (*certificateSigning) Handles(op admission.Operation) bool { return op == admission.Update }

func (c *certificateSigning) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	csr, old := csrOf(a, "status")
	if csr == nil || old == nil {
		return nil
	}
	if slices.Equal(csr.Status.Certificate, old.Status.Certificate) && equality.Semantic.DeepEqual(csr.Status.Conditions, old.Status.Conditions) {
		return nil
	}
	if mayUseSigner(ctx, c.auth, a.GetUserInfo(), "sign", old.Spec.SignerName) {
		return nil
	}
	return admission.NewForbidden(a, fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
}

// certificateSubjectRestriction lets nobody ask for a certificate of system:masters.
type certificateSubjectRestriction struct{}

var _ admission.ValidationInterface = certificateSubjectRestriction{}

func (certificateSubjectRestriction) Handles(op admission.Operation) bool { return creates(op) }

func (certificateSubjectRestriction) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	csr, _ := csrOf(a, "")
	if csr == nil || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	request, err := pki.ParseRequest(csr.Spec.Request)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(request.Subject.Organization, user.SystemPrivilegedGroup) {
		return admission.NewForbidden(a, fmt.Errorf("use of %s signer with %s group is not allowed", certificatesv1.KubeAPIServerClientSignerName, user.SystemPrivilegedGroup))
	}
	return nil
}
