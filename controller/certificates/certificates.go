package certificates

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/mini-k8s/mini/controller/feed"
	"github.com/mini-k8s/mini/controller/work"
)

// Lifetime is how long a certificate lives unless its request asks for less.
const Lifetime = 365 * 24 * time.Hour

// Signer issues a certificate for the subject and names of a PEM certificate request, usable as a TLS client or server,
// and returns it in PEM. What was asked for has been judged before.
type Signer interface {
	SignRequest(requestPEM []byte, client, server bool, lifetime time.Duration) (certPEM []byte, err error)
}

// Config is what the controller needs; all fields are required.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Feeds     *feed.Set
	Logger    *slog.Logger
	Signer    Signer
}

// Controller approves, signs and cleans up.
type Controller struct {
	cfg     Config
	csrs    certlisters.CertificateSigningRequestLister
	nodes   corelisters.NodeLister
	sources []feed.Source
	queue   *work.Queue[string]
}

// New subscribes to CertificateSigningRequests and Nodes.
func New(cfg Config) (*Controller, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Feeds == nil || cfg.Logger == nil || cfg.Signer == nil {
		return nil, errors.New("certificates controller: incomplete config")
	}
	csrs, nodes := cfg.Informers.Certificates().V1().CertificateSigningRequests(), cfg.Informers.Core().V1().Nodes()
	c := &Controller{cfg: cfg, csrs: csrs.Lister(), nodes: nodes.Lister()}
	c.queue = work.NewQueue(work.Config[string]{Name: "certificates", Sync: c.sync, Logger: cfg.Logger})
	c.sources = []feed.Source{
		cfg.Feeds.Handle(csrs.Informer(), feed.Of(func(_, csr *certificatesv1.CertificateSigningRequest) {
			if csr != nil {
				c.queue.Add(csr.Name)
			}
		})),
		cfg.Feeds.Handle(nodes.Informer(), feed.Of(c.nodeChanged)),
	}
	return c, nil
}

// Run blocks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !feed.Wait(ctx, c.sources...) {
		return nil
	}
	return c.queue.Run(ctx)
}

// nodeChanged looks again at what the node asked for before its addresses were known.
func (c *Controller) nodeChanged(old, node *corev1.Node) {
	if node == nil || (old != nil && equality.Semantic.DeepEqual(old.Status.Addresses, node.Status.Addresses)) {
		return
	}
	all, err := c.csrs.List(labels.Everything())
	if err != nil {
		return
	}
	for _, csr := range all {
		if csr.Spec.Username == nodeUserPrefix+node.Name && !settled(csr) {
			c.queue.Add(csr.Name)
		}
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	csr, err := c.csrs.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if left := time.Until(deleteAt(csr)); left > 0 {
		c.queue.AddAfter(name, left)
	} else {
		err := c.cfg.Client.CertificatesV1().CertificateSigningRequests().Delete(ctx, name,
			metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(csr.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete CertificateSigningRequest %s: %w", name, err)
		}
		return nil
	}
	if settled(csr) {
		return nil
	}
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName:
	default:
		return nil
	}
	if condition(csr, certificatesv1.CertificateApproved) == nil {
		if csr, err = c.approve(ctx, csr); csr == nil || err != nil {
			return err
		}
	}
	return c.sign(ctx, csr)
}

// approve returns the approved object, or nil when it must wait.
func (c *Controller) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error) {
	req, err := parse(csr)
	if err != nil {
		return nil, nil // a person may still look at it; it is never signed
	}
	node, err := c.nodes.Get(strings.TrimPrefix(req.Subject.CommonName, nodeUserPrefix))
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	message, ok := approvable(csr, req, node)
	if !ok {
		return nil, nil
	}
	csr = csr.DeepCopy()
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
		LastUpdateTime: metav1.Now(),
	})
	csr, err = c.cfg.Client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("approve CertificateSigningRequest: %w", err)
	}
	c.cfg.Logger.Info("certificate request approved", "csr", csr.Name, "signer", csr.Spec.SignerName, "subject", req.Subject.CommonName, "by", csr.Spec.Username)
	return csr, nil
}

// sign issues the certificate of an approved object, or marks it as failed.
func (c *Controller) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	csr = csr.DeepCopy()
	req, err := parse(csr)
	if err == nil {
		err = signable(csr.Spec.SignerName, csr.Spec.Usages, req)
	}
	if err != nil {
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure",
			Message: err.Error(), LastUpdateTime: metav1.Now(),
		})
	} else {
		lifetime := Lifetime
		if s := csr.Spec.ExpirationSeconds; s != nil {
			lifetime = min(lifetime, max(time.Duration(*s)*time.Second, 10*time.Minute))
		}
		csr.Status.Certificate, err = c.cfg.Signer.SignRequest(csr.Spec.Request,
			slices.Contains(csr.Spec.Usages, certificatesv1.UsageClientAuth), slices.Contains(csr.Spec.Usages, certificatesv1.UsageServerAuth), lifetime)
		if err != nil {
			return fmt.Errorf("sign certificate: %w", err)
		}
	}
	_, err = c.cfg.Client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}
