// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// defaultPath is for images that set none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maskedPaths and readonlyPaths are what procMount Default keeps from a container.
var (
	maskedPaths = []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// sandboxView is what a container's spec takes from its sandbox.
type sandboxView struct {
	ID       string
	Pid      int    // of pause
	NetNS    string // "" with hostNetwork
	ShmPath  string // shared by the pod's containers; "" with hostIPC
	Hostname string
}

// specInput is all that a container's OCI spec is made from.
type specInput struct {
	ID          string
	Config      ContainerConfig
	Sandbox     sandboxView
	Image       imagespec.ImageConfig
	User        user
	TargetPid   int // whose PID namespace an ephemeral container shares; 0 for none
	OOMScoreAdj int
	Resources   *specs.LinuxResources
	Unified     bool // cgroup v2
	Seccomp     *specs.LinuxSeccomp
	HostDevices []specs.LinuxDevice // of a privileged container
	Devices     []grantedDevice
	AllCaps     []string // all that a privileged container gets
}

// grantedDevice is one that the pod asked for, at its place in the container.
type grantedDevice struct {
	specs.LinuxDevice
	access string // as the devices cgroup writes it
}

// containerSpec makes the OCI spec of an app container. It reads nothing but its input.
func containerSpec(in specInput) (*specs.Spec, error) {
	pod, c := in.Config.Pod, in.Config.Container
	sc := effectiveSecurity(pod, c)
	args, err := commandLine(in.Config, in.Image)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(sc, in.AllCaps)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs", Readonly: deref(sc.ReadOnlyRootFilesystem)},
		Process: &specs.Process{
			Args:            args,
			Env:             environment(in),
			Cwd:             firstOf(c.WorkingDir, in.Image.WorkingDir, "/"),
			Terminal:        c.TTY,
			NoNewPrivileges: sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
			User: specs.User{UID: in.User.UID, GID: in.User.GID,
				AdditionalGids: in.User.Groups},
			Capabilities: caps,
			OOMScoreAdj:  &in.OOMScoreAdj,
		},
		Annotations: map[string]string{
			annotationKind:          kindContainer,
			annotationSandboxID:     in.Sandbox.ID,
			annotationContainerName: c.Name,
			annotationImage:         in.Config.Image,
			annotationPodName:       pod.Name,
			annotationPodNamespace:  pod.Namespace,
			annotationPodUID:        string(pod.UID),
		},
		Linux: &specs.Linux{
			CgroupsPath: filepath.Join(in.Config.CgroupParent, in.ID),
			Resources:   in.Resources,
			Namespaces:  containerNamespaces(in),
			Seccomp:     in.Seccomp,
		},
	}
	if err := setMounts(s, in, deref(sc.Privileged)); err != nil {
		return nil, err
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: deref(sc.Privileged), Access: "rwm"}}
	if deref(sc.Privileged) {
		s.Linux.Devices = slices.Clone(in.HostDevices)
	} else if sc.ProcMount == nil || *sc.ProcMount != corev1.UnmaskedProcMount {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	for _, d := range in.Devices {
		s.Linux.Devices = slices.DeleteFunc(s.Linux.Devices, func(o specs.LinuxDevice) bool { return o.Path == d.Path })
		s.Linux.Devices = append(s.Linux.Devices, d.LinuxDevice)
		if !deref(sc.Privileged) { // else all are allowed
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
				specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: d.access})
		}
	}
	return s, nil
}

