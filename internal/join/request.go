package join

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// signWait is how long one CertificateSigningRequest is waited for before another one is made.
const signWait = 15 * time.Minute

// sign has a certificate request signed by the cluster and returns the certificate as PEM.
func sign(ctx context.Context, client kubernetes.Interface, signer string, usage certificatesv1.KeyUsage, requestPEM []byte) ([]byte, error) {
	api := client.CertificatesV1().CertificateSigningRequests()
	csr, err := api.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "node-csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    requestPEM,
			SignerName: signer,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, signWait)
	defer cancel()
	for {
		certificate, err := await(ctx, client, csr)
		switch {
		case certificate != nil || err != nil:
			return certificate, err
		case ctx.Err() != nil:
			return nil, fmt.Errorf("CertificateSigningRequest %s was neither approved nor denied in %v: %w", csr.Name, signWait, ctx.Err())
		}
		sleep(ctx, jitter(firstPause), nil) // a watch that ended early must not make a busy loop
	}
}

// await watches the request until there is an outcome, or until the watch ends: then it returns neither certificate nor
// error.
func await(ctx context.Context, client kubernetes.Interface, csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	api := client.CertificatesV1().CertificateSigningRequests()
	w, err := api.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, csr.Name).String()})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	// What came before the watch.
	now, err := api.Get(ctx, csr.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if certificate, err := outcome(now); certificate != nil || err != nil {
		return certificate, err
	}
	for event := range w.ResultChan() {
		now, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok || now.UID != csr.UID {
			continue
		}
		if event.Type == watch.Deleted {
			return nil, fmt.Errorf("CertificateSigningRequest %s was deleted", csr.Name)
		}
		if certificate, err := outcome(now); certificate != nil || err != nil {
			return certificate, err
		}
	}
	return nil, nil
}

// outcome is the certificate of a request that was signed; nil while it is under way.
func outcome(csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	approved := false
	for _, c := range csr.Status.Conditions {
		if c.Status == corev1.ConditionFalse {
			continue
		}
		switch c.Type {
		case certificatesv1.CertificateDenied:
			return nil, &Error{Message: fmt.Sprintf("the cluster denies the node's certificate (%s): %s %s", csr.Name, c.Reason, c.Message)}
		case certificatesv1.CertificateFailed:
			return nil, fmt.Errorf("the cluster failed to sign the node's certificate (%s): %s %s", csr.Name, c.Reason, c.Message)
		case certificatesv1.CertificateApproved:
			approved = true
		}
	}
	if approved && len(csr.Status.Certificate) > 0 {
		return csr.Status.Certificate, nil
	}
	return nil, nil
}
