package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mini-k8s/mini/controller/controllertest"
)

func request(t *testing.T, r x509.CertificateRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &r, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func nodeSubject(name string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
}

var (
	clientUses = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	serverUses = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
)

const (
	clientSigner  = certificatesv1.KubeAPIServerClientSignerName
	kubeletSigner = certificatesv1.KubeAPIServerClientKubeletSignerName
	servingSigner = certificatesv1.KubeletServingSignerName
)

func TestApprovable(t *testing.T) {
	bootstrap := []string{"system:bootstrappers", "system:authenticated"}
	nodes := []string{"system:nodes", "system:authenticated"}
	n1 := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "n1.example"}}}}
	ip1, ip2 := net.ParseIP("192.0.2.1"), net.ParseIP("192.0.2.2")
	for name, tc := range map[string]struct {
		req    x509.CertificateRequest
		signer string
		uses   []certificatesv1.KeyUsage
		user   string
		groups []string
		node   *corev1.Node
		ok     bool
	}{
		"bootstrap":             {x509.CertificateRequest{Subject: nodeSubject("n1")}, kubeletSigner, clientUses, "system:bootstrap:abc", bootstrap, nil, true},
		"bootstrap_rsa_usages":  {x509.CertificateRequest{Subject: nodeSubject("n1")}, kubeletSigner, append(clientUses[:2:2], certificatesv1.UsageKeyEncipherment), "system:bootstrap:abc", bootstrap, nil, true},
		"renewal":               {x509.CertificateRequest{Subject: nodeSubject("n1")}, kubeletSigner, clientUses, "system:node:n1", nodes, nil, true},
		"other_node":            {x509.CertificateRequest{Subject: nodeSubject("n1")}, kubeletSigner, clientUses, "system:node:n2", nodes, nil, false},
		"anybody":               {x509.CertificateRequest{Subject: nodeSubject("n1")}, kubeletSigner, clientUses, "alice", []string{"system:authenticated"}, nil, false},
		"name_without_group":    {x509.CertificateRequest{Subject: nodeSubject("n1")}, kubeletSigner, clientUses, "system:node:n1", nil, nil, false},
		"not_a_node_name":       {x509.CertificateRequest{Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:nodes"}}}, kubeletSigner, clientUses, "x", bootstrap, nil, false},
		"empty_node_name":       {x509.CertificateRequest{Subject: nodeSubject("")}, kubeletSigner, clientUses, "x", bootstrap, nil, false},
		"more_groups":           {x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes", "system:masters"}}}, kubeletSigner, clientUses, "x", bootstrap, nil, false},
		"client_with_names":     {x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"n1"}}, kubeletSigner, clientUses, "x", bootstrap, nil, false},
		"client_as_server":      {x509.CertificateRequest{Subject: nodeSubject("n1")}, kubeletSigner, append(clientUses[:2:2], certificatesv1.UsageServerAuth), "x", bootstrap, nil, false},
		"plain_client_signer":   {x509.CertificateRequest{Subject: nodeSubject("n1")}, clientSigner, clientUses, "x", bootstrap, nil, false},
		"serving":               {x509.CertificateRequest{Subject: nodeSubject("n1"), IPAddresses: []net.IP{ip1}, DNSNames: []string{"n1", "n1.example"}}, servingSigner, serverUses, "system:node:n1", nodes, n1, true},
		"serving_foreign_ip":    {x509.CertificateRequest{Subject: nodeSubject("n1"), IPAddresses: []net.IP{ip1, ip2}}, servingSigner, serverUses, "system:node:n1", nodes, n1, false},
		"serving_foreign_name":  {x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"kubernetes.default"}}, servingSigner, serverUses, "system:node:n1", nodes, n1, false},
		"serving_unknown_node":  {x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"n1"}}, servingSigner, serverUses, "system:node:n1", nodes, nil, false},
		"serving_by_bootstrap":  {x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"n1"}}, servingSigner, serverUses, "x", bootstrap, n1, false},
		"serving_without_names": {x509.CertificateRequest{Subject: nodeSubject("n1")}, servingSigner, serverUses, "system:node:n1", nodes, n1, false},
		"serving_with_uri":      {x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"n1"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "x"}}}, servingSigner, serverUses, "system:node:n1", nodes, n1, false},
		"foreign_signer":        {x509.CertificateRequest{Subject: nodeSubject("n1")}, "example.com/x", clientUses, "x", bootstrap, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			csr := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: request(t, tc.req), SignerName: tc.signer, Usages: tc.uses, Username: tc.user, Groups: tc.groups}}
			req, err := parse(csr)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := approvable(csr, req, tc.node); ok != tc.ok {
				t.Errorf("approvable %v, want %v", ok, tc.ok)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		csr := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Request: data, SignerName: kubeletSigner, Usages: clientUses}}
		if req, err := parse(csr); err == nil {
			approvable(csr, req, nil)
		}
	})
}

