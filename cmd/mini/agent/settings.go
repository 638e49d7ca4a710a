package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// SettingsName is the ConfigMap in kube-system from which nodes learn what all of them must agree on.
const SettingsName = "mini-settings"

// Settings are what all nodes of a cluster agree on: the server's flags decide them, the others read them.
type Settings struct {
	ClusterCIDR   netip.Prefix
	ServiceCIDR   netip.Prefix
	ClusterDNS    netip.Addr
	ClusterDomain string
	NodePorts     PortRange
}

// PortRange is inclusive.
type PortRange struct{ From, To int }

// ConfigMap is the settings as nodes read them.
func (s Settings) ConfigMap() *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: SettingsName},
		Data: map[string]string{
			"cluster-cidr": s.ClusterCIDR.String(), "service-cidr": s.ServiceCIDR.String(), "cluster-dns": s.ClusterDNS.String(),
			"cluster-domain": s.ClusterDomain, "service-node-port-range": fmt.Sprintf("%d-%d", s.NodePorts.From, s.NodePorts.To),
		},
	}
}

// ParseSettings is the inverse of Settings.ConfigMap.
func ParseSettings(data map[string]string) (Settings, error) {
	var s Settings
	var err error
	bad := func(key string, err error) error {
		return fmt.Errorf("ConfigMap %s/%s: %s %q: %w", metav1.NamespaceSystem, SettingsName, key, data[key], err)
	}
	if s.ClusterCIDR, err = netip.ParsePrefix(data["cluster-cidr"]); err != nil {
		return s, bad("cluster-cidr", err)
	}
	if s.ServiceCIDR, err = netip.ParsePrefix(data["service-cidr"]); err != nil {
		return s, bad("service-cidr", err)
	}
	if s.ClusterDNS, err = netip.ParseAddr(data["cluster-dns"]); err != nil {
		return s, bad("cluster-dns", err)
	}
	from, to, _ := strings.Cut(data["service-node-port-range"], "-")
	if s.NodePorts.From, err = strconv.Atoi(from); err != nil {
		return s, bad("service-node-port-range", err)
	}
	if s.NodePorts.To, err = strconv.Atoi(to); err != nil {
		return s, bad("service-node-port-range", err)
	}
	s.ClusterDomain = data["cluster-domain"]
	return s, nil
}

func readSettings(ctx context.Context, client kubernetes.Interface) (Settings, error) {
	cm, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, SettingsName, metav1.GetOptions{})
	if err != nil {
		return Settings{}, fmt.Errorf("read the cluster's settings: %w", err)
	}
	return ParseSettings(cm.Data)
}
