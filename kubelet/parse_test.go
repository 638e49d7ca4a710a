// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"encoding/base64"
	"net"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "x", "B": "$(A)", "E": ""}
	lookup := func(n string) (string, bool) { v, ok := vars[n]; return v, ok }
	for in, want := range map[string]string{
		"": "", "plain": "plain", "$(A)": "x", "a$(A)b": "axb", "$(A)$(A)": "xx", "$$(A)": "$(A)", "$$$(A)": "$x", "$$$$(A)": "$$(A)", "$(NO)": "$(NO)", "$(B)": "$(A)",
		"$(E)": "", "$": "$", "$x": "$x", "$(A": "$(A", "$()": "$()", "a$": "a$", "$(A)$": "x$", "$(A B)": "$(A B)", "${A}": "${A}",
	} {
		if got := expand(in, lookup); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if _, err := expandStrict("a/$(NO)", vars); err == nil {
		t.Error("a missing variable passed")
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"$(A)", "$$(A)", "$(", "$", "$(A)$(B)$$"} {
		f.Add(s, "v")
	}
	f.Fuzz(func(t *testing.T, s, v string) {
		got := expand(s, func(n string) (string, bool) { return v, n == "A" })
		if !strings.Contains(s, "$") && got != s {
			t.Errorf("%q changed to %q", s, got)
		}
		// Nothing that is known may change what nothing refers to.
		if !strings.Contains(s, "$(A)") && got != expand(s, func(string) (string, bool) { return "", false }) {
			t.Errorf("%q: %q", s, got)
		}
	})
}

func pullSecret(t corev1.SecretType, key, data string) *corev1.Secret {
	return &corev1.Secret{Type: t, Data: map[string][]byte{key: []byte(data)}}
}

func TestDockerConfig(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("user:pa:ss"))
	s := pullSecret(corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{"reg.test:5000/team":{"auth":"`+auth+`"},"*.wild.test":{"username":"w","password":"p"},"https://index.docker.io/v1/":{"username":"hub","password":"h"}}}`)
	entries, err := dockerConfig(s)
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"reg.test:5000/team/app:1": "user pa:ss", "reg.test:5000/team2/app:1": "", "reg.test:5000/other": "", "reg.test/team/app": "",
		"a.wild.test/x": "w p", "a.b.wild.test/x": "", "busybox": "hub h", "docker.io/library/busybox:1": "hub h", "ghcr.test/x": "",
	} {
		got := ""
		for _, c := range matching(entries, ref) {
			got += c.Username + " " + c.Password
		}
		if got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
	old, err := dockerConfig(pullSecret(corev1.SecretTypeDockercfg, corev1.DockerConfigKey, `{"r.test":{"username":"u","password":"p"}}`))
	if err != nil || len(matching(old, "r.test/x")) != 1 {
		t.Errorf("%v, %v", old, err)
	}
	for _, bad := range []string{"", "{", `{"auths":{"r":{"auth":"!!"}}}`, `{"auths":{"r":{"auth":"bm9jb2xvbg=="}}}`, `{"auths":[]}`} {
		if _, err := dockerConfig(pullSecret(corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		} else if strings.Contains(err.Error(), "nocolon") {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"reg.test":{"auth":"dTpw"}}}`), "reg.test/a")
	f.Add([]byte(`{"auths":{"[::1":{"auth":"dTpw"}, "*":{"username":"u"}}}`), "a")
	f.Fuzz(func(t *testing.T, data []byte, ref string) {
		entries, err := dockerConfig(&corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: data}})
		if err == nil && len(matching(entries, ref)) > len(entries) {
			t.Error("more credentials than there are")
		}
	})
}

func TestResolvConf(t *testing.T) {
	node := []byte("# comment\nnameserver 192.0.2.9\nsearch corp.test. lan\noptions timeout:1\n")
	dns := []net.IP{net.ParseIP("192.0.2.53")}
	five := "5"
	for _, tt := range []struct {
		why  string
		spec corev1.PodSpec
		want string
	}{
		{"cluster first", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, "search ns.svc.c.test svc.c.test c.test corp.test lan\nnameserver 192.0.2.53\noptions ndots:5\n"},
		{"host network means the node's", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, "search corp.test lan\nnameserver 192.0.2.9\noptions timeout:1\n"},
		{"unless asked for", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true}, "search ns.svc.c.test svc.c.test c.test corp.test lan\nnameserver 192.0.2.53\noptions ndots:5\n"},
		{"default", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, "search corp.test lan\nnameserver 192.0.2.9\noptions timeout:1\n"},
		{"none", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}, Searches: []string{"s.test"},
			Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &five}, {Name: "edns0"}}}}, "search s.test\nnameserver 192.0.2.1\noptions ndots:5 edns0\n"},
		{"config is added, options override", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1", "192.0.2.53", "192.0.2.2", "192.0.2.3"},
			Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new(string)}}}}, "search ns.svc.c.test svc.c.test c.test corp.test lan\nnameserver 192.0.2.53\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots\n"},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: tt.spec}
		if got := string(resolvConf(pod, node, dns, "c.test")); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.why, got, tt.want)
		}
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 1.1.1.1\nsearch a b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out := resolvConf(&corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: corev1.DNSDefault}}, data, nil, "c.test")
		if r := parseResolvConf(out); len(r.servers) > maxNameservers || len(strings.Join(r.searches, " ")) > maxSearchChars {
			t.Errorf("too much: %s", out)
		}
	})
}

func TestHostname(t *testing.T) {
	yes := true
	for _, tt := range []struct{ name, host, sub, want string }{
		{"p", "", "", "p"}, {"p", "h", "", "h"}, {"p", "h", "s", "h.s.ns.svc.c.test"}, {strings.Repeat("a", 62) + "-b", "", "", strings.Repeat("a", 62)},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: tt.name, Namespace: "ns"}, Spec: corev1.PodSpec{Hostname: tt.host, Subdomain: tt.sub, SetHostnameAsFQDN: &yes}}
		if got := hostname(pod, "c.test"); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

func TestServiceVariables(t *testing.T) {
	out := map[string]string{}
	serviceVariables(out, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "my-db"}, Spec: corev1.ServiceSpec{ClusterIP: "192.0.2.7", Ports: []corev1.ServicePort{
		{Name: "sql-main", Port: 5432, Protocol: corev1.ProtocolTCP}, {Port: 53, Protocol: corev1.ProtocolUDP}}}})
	for k, want := range map[string]string{"MY_DB_SERVICE_HOST": "192.0.2.7", "MY_DB_SERVICE_PORT": "5432", "MY_DB_SERVICE_PORT_SQL_MAIN": "5432", "MY_DB_PORT": "tcp://192.0.2.7:5432",
		"MY_DB_PORT_5432_TCP": "tcp://192.0.2.7:5432", "MY_DB_PORT_5432_TCP_PROTO": "tcp", "MY_DB_PORT_5432_TCP_PORT": "5432", "MY_DB_PORT_5432_TCP_ADDR": "192.0.2.7", "MY_DB_PORT_53_UDP": "udp://192.0.2.7:53"} {
		if out[k] != want {
			t.Errorf("%s=%q, want %q", k, out[k], want)
		}
	}
}
