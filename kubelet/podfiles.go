// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/kubelet/container"
)

// Files of a pod that its containers get: names in the pod's directory.
const (
	fileHosts    = "etc-hosts"
	fileResolv   = "resolv.conf"
	fileHostname = "hostname"
)

// hostname is what the pod sees as its own name.
func hostname(pod *corev1.Pod, clusterDomain string) string {
	if pod.Spec.HostnameOverride != nil && *pod.Spec.HostnameOverride != "" {
		return *pod.Spec.HostnameOverride
	}
	short, fqdn := shortHostname(pod), podFQDN(pod, clusterDomain)
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && fqdn != "" {
		return fqdn
	}
	return short
}

// maxHostname is what the kernel takes.
const maxHostname = 63

func shortHostname(pod *corev1.Pod) string {
	h := pod.Spec.Hostname
	if h == "" {
		h = pod.Name
	}
	if len(h) > maxHostname {
		h = strings.TrimRight(h[:maxHostname], "-.")
	}
	return h
}

// podFQDN is the pod's name in the cluster's DNS, if it has one: only with a subdomain.
func podFQDN(pod *corev1.Pod, clusterDomain string) string {
	if pod.Spec.Subdomain == "" {
		return ""
	}
	return fmt.Sprintf("%s.%s.%s.svc.%s", shortHostname(pod), pod.Spec.Subdomain, pod.Namespace, clusterDomain)
}

// writePodFiles writes what the pod's containers find in /etc, now that its addresses are known.
func (k *Kubelet) writePodFiles(pod *corev1.Pod, ips []string) error {
	dir := k.volumes.PodDir(pod.UID)
	hosts, err := k.hostsFile(pod, ips)
	if err != nil {
		return err
	}
	node, err := os.ReadFile(k.nodeResolvConf())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	name := hostname(pod, k.cfg.ClusterDomain)
	if pod.Spec.HostNetwork {
		name = k.cfg.Hostname
	}
	resolv := resolvConf(pod, node, k.cfg.ClusterDNS, k.cfg.ClusterDomain)
	for file, data := range map[string][]byte{fileHosts: hosts, fileResolv: resolv, fileHostname: []byte(name + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kubelet) hostsFile(pod *corev1.Pod, ips []string) ([]byte, error) {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		data, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(data)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if fqdn := podFQDN(pod, k.cfg.ClusterDomain); fqdn != "" {
				fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, fqdn, shortHostname(pod))
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, hostname(pod, k.cfg.ClusterDomain))
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.Bytes(), nil
}

// systemdResolvConf has the real servers where /etc/resolv.conf only names systemd's stub, which pods cannot reach.
const systemdResolvConf = "/run/systemd/resolve/resolv.conf"

func (k *Kubelet) nodeResolvConf() string {
	data, err := os.ReadFile(k.cfg.ResolvConf)
	if err != nil || k.cfg.ResolvConf != "/etc/resolv.conf" {
		return k.cfg.ResolvConf
	}
	servers := parseResolvConf(data).servers
	stub := len(servers) > 0 && !slices.ContainsFunc(servers, func(s string) bool {
		ip := net.ParseIP(s)
		return ip == nil || !ip.IsLoopback()
	})
	if _, err := os.Stat(systemdResolvConf); stub && err == nil {
		return systemdResolvConf
	}
	return k.cfg.ResolvConf
}

// resolver is the content of a resolv.conf.
type resolver struct{ servers, searches, options []string }

func parseResolvConf(data []byte) resolver {
	var r resolver
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			r.servers = append(r.servers, f[1])
		case "search":
			r.searches = nil // the last one counts
			for _, s := range f[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				r.searches = append(r.searches, s)
			}
		case "options":
			r.options = append(r.options, f[1:]...)
		}
	}
	return r
}

// The limits of the API (KEP-2595) and of libc.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// resolvConf makes a pod's resolv.conf from its dnsPolicy, its dnsConfig and the node's own file.
func resolvConf(pod *corev1.Pod, node []byte, dns []net.IP, domain string) []byte {
	host := parseResolvConf(node)
	var r resolver
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork || (policy != corev1.DNSNone && len(dns) == 0) {
		policy = corev1.DNSDefault
	}
	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		r = host
	default:
		for _, ip := range dns {
			r.servers = append(r.servers, ip.String())
		}
		r.searches = append([]string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}, host.searches...)
		r.options = []string{"ndots:5"}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.servers = unique(append(r.servers, c.Nameservers...))
		r.searches = unique(append(r.searches, c.Searches...))
		for _, o := range c.Options {
			r.options = slices.DeleteFunc(slices.Clone(r.options), func(s string) bool { n, _, _ := strings.Cut(s, ":"); return n == o.Name })
			v := o.Name
			if o.Value != nil && *o.Value != "" {
				v += ":" + *o.Value
			}
			r.options = append(r.options, v)
		}
	}
	return r.format()
}

func (r resolver) format() []byte {
	var b bytes.Buffer
	searches := unique(r.searches)
	searches = searches[:min(len(searches), maxSearches)]
	for len(strings.Join(searches, " ")) > maxSearchChars {
		searches = searches[:len(searches)-1]
	}
	if len(searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(searches, " "))
	}
	for _, s := range r.servers[:min(len(r.servers), maxNameservers)] {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return b.Bytes()
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// containerFiles are the mounts that every container gets besides its volumes, unless it mounts something there itself.
func (k *Kubelet) containerFiles(sc startContext) ([]container.Mount, error) {
	dir := k.volumes.PodDir(sc.pod.UID)
	taken := map[string]bool{}
	for _, m := range sc.c.VolumeMounts {
		taken[filepath.Clean(m.MountPath)] = true
	}
	readOnly := sc.c.SecurityContext != nil && sc.c.SecurityContext.ReadOnlyRootFilesystem != nil && *sc.c.SecurityContext.ReadOnlyRootFilesystem
	var out []container.Mount
	for path, file := range map[string]string{"/etc/hosts": fileHosts, "/etc/resolv.conf": fileResolv, "/etc/hostname": fileHostname} {
		if taken[path] {
			continue
		}
		out = append(out, container.Mount{HostPath: filepath.Join(dir, file), ContainerPath: path, ReadOnly: readOnly})
	}
	slices.SortFunc(out, func(a, b container.Mount) int { return strings.Compare(a.ContainerPath, b.ContainerPath) })
	if sc.c.TerminationMessagePath != "" {
		at := k.terminationLog(sc.pod, sc.c.Name, sc.attempt)
		if err := os.MkdirAll(filepath.Dir(at), 0o750); err != nil {
			return nil, err
		}
		if err := os.WriteFile(at, nil, 0o666); err != nil {
			return nil, err
		}
		if err := os.Chmod(at, 0o666); err != nil { // whoever the container runs as may write it
			return nil, err
		}
		out = append(out, container.Mount{HostPath: at, ContainerPath: sc.c.TerminationMessagePath})
	}
	return out, nil
}

// terminationLog is the file behind a container's terminationMessagePath.
func (k *Kubelet) terminationLog(pod *corev1.Pod, name string, attempt uint32) string {
	return filepath.Join(k.volumes.PodDir(pod.UID), "containers", name, strconv.Itoa(int(attempt)))
}
