package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/mini-k8s/mini/apiserver/registry"
)

func hasError(errs field.ErrorList, want string) bool {
	for _, err := range errs {
		if strings.Contains(err.Error(), want) {
			return true
		}
	}
	return false
}

func request(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:a"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func row() registry.Resource {
	return CertificateSigningRequest(registry.Deps{User: func(context.Context) (user.Info, bool) {
		return &user.DefaultInfo{Name: "bob", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}}, true
	}})
}

func good(t *testing.T) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "csr", ResourceVersion: "1"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request(t), SignerName: "kubernetes.io/kube-apiserver-client-kubelet", Usages: []certificatesv1.KeyUsage{"client auth", "digital signature"},
		},
	}
}

func TestRequester(t *testing.T) {
	csr := good(t)
	csr.Spec.Username, csr.Spec.Groups = "system:admin", []string{"system:masters"} // a lie
	csr.Status.Certificate = []byte("x")
	row().Strategy.PrepareForCreate(t.Context(), csr)
	if csr.Spec.Username != "bob" || len(csr.Spec.Groups) != 1 || csr.Spec.Groups[0] != "g" || csr.Spec.Extra["k"][0] != "v" || csr.Status.Certificate != nil {
		t.Errorf("%+v %+v", csr.Spec, csr.Status)
	}
}

func TestValidate(t *testing.T) {
	if errs := validate(good(t)); len(errs) > 0 {
		t.Fatalf("a good request is refused: %v", errs)
	}
	short := int32(10)
	for _, test := range []struct {
		name  string
		spoil func(*certificatesv1.CertificateSigningRequest)
		want  string
	}{
		{"not_pem", func(c *certificatesv1.CertificateSigningRequest) { c.Spec.Request = []byte("x") }, "PEM block type must be CERTIFICATE REQUEST"},
		{"no_usages", func(c *certificatesv1.CertificateSigningRequest) { c.Spec.Usages = nil }, "spec.usages: Required value"},
		{"usage", func(c *certificatesv1.CertificateSigningRequest) { c.Spec.Usages[0] = "dancing" }, `spec.usages[0]: Unsupported value: "dancing"`},
		{"usage_twice", func(c *certificatesv1.CertificateSigningRequest) { c.Spec.Usages[1] = "client auth" }, `spec.usages[1]: Duplicate value: "client auth"`},
		{"no_signer", func(c *certificatesv1.CertificateSigningRequest) { c.Spec.SignerName = "" }, "spec.signerName: Required value"},
		{"signer", func(c *certificatesv1.CertificateSigningRequest) { c.Spec.SignerName = "me" }, "must be a fully qualified domain and path of the form 'example.com/signer-name'"},
		{"legacy", func(c *certificatesv1.CertificateSigningRequest) { c.Spec.SignerName = "kubernetes.io/legacy-unknown" }, "the legacy signerName is not allowed via this API version"},
		{"short", func(c *certificatesv1.CertificateSigningRequest) { c.Spec.ExpirationSeconds = &short }, "may not specify a duration less than 600 seconds (10 minutes)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			csr := good(t)
			test.spoil(csr)
			if errs := validate(csr); !hasError(errs, test.want) {
				t.Errorf("want %s\ngot  %v", test.want, errs)
			}
		})
	}
}

func TestApproval(t *testing.T) {
	r := row()
	approval := r.Subresources[0].Strategy
	old := good(t)
	approved := old.DeepCopy()
	approved.Spec.Usages = nil // must not get through
	approved.Status.Certificate = []byte("neither")
	approved.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: "Approved", Status: "True", Reason: "Because"}}
	approval.PrepareForUpdate(t.Context(), approved, old)
	if errs := approval.ValidateUpdate(t.Context(), approved, old); len(errs) > 0 {
		t.Fatal(errs)
	}
	if len(approved.Spec.Usages) != 2 || approved.Status.Certificate != nil || approved.Status.Conditions[0].LastUpdateTime.IsZero() {
		t.Errorf("%+v", approved)
	}
	for _, test := range []struct {
		name   string
		view   *registry.Strategy
		change func(*certificatesv1.CertificateSigningRequest)
		want   string
	}{
		{"take_back", approval, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Conditions = nil }, `updates to /approval may not remove a condition of type "Approved"`},
		{"both", approval, func(c *certificatesv1.CertificateSigningRequest) {
			c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: "Denied", Status: "True"})
		}, "Approved and Denied conditions are mutually exclusive"},
		{"false", approval, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Conditions[0].Status = "False" }, `status.conditions[0].status: Unsupported value: "False": supported values: "True"`},
		{"by_status", r.Status, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Conditions = nil }, `updates to /status may not remove a condition of type "Approved"`},
		{"garbage", r.Status, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Certificate = []byte("x") }, "must contain at least one CERTIFICATE PEM block"},
	} {
		t.Run(test.name, func(t *testing.T) {
			csr := approved.DeepCopy()
			test.change(csr)
			test.view.PrepareForUpdate(t.Context(), csr, approved)
			if errs := test.view.ValidateUpdate(t.Context(), csr, approved); !hasError(errs, test.want) {
				t.Errorf("want %s\ngot  %v", test.want, errs)
			}
		})
	}
	if got := condition(approved); got != "Approved" {
		t.Errorf("condition %s", got)
	}
	approved.Status.Certificate = []byte("x")
	if got := condition(approved); got != "Approved,Issued" {
		t.Errorf("condition %s", got)
	}
	if got := condition(old); got != "Pending" {
		t.Errorf("condition %s", got)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_ = checkRequest(data)
		_ = checkCertificates(data)
	})
}