// sandboxSpec makes the OCI spec of the pause process. root is a folder with the program in it.
func sandboxSpec(id, root, netns string, cfg SandboxConfig, oomScoreAdj int) *specs.Spec {
	pod := cfg.Pod
	two := uint64(2)
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: root, Readonly: true},
		Process: &specs.Process{
			Args:            []string{"/pause"},
			Env:             []string{defaultPath},
			Cwd:             "/",
			NoNewPrivileges: true,
			User:            specs.User{UID: 65535, GID: 65535},
			Capabilities:    &specs.LinuxCapabilities{},
			OOMScoreAdj:     &oomScoreAdj,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
		},
		Annotations: map[string]string{
			annotationKind:         kindSandbox,
			annotationSandboxID:    id,
			annotationPodName:      pod.Name,
			annotationPodNamespace: pod.Namespace,
			annotationPodUID:       string(pod.UID),
		},
		Linux: &specs.Linux{
			CgroupsPath: filepath.Join(cfg.CgroupParent, id),
			Resources: &specs.LinuxResources{
				CPU:     &specs.LinuxCPU{Shares: &two},
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
			},
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}},
			Sysctl:     cfg.Sysctls,
		},
	}
	add := func(t specs.LinuxNamespaceType, path string) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
	if netns != "" {
		add(specs.NetworkNamespace, netns)
		add(specs.UTSNamespace, "")
		s.Hostname = cfg.Hostname
	}
	if !pod.Spec.HostIPC {
		add(specs.IPCNamespace, "")
	}
	if !pod.Spec.HostPID {
		add(specs.PIDNamespace, "")
	}
	return s
}

func containerNamespaces(in specInput) []specs.LinuxNamespace {
	pod := in.Config.Pod
	of := func(pid int, name string) string { return fmt.Sprintf("/proc/%d/ns/%s", pid, name) }
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if in.Sandbox.NetNS != "" {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: in.Sandbox.NetNS},
			specs.LinuxNamespace{Type: specs.UTSNamespace, Path: of(in.Sandbox.Pid, "uts")})
	}
	if !pod.Spec.HostIPC {
		ns = append(ns, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: of(in.Sandbox.Pid, "ipc")})
	}
	switch {
	case pod.Spec.HostPID:
	case in.TargetPid != 0:
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: of(in.TargetPid, "pid")})
	case deref(pod.Spec.ShareProcessNamespace):
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: of(in.Sandbox.Pid, "pid")})
	default:
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if in.Unified {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

// commandLine is the image's ENTRYPOINT and CMD with the pod's command and args over them: a command alone drops the CMD.
func commandLine(cfg ContainerConfig, image imagespec.ImageConfig) ([]string, error) {
	command, args := cfg.Command, cfg.Args
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	line := slices.Concat(command, args)
	if len(line) == 0 {
		return nil, fmt.Errorf("no command specified: neither the container nor image %s has one", cfg.Image)
	}
	return line, nil
}

// environment is the image's variables, then the pod's; of two with one name the later stands, in the earlier's place.
func environment(in specInput) []string {
	var env []string
	at := make(map[string]int)
	for _, kv := range slices.Concat([]string{defaultPath}, hostnameVar(in.Sandbox), termVar(in.Config.Container.TTY),
		in.Image.Env, in.Config.Env) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			env[i] = kv
			continue
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	return env
}

func hostnameVar(s sandboxView) []string {
	if s.Hostname == "" {
		return nil
	}
	return []string{"HOSTNAME=" + s.Hostname}
}

func termVar(tty bool) []string {
	if !tty {
		return nil
	}
	return []string{"TERM=xterm"}
}

// setMounts gives s the file systems every container has and those of the pod, which replace one of the former that has
// the same place. Parents come before what lies in them.
func setMounts(s *specs.Spec, in specInput, privileged bool) error {
	sys, cgroup := "ro", "ro"
	if privileged {
		sys, cgroup = "rw", "rw"
	}
	base := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sys}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", cgroup}},
	}
	shm := in.Sandbox.ShmPath
	if shm == "" {
		shm = "/dev/shm"
	}
	base = append(base, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "rw"}})

	own := make(map[string]bool)
	var mounts []specs.Mount
	for _, m := range in.Config.Mounts {
		to := filepath.Clean(m.ContainerPath)
		if !filepath.IsAbs(to) {
			to = "/" + to
		}
		options := []string{"rbind"}
		switch m.Propagation {
		case corev1.MountPropagationHostToContainer:
			options = append(options, "rslave")
			if s.Linux.RootfsPropagation == "" {
				s.Linux.RootfsPropagation = "rslave"
			}
		case corev1.MountPropagationBidirectional:
			options = append(options, "rshared")
			s.Linux.RootfsPropagation = "rshared"
		case "", corev1.MountPropagationNone:
			options = append(options, "rprivate")
		default:
			return fmt.Errorf("mount %s: unknown propagation %q", m.ContainerPath, m.Propagation)
		}
		switch {
		case m.RecursiveReadOnly:
			options = append(options, "rro")
		case m.ReadOnly:
			options = append(options, "ro")
		default:
			options = append(options, "rw")
		}
		if m.Image != "" {
			options = append(options, "noexec")
		}
		own[to] = true
		mounts = append(mounts, specs.Mount{Destination: to, Type: "bind", Source: m.HostPath, Options: options})
	}
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	for _, m := range base {
		if !own[m.Destination] {
			s.Mounts = append(s.Mounts, m)
		}
	}
	s.Mounts = append(s.Mounts, mounts...)
	return nil
}

