package plugins

import (
	"context"
	"crypto"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/apiserver/openapi"
	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/request"
	"github.com/mini-k8s/mini/internal/bootstrap"
	"github.com/mini-k8s/mini/internal/pki"
	"github.com/mini-k8s/mini/store"
)

// cluster is an API server with all plugins on an embedded etcd.
type cluster struct {
	keys   *pki.Server
	url    string
	admin  kubernetes.Interface // over the network, with the certificate of the kubeconfig
	config *rest.Config
	dir    string
	server *apiserver.Server
	audits sync.Map // of *request.Audit by audit ID
}

// audited keeps what is said for the audit log about requests that name themselves with the header Audit-ID.
func (c *cluster) audited(plugins func(*rest.Config) (*apiserver.Plugins, error)) func(*rest.Config) (*apiserver.Plugins, error) {
	return func(loopback *rest.Config) (*apiserver.Plugins, error) {
		p, err := plugins(loopback)
		if err == nil {
			p.Authorizer = auditing{p.Authorizer, &c.audits}
		}
		return p, err
	}
}

type auditing struct {
	authorizer.UnconditionalAuthorizer
	audits *sync.Map
}

func (a auditing) Authorize(ctx context.Context, attributes authorizer.Attributes) (authorizer.Decision, string, error) {
	if state := request.From(ctx); state != nil && strings.HasPrefix(state.AuditID, "test-") {
		a.audits.Store(state.AuditID, state.Audit)
	}
	return a.UnconditionalAuthorizer.Authorize(ctx, attributes)
}