func TestDeleteAt(t *testing.T) {
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cond := func(t certificatesv1.RequestConditionType, at time.Time) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: t, LastUpdateTime: metav1.NewTime(at)}
	}
	for name, tc := range map[string]struct {
		status certificatesv1.CertificateSigningRequestStatus
		want   time.Duration
	}{
		"pending":  {certificatesv1.CertificateSigningRequestStatus{}, 24 * time.Hour},
		"denied":   {certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{cond(certificatesv1.CertificateDenied, made.Add(time.Hour))}}, 2 * time.Hour},
		"failed":   {certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{cond(certificatesv1.CertificateFailed, made.Add(time.Hour))}}, 2 * time.Hour},
		"approved": {certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{cond(certificatesv1.CertificateApproved, made.Add(time.Hour))}}, 25 * time.Hour},
		"issued":   {certificatesv1.CertificateSigningRequestStatus{Certificate: []byte("x"), Conditions: []certificatesv1.CertificateSigningRequestCondition{cond(certificatesv1.CertificateApproved, made.Add(time.Hour))}}, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}, Status: tc.status}
			if got := deleteAt(csr).Sub(made); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// signer signs with a throwaway CA and remembers what it was asked for.
type signer struct {
	t        *testing.T
	lifetime time.Duration
	client   bool
	fails    int
}

func (s *signer) SignRequest(requestPEM []byte, client, server bool, lifetime time.Duration) ([]byte, error) {
	if s.fails > 0 {
		s.fails--
		return nil, errors.New("disk is full")
	}
	s.lifetime, s.client = lifetime, client
	if client == server {
		return nil, fmt.Errorf("client %v and server %v", client, server)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(lifetime)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

func start(t *testing.T, s *signer, objs ...runtime.Object) *controllertest.World {
	w := controllertest.New(t, objs...)
	c, err := New(Config{Client: w.Client, Informers: w.Informers, Feeds: w.Feeds, Logger: w.Logger, Signer: s})
	if err != nil {
		t.Fatal(err)
	}
	w.Start(c)
	return w
}

func get(t *testing.T, w *controllertest.World, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	synctest.Wait()
	csr, err := w.Client.CertificatesV1().CertificateSigningRequests().Get(context.Background(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestLife(t *testing.T) {
	seconds := int32(3600 * 24)
	join := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "join"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: request(t, x509.CertificateRequest{Subject: nodeSubject("n1")}), SignerName: kubeletSigner, Usages: clientUses,
		Username: "system:bootstrap:abc", Groups: []string{"system:bootstrappers"}, ExpirationSeconds: &seconds}}
	serving := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "serving"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request:    request(t, x509.CertificateRequest{Subject: nodeSubject("n1"), IPAddresses: []net.IP{net.ParseIP("192.0.2.1")}}),
		SignerName: servingSigner, Usages: serverUses, Username: "system:node:n1", Groups: []string{"system:nodes"}}}
	person := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "person"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: request(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "alice"}}), SignerName: clientSigner, Usages: clientUses, Username: "alice"}}
	root := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "root"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: request(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve", Organization: []string{"system:masters"}}}), SignerName: clientSigner, Usages: clientUses},
		Status: certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved}}}}
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := &signer{t: t, fails: 2}
		w := start(t, s, join, serving, person, root)
		time.Sleep(time.Second)
		if csr := get(t, w, "join"); len(csr.Status.Certificate) == 0 || condition(csr, certificatesv1.CertificateApproved) == nil || s.lifetime != 24*time.Hour || !s.client {
			t.Fatalf("join: %+v, lifetime %s", csr.Status, s.lifetime)
		}
		if csr := get(t, w, "person"); len(csr.Status.Conditions) != 0 {
			t.Errorf("approved without a person: %+v", csr.Status)
		}
		if csr := get(t, w, "root"); condition(csr, certificatesv1.CertificateFailed) == nil || len(csr.Status.Certificate) != 0 {
			t.Errorf("system:masters: %+v", csr.Status)
		}
		if csr := get(t, w, "serving"); len(csr.Status.Conditions) != 0 {
			t.Errorf("serving before the node is known: %+v", csr.Status)
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		node, err := w.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		node = node.DeepCopy()
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
		if _, err := w.Client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if csr := get(t, w, "serving"); len(csr.Status.Certificate) == 0 || s.client {
			t.Fatalf("serving: %+v", csr.Status)
		}
		csr := get(t, w, "person").DeepCopy()
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, LastUpdateTime: metav1.Now()})
		if _, err := w.Client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, "person", csr, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if csr := get(t, w, "person"); len(csr.Status.Certificate) == 0 || s.lifetime != Lifetime {
			t.Fatalf("person: %+v", csr.Status)
		}
		time.Sleep(2 * time.Hour)
		for _, name := range []string{"join", "serving", "person", "root"} {
			if get(t, w, name) != nil {
				t.Errorf("%s is kept too long", name)
			}
		}
	})
}
