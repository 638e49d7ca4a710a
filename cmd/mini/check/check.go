package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/internal/netns"
)

// Level says how bad a finding is.
type Level string

// The levels: with Fatal a node does not start.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Fatal   Level = "fatal"
)

// Finding is the outcome of one check.
type Finding struct {
	Name  string `json:"name"`
	Level Level  `json:"level"`
	What  string `json:"what"`
	Fix   string `json:"fix,omitempty"` // what to type or do
}

// Options say what the node will use.
type Options struct {
	DataDir string
	Ports   []int // TCP ports that must be free
	Agent   bool  // pods will run here
}

// Run does all checks.
func Run(ctx context.Context, o Options) []Finding {
	var found []Finding
	found = append(found, root())
	for _, p := range o.Ports {
		found = append(found, port(p))
	}
	if !o.Agent {
		return found
	}
	found = append(found, cgroups("/sys/fs/cgroup", "/proc/cgroups")...)
	found = append(found, filesystem("overlay"))
	found = append(found, network(ctx, o.DataDir)...)
	return append(found, leftovers()...)
}

// Err is an error that names every fatal finding with its fix, or nil.
func Err(found []Finding) error {
	var errs []error
	for _, f := range found {
		if f.Level == Fatal {
			errs = append(errs, fmt.Errorf("%s: %s; %s", f.Name, f.What, f.Fix))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("this machine cannot be a node yet (`mini check` shows all):\n%w", errors.Join(errs...))
}

func root() Finding {
	if os.Geteuid() != 0 {
		return Finding{"user", Fatal, "not root", "run it as root, for instance with sudo"}
	}
	return Finding{"user", OK, "root", ""}
}

func port(n int) Finding {
	name := "port " + strconv.Itoa(n)
	l, err := net.Listen("tcp", ":"+strconv.Itoa(n))
	if errors.Is(err, unix.EADDRINUSE) {
		return Finding{name, Fatal, "taken by another program", fmt.Sprintf("`ss -ltnp 'sport = :%d'` names it; stop it or choose another port", n)}
	}
	if err != nil {
		return Finding{name, Fatal, err.Error(), "choose another port"}
	}
	l.Close()
	return Finding{name, OK, "free", ""}
}

// cgroups wants the controllers that pods' limits need, in either version.
func cgroups(mount, table string) []Finding {
	want := []string{"cpu", "cpuset", "memory", "pids"}
	var have []string
	version := "v1"
	if b, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers")); err == nil {
		version, have = "v2", strings.Fields(string(b))
	} else {
		for _, c := range want {
			if _, err := os.Stat(filepath.Join(mount, c, "cgroup.procs")); err == nil {
				have = append(have, c)
			}
		}
	}
	var missing []string
	for _, c := range want {
		if !slices.Contains(have, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) == 0 {
		return []Finding{{"cgroups", OK, version + " with " + strings.Join(want, ", "), ""}}
	}
	fix := "mount the controllers below " + mount + ", or boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)"
	if b, err := os.ReadFile(table); err == nil && slices.Contains(missing, "memory") && disabled(b, "memory") {
		fix = "add `cgroup_enable=memory cgroup_memory=1` to the kernel's command line (on a Raspberry Pi in cmdline.txt) and reboot"
	}
	return []Finding{{"cgroups", Fatal, version + " lacks " + strings.Join(missing, ", "), fix}}
}

// disabled reads /proc/cgroups: name, hierarchy, number, enabled.
func disabled(table []byte, controller string) bool {
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) == 4 && f[0] == controller {
			return f[3] == "0"
		}
	}
	return true
}

func filesystem(name string) Finding {
	has := func() bool {
		b, err := os.ReadFile("/proc/filesystems")
		return err == nil && slices.Contains(strings.Fields(string(b)), name)
	}
	if !has() {
		_ = exec.Command("modprobe", name).Run() // what counts is whether it is there now
	}
	if !has() {
		return Finding{name, Fatal, "the kernel does not know this file system", "`modprobe " + name + "`, or a kernel that has it"}
	}
	return Finding{name, OK, "there", ""}
}

// probeRules uses each table, match and target that the proxy and the pod network need.
const probeRules = `*nat
:MINI-CHECK - [0:0]
-A MINI-CHECK -m comment --comment check -m statistic --mode random --probability 0.5 -j MASQUERADE
-A MINI-CHECK -m addrtype --dst-type LOCAL -p tcp -m tcp --dport 1 -j DNAT --to-destination 127.0.0.1:1
-A MINI-CHECK -m recent --name MINI-CHECK --rcheck --seconds 1 --reap -j RETURN
-A MINI-CHECK -m mark --mark 0x1/0x1 -j MARK --set-xmark 0x1/0x1
COMMIT
*filter
:MINI-CHECK - [0:0]
-A MINI-CHECK -m conntrack --ctstate INVALID -j DROP
-A MINI-CHECK -p tcp -j REJECT
COMMIT
`

var iptablesVersion = regexp.MustCompile(`v(\d+)\.(\d+)\.(\d+)`)