func start(t *testing.T) *cluster {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	if os.Getenv("MINI_TEST_LOG") != "" {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	c := &cluster{dir: t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.url = "https://" + l.Addr().String()
	kubeconfig := filepath.Join(c.dir, "kubeconfig")
	if c.keys, err = pki.OpenServer(pki.ServerConfig{
		Dir: filepath.Join(c.dir, "tls"), ClusterDomain: "cluster.local", ServiceIP: net.IPv4(10, 43, 0, 1),
		Kubeconfig: kubeconfig, URL: c.url, Logger: logger,
	}); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), store.Config{DataDir: t.TempDir(), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	c.server, err = apiserver.New(apiserver.Config{
		Store: st, Logger: logger, Listener: l, TLS: c.keys.ServingTLS(), OpenAPI: openapi.NewHandler(), Advertise: netip.MustParseAddrPort("192.0.2.1:6443"),
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, NodePorts: registry.PortRange{From: 30000, To: 32767},
		Plugins: c.audited(New(Config{
			ClientCAs: c.keys.CA.Pool(), Logger: logger, ServiceAccountKeys: c.keys.ServiceAccountKeys, ClusterDomain: "cluster.local", URL: c.url,
		})),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	storeCtx, cancelStore := context.WithCancel(context.Background())
	storeDone, done := make(chan error, 1), make(chan error, 1)
	go func() { storeDone <- st.Run(storeCtx) }()
	go func() { done <- c.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
		cancelStore()
		if err := <-storeDone; err != nil {
			t.Errorf("store: %v", err)
		}
	})
	begun := time.Now()
	select {
	case <-c.server.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("not ready after 20 s")
	}
	t.Logf("ready after %v", time.Since(begun))
	if c.config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		t.Fatal(err)
	}
	c.admin = client(t, c.config)
	return c
}

func client(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	config.QPS = -1
	out, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// bearer is a client with a token.
func (c *cluster) bearer(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	return client(t, &rest.Config{Host: c.url, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: c.keys.CA.PEM()}})
}

// as is a client with a certificate of the cluster's CA.
func (c *cluster) as(t *testing.T, name string, groups ...string) kubernetes.Interface {
	t.Helper()
	cert, err := c.keys.Client(name, pki.Subject{CommonName: name, Organizations: groups, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	pair := cert.Current()
	key, err := pki.EncodeKey(pair.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	return client(t, &rest.Config{Host: c.url, TLSClientConfig: rest.TLSClientConfig{
		CAData: c.keys.CA.PEM(), CertData: pki.EncodeCertificates(pair.Certificate[0]), KeyData: key,
	}})
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestServerWithPlugins(t *testing.T) {
	c := start(t)
	ctx := t.Context()

	t.Run("default policy", func(t *testing.T) {
		for _, name := range []string{"cluster-admin", "admin", "edit", "view", "system:node-bootstrapper"} {
			role := must[*rbacv1.ClusterRole](t)(c.admin.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{}))
			if len(role.Rules) == 0 {
				t.Errorf("%s has no rules", name)
			}
		}
	})

	t.Run("service account tokens", func(t *testing.T) {
		must[*corev1.ServiceAccount](t)(c.admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "bot"}}, metav1.CreateOptions{}))
		request := must[*authenticationv1.TokenRequest](t)(c.admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, "bot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))
		bot := c.bearer(t, request.Status.Token)
		self := must[*authenticationv1.SelfSubjectReview](t)(bot.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))
		if self.Status.UserInfo.Username != "system:serviceaccount:default:bot" {
			t.Errorf("%+v", self.Status)
		}
		if _, err := bot.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) ||
			!strings.Contains(err.Error(), `User "system:serviceaccount:default:bot" cannot list resource "configmaps" in API group "" in the namespace "default"`) {
			t.Errorf("without a role: %v", err)
		}
		must[*rbacv1.RoleBinding](t)(c.admin.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "bot"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: "bot"}},
		}, metav1.CreateOptions{}))
		until(t, func() error { _, err := bot.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); return err })
		review := must[*authenticationv1.TokenReview](t)(c.admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: request.Status.Token}}, metav1.CreateOptions{}))
		if !review.Status.Authenticated {
			t.Errorf("%+v", review.Status)
		}
		if _, err := c.bearer(t, request.Status.Token+"x").CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("broken token: %v", err)
		}
	})

	t.Run("pods get their account", func(t *testing.T) {
		_, err := c.admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
		pod := must[*corev1.Pod](t)(c.admin.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}, metav1.CreateOptions{}))
		if pod.Spec.ServiceAccountName != "default" || len(pod.Spec.Volumes) != 1 || len(pod.Spec.Tolerations) != 2 || *pod.Spec.Priority != 0 {
			t.Errorf("%+v", pod.Spec)
		}
	})

	t.Run("nodes", func(t *testing.T) {
		node := c.as(t, "system:node:node-a", "system:nodes")
		made := must[*corev1.Node](t)(node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}, metav1.CreateOptions{}))
		if len(made.Spec.Taints) != 1 || made.Spec.Taints[0].Key != corev1.TaintNodeNotReady {
			t.Errorf("taints %v", made.Spec.Taints)
		}
		if _, err := node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-b"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("another node: %v", err)
		}
		must[*corev1.Secret](t)(c.admin.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}))
		if _, err := node.CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("a stranger's secret: %v", err)
		}
		must[*corev1.Pod](t)(c.admin.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "on-a"}, Spec: corev1.PodSpec{NodeName: "node-a", Containers: []corev1.Container{{Name: "c", Image: "i"}},
				Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}},
		}, metav1.CreateOptions{}))
		must[*corev1.Secret](t)(node.CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{}))
		pods := must[*corev1.PodList](t)(node.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=node-a"}))
		if len(pods.Items) != 1 {
			t.Errorf("%d pods", len(pods.Items))
		}
		if _, err := node.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("all pods: %v", err)
		}
		_, err := node.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "on-a", UID: pods.Items[0].UID},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Errorf("its pod's token: %v", err)
		}
		if _, err := node.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("a token bound to nothing: %v", err)
		}
	})

	t.Run("nobody grants what he does not have", func(t *testing.T) {
		must[*rbacv1.RoleBinding](t)(c.admin.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "ada"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "ada"}},
		}, metav1.CreateOptions{}))
		ada := c.as(t, "ada")
		role := func(name, resource string) error {
			_, err := ada.RbacV1().Roles("default").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
				{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{resource}},
			}}, metav1.CreateOptions{})
			return err
		}
		until(t, func() error { return role("readers", "pods") })
		if err := role("watchers", "nodes"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "attempting to grant RBAC permissions not currently held") {
			t.Errorf("%v", err)
		}
		can := must[*authorizationv1.SelfSubjectAccessReview](t)(ada.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "delete", Resource: "pods"}},
		}, metav1.CreateOptions{}))
		if !can.Status.Allowed {
			t.Errorf("%+v", can.Status)
		}
	})

	t.Run("namespaces", func(t *testing.T) {
		_, err := c.admin.CoreV1().ConfigMaps("none").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
		if !apierrors.IsNotFound(err) || err.Error() != `namespaces "none" not found` {
			t.Errorf("%v", err)
		}
		if err := c.admin.CoreV1().Namespaces().Delete(ctx, "kube-system", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("%v", err)
		}
		must[*corev1.Namespace](t)(c.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going"}}, metav1.CreateOptions{}))
		if err := c.admin.CoreV1().Namespaces().Delete(ctx, "going", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err = c.admin.CoreV1().ConfigMaps("going").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			t.Errorf("%v", err)
		}
	})

	t.Run("bootstrap token", func(t *testing.T) {
		hash := c.keys.CA.Hash()
		path := filepath.Join(c.dir, "token")
		token, made, err := bootstrap.Ensure(ctx, c.admin, path, bootstrap.Token{}, hash[:])
		if err != nil || !made {
			t.Fatal(made, err)
		}
		again, made, err := bootstrap.Ensure(ctx, c.admin, path, bootstrap.Token{}, hash[:])
		if err != nil || made || again.String() != token.String() {
			t.Errorf("again: %v, %v", made, err)
		}
		joining := c.bearer(t, token.Bearer())
		self := must[*authenticationv1.SelfSubjectReview](t)(joining.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))
		if self.Status.UserInfo.Username != "system:bootstrap:"+token.ID {
			t.Errorf("%+v", self.Status)
		}
		if err := bootstrap.Publish(ctx, c.admin, c.keys.CA.PEM(), c.url); err != nil {
			t.Fatal(err)
		}
		anonymous := c.bearer(t, "")
		info := must[*corev1.ConfigMap](t)(anonymous.CoreV1().ConfigMaps("kube-public").Get(ctx, bootstrap.ClusterInfo, metav1.GetOptions{}))
		if _, err := bootstrap.VerifyClusterInfo(info, token); err != nil {
			t.Error(err)
		}
		if err := c.admin.CoreV1().Secrets("kube-system").Delete(ctx, bootstrap.SecretName(token.ID), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := joining.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("deleted: %v", err)
		}
	})

	t.Run("OpenID documents", func(t *testing.T) {
		hc, err := rest.HTTPClientFor(c.config)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/.well-known/openid-configuration", "/openid/v1/jwks"} {
			response := must[*http.Response](t)(hc.Get(c.url + path))
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode != 200 || len(body) == 0 {
				t.Errorf("%s: %s", path, response.Status)
			}
		}
	})
}

// until repeats what an informer may not have seen yet.
func until(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
