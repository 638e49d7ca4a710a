package server

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/mini-k8s/mini/apiserver/authz"
	"github.com/mini-k8s/mini/cmd/mini/agent"
	"github.com/mini-k8s/mini/internal/bootstrap"
)

// dnsName is the Service that stands for the cluster's DNS, by the name that everybody looks for.
const dnsName = "kube-dns"

// publish writes what nodes and people need to find in the cluster: the settings that nodes agree on, the Service of cluster
// DNS, the first join token, and last the token's file, on which agents may be waiting.
func (s *server) publish(ctx context.Context) error {
	both, together := errgroup.WithContext(ctx)
	both.Go(func() error {
		if err := s.publishSettings(together); err != nil {
			return fmt.Errorf("publish the cluster's settings: %w", err)
		}
		return nil
	})
	both.Go(func() error {
		if err := s.publishDNS(together); err != nil {
			return fmt.Errorf("publish the Service of cluster DNS: %w", err)
		}
		return nil
	})
	if err := both.Wait(); err != nil {
		return err
	}
	if err := s.publishToken(ctx); err != nil {
		return fmt.Errorf("publish the join token: %w", err)
	}
	return nil
}

// publishSettings makes this server's flags the cluster's settings, readable for nodes.
func (s *server) publishSettings(ctx context.Context) error {
	want := s.cfg.Settings.ConfigMap()
	maps := s.admin.CoreV1().ConfigMaps(want.Namespace)
	_, err := maps.Create(ctx, want, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = maps.Update(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil {
		return err
	}
	meta := metav1.ObjectMeta{Namespace: want.Namespace, Name: "mini:settings"}
	return authz.EnsurePolicy(ctx, s.admin, authz.Policy{
		Roles: []*rbacv1.Role{{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{agent.SettingsName}},
		}}},
		RoleBindings: []*rbacv1.RoleBinding{{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:nodes"}},
		}},
	})
}

// publishDNS makes the Service whose address every node's own DNS server answers on. It has no endpoints and no rules: the
// address never leaves the node.
func (s *server) publishDNS(ctx context.Context) error {
	services := s.admin.CoreV1().Services(metav1.NamespaceSystem)
	// Asked for first, since a Service that is there has the address that another would be refused.
	if _, err := services.Get(ctx, dnsName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	_, err := services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: dnsName, Labels: map[string]string{"k8s-app": dnsName, "kubernetes.io/name": "CoreDNS"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: s.cfg.Settings.ClusterDNS.String(),
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
		},
	}, metav1.CreateOptions{})
	return err
}

// publishToken makes the first join token at the first start, and signs cluster-info with it for nodes that have its short form.
func (s *server) publishToken(ctx context.Context) error {
	path := filepath.Join(s.cfg.Node.DataDir, "token")
	hash := s.keys.CA.Hash()
	token, made, err := bootstrap.Ensure(ctx, s.admin, path, s.cfg.Token, hash[:])
	if err != nil {
		return err
	}
	if made {
		s.log.Info("a node joins with: mini agent --join "+s.url()+" --token "+token.String(), "file", path)
	}
	return bootstrap.Publish(ctx, s.admin, s.keys.CA.PEM(), s.url())
}
