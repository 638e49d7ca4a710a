// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// safeSysctls touch nothing beyond the pod: upstream's list (pkg/kubelet/sysctl, SafeSysctlAllowlist) on the kernels that mini runs on.
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.tcp_wmem",
}

// dottedSysctl writes a name with dots between its parts. Where a part has a dot of its own (a VLAN's interface), the name comes with
// slashes, as sysctl(8) has it.
func dottedSysctl(name string) string {
	i := strings.IndexAny(name, "./")
	if i < 0 || name[i] == '.' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return r
	}, name)
}

// checkSysctls refuses what is neither safe nor allowed on this node, and what would be the host's. An entry of allowed that ends in * stands for
// all that begin so.
func checkSysctls(pod *corev1.Pod, allowed []string) *failure {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	forbid := func(name, why string) *failure {
		return &failure{Reason: "SysctlForbidden", Message: fmt.Sprintf("forbidden sysctl: %q %s", name, why)}
	}
	for _, s := range sc.Sysctls {
		name := dottedSysctl(s.Name)
		ok := slices.Contains(safeSysctls, name) || slices.ContainsFunc(allowed, func(a string) bool {
			prefix, any := strings.CutSuffix(dottedSysctl(a), "*")
			return any && strings.HasPrefix(name, prefix) || !any && name == prefix
		})
		switch {
		case !ok:
			return forbid(s.Name, "not allowlisted")
		case pod.Spec.HostNetwork && strings.HasPrefix(name, "net."):
			return forbid(s.Name, "not allowed with host net enabled")
		case pod.Spec.HostIPC && isIPCSysctl(name):
			return forbid(s.Name, "not allowed with host ipc enabled")
		}
	}
	return nil
}

func isIPCSysctl(name string) bool {
	for _, prefix := range []string{"kernel.shm", "kernel.msg", "fs.mqueue."} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == "kernel.sem"
}