// network makes what a node makes, in a namespace of its own.
func network(ctx context.Context, dataDir string) []Finding {
	var found []Finding
	restore, err := exec.LookPath("iptables-restore")
	if err != nil {
		found = append(found, Finding{"iptables", Fatal, "iptables-restore is not installed", "install the package iptables, for instance `apt-get install iptables`"})
	}
	removeStale(existing(dataDir))
	dir, err := os.MkdirTemp(existing(dataDir), fmt.Sprintf("%s%d-", probeDirs, os.Getpid()))
	if err != nil {
		return append(found, Finding{"network", Fatal, err.Error(), "make the data dir's parent writable"})
	}
	ns := filepath.Join(dir, "netns")
	if err := netns.Create(ns); err != nil {
		_ = os.RemoveAll(dir)
		return append(found, Finding{"network namespaces", Fatal, err.Error(), "use a kernel with network namespaces, and root with CAP_SYS_ADMIN"})
	}
	defer os.RemoveAll(dir)
	defer netns.Delete(ns) //nolint:errcheck // a mount that stays makes the RemoveAll fail harmlessly
	found = append(found, links(ns)...)
	if restore != "" {
		found = append(found, rules(ctx, ns, restore))
	}
	return found
}

// probeDirs begins the names of network's folders; the pid of their process follows.
const probeDirs = ".check-"

// removeStale takes away what network left in a process that was killed meanwhile.
func removeStale(dir string) {
	stale, _ := filepath.Glob(filepath.Join(dir, probeDirs+"*"))
	for _, at := range stale {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(at), probeDirs), "-")
		if _, err := os.Stat(filepath.Join("/proc", pid)); err == nil {
			continue
		}
		if err := netns.Delete(filepath.Join(at, "netns")); err == nil {
			_ = os.RemoveAll(at) // the next check tries again
		}
	}
}

// existing is the nearest directory that is there, from dir upwards.
func existing(dir string) string {
	for dir != "" && dir != "/" {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return "/"
}

func links(ns string) []Finding {
	var found []Finding
	for _, l := range []netlink.Link{
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "check-br"}},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "check-veth"}, PeerName: "check-peer"},
		&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "check-vx"}, VxlanId: 1, Port: 8472},
	} {
		kind := l.Type()
		if err := netns.Do(ns, func() error { return netlink.LinkAdd(l) }); err != nil {
			found = append(found, Finding{kind, Fatal, "the kernel cannot make such a link: " + err.Error(),
				"`modprobe " + kind + "`, or install the kernel's extra modules (linux-modules-extra on Ubuntu)"})
			continue
		}
		found = append(found, Finding{kind, OK, "there", ""})
	}
	return found
}

func rules(ctx context.Context, ns, restore string) Finding {
	out, err := exec.CommandContext(ctx, restore, "--version").Output()
	version := iptablesVersion.FindStringSubmatch(string(out))
	if err != nil || version == nil {
		return Finding{"iptables", Fatal, fmt.Sprintf("%s --version does not work: %v", restore, err), "reinstall the package iptables"}
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, restore, "--noflush")
	cmd.Stdin, cmd.Stderr = strings.NewReader(probeRules), &said
	if err := netns.Do(ns, cmd.Start); err != nil {
		return Finding{"iptables", Fatal, err.Error(), "reinstall the package iptables"}
	}
	if err := cmd.Wait(); err != nil {
		return Finding{"iptables", Fatal, "the kernel does not take the rules a node needs: " + strings.TrimSpace(said.String()),
			"load nf_nat, xt_statistic, xt_recent, xt_comment, xt_conntrack and xt_addrtype, or use the other variant: `update-alternatives --config iptables`"}
	}
	what := strings.TrimSpace(string(out))
	if version[1] == "1" && version[2] == "8" && slices.Contains([]string{"0", "1", "2", "3", "4"}, version[3]) && strings.Contains(what, "nf_tables") {
		return Finding{"iptables", Warning, what + " piles up duplicate rules", "upgrade iptables to 1.8.5 or later, or use the legacy variant"}
	}
	return Finding{"iptables", OK, what, ""}
}

// leftovers looks for what another cluster's network left on this machine.
func leftovers() []Finding {
	all, err := netlink.LinkList()
	if err != nil {
		return []Finding{{"other networks", Warning, "cannot list links: " + err.Error(), ""}}
	}
	var seen []string
	for _, l := range all {
		name := l.Attrs().Name
		for _, prefix := range []string{"cni0", "flannel.", "cali", "vxlan.calico", "kube-ipvs0", "kube-bridge", "weave", "cilium_"} {
			if strings.HasPrefix(name, prefix) {
				seen = append(seen, name)
				break
			}
		}
	}
	if len(seen) == 0 {
		return []Finding{{"other networks", OK, "none left over", ""}}
	}
	return []Finding{{"other networks", Warning, "links of another pod network: " + strings.Join(seen, ", "),
		"uninstall the other cluster, then `ip link delete NAME` for each, or reboot"}}
}