func depth(path string) int {
	if path == "/" {
		return 0
	}
	return strings.Count(path, "/")
}

// effectiveSecurity is the container's security context with the pod's where the container says nothing.
func effectiveSecurity(pod *corev1.Pod, c *corev1.Container) corev1.SecurityContext {
	var sc corev1.SecurityContext
	if c.SecurityContext != nil {
		sc = *c.SecurityContext
	}
	if p := pod.Spec.SecurityContext; p != nil {
		if sc.RunAsUser == nil {
			sc.RunAsUser = p.RunAsUser
		}
		if sc.RunAsGroup == nil {
			sc.RunAsGroup = p.RunAsGroup
		}
		if sc.SeccompProfile == nil {
			sc.SeccompProfile = p.SeccompProfile
		}
	}
	return sc
}

// defaultCapabilities is what a container has that asks for nothing, as with containerd and Docker.
var defaultCapabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
	"CAP_AUDIT_WRITE"}

// capabilities applies what the security context adds, then what it drops; all is what ALL means here.
func capabilities(sc corev1.SecurityContext, all []string) (*specs.LinuxCapabilities, error) {
	set := make(map[string]bool)
	if deref(sc.Privileged) {
		for _, c := range all {
			set[c] = true
		}
	} else {
		for _, c := range defaultCapabilities {
			set[c] = true
		}
		if sc.Capabilities != nil {
			if err := changeCapabilities(set, sc.Capabilities, all); err != nil {
				return nil, err
			}
		}
	}
	list := slices.Sorted(maps.Keys(set))
	return &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}, nil
}

func changeCapabilities(set map[string]bool, change *corev1.Capabilities, all []string) error {
	known := func(c corev1.Capability) (string, error) {
		name := strings.ToUpper(string(c))
		if name != "ALL" && !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if name != "ALL" && !slices.Contains(all, name) {
			return "", fmt.Errorf("capability %q is not known here", c)
		}
		return name, nil
	}
	// ALL in either list comes first, so that single names make exceptions from it.
	for _, c := range change.Add {
		if strings.EqualFold(string(c), "ALL") {
			for _, name := range all {
				set[name] = true
			}
		}
	}
	for _, c := range change.Drop {
		if strings.EqualFold(string(c), "ALL") {
			clear(set)
		}
	}
	for _, c := range change.Add {
		name, err := known(c)
		if err != nil {
			return err
		}
		if name != "ALL" {
			set[name] = true
		}
	}
	for _, c := range change.Drop {
		// To drop what is not there changes nothing.
		if name, err := known(c); err == nil && name != "ALL" {
			delete(set, name)
		}
	}
	return nil
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
