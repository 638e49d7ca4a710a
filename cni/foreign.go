package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// foreign is a network made by the plugins of a conflist.
type foreign struct {
	dir string
	cni *libcni.CNIConfig
}

func newForeign(cfg Config, a *attacher) *foreign {
	exec := pluginExec{PluginDecoder: &version.PluginDecoder{}, plugin: plugin{dataDir: cfg.DataDir, attach: a}}
	return &foreign{
		dir: cfg.ConfDir,
		cni: libcni.NewCNIConfigWithCacheDir([]string{cfg.BinDir}, filepath.Join(cfg.DataDir, "attached"), exec),
	}
}

// find returns the first configuration by file name, or nil if there is none. It is asked for every pod, since plugins
// that are installed by a DaemonSet appear while the node runs.
func (f *foreign) find() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(f.dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("look for a conflist: %w", err)
	}
	if len(files) == 0 {
		return nil, nil
	}
	sort.Strings(files)
	file := files[0]
	if strings.HasSuffix(file, ".conflist") {
		list, err := libcni.NetworkConfFromFile(file)
		if err != nil {
			return nil, fmt.Errorf("read conflist %s: %w", filepath.Base(file), err)
		}
		return list, nil
	}
	conf, err := libcni.ConfFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration %s: %w", filepath.Base(file), err)
	}
	list, err := libcni.ConfListFromConf(conf)
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration %s: %w", filepath.Base(file), err)
	}
	return list, nil
}

// needsNode says whether our own plugin is part of a network, which then needs what Run makes.
func needsNode(conf *libcni.NetworkConfigList) bool {
	return slices.ContainsFunc(conf.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == PluginType })
}

// portMapping is an element of the portMappings capability, as the CNI conventions spell it.
type portMapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func runtimeConf(pod Pod) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: pod.SandboxID,
		NetNS:       pod.NetNS,
		IfName:      interfaceName,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", pod.Namespace},
			{"K8S_POD_NAME", pod.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", pod.SandboxID},
			{"K8S_POD_UID", pod.UID},
		},
	}
	if len(pod.Ports) > 0 {
		ports := make([]portMapping, 0, len(pod.Ports))
		for _, p := range pod.Ports {
			ports = append(ports, portMapping{p.HostPort, p.ContainerPort, strings.ToLower(p.Protocol), p.HostIP})
		}
		rt.CapabilityArgs = map[string]any{"portMappings": ports}
	}
	return rt
}

func (f *foreign) add(ctx context.Context, conf *libcni.NetworkConfigList, pod Pod) (_ Result, retErr error) {
	rt := runtimeConf(pod)
	// Plugins need not bear a second ADD, but a connected pod must get its addresses again.
	if cached, err := f.cni.GetNetworkListCachedResult(conf, rt); err == nil && cached != nil {
		if f.cni.CheckNetworkList(ctx, conf, rt) == nil {
			return resultOf(cached)
		}
		if err := f.cni.DelNetworkList(ctx, conf, rt); err != nil {
			return Result{}, fmt.Errorf("disconnect pod %s/%s from network %s: %w", pod.Namespace, pod.Name, conf.Name, err)
		}
	}
	res, err := f.cni.AddNetworkList(ctx, conf, rt)
	if err != nil {
		err = fmt.Errorf("connect pod %s/%s to network %s: %w", pod.Namespace, pod.Name, conf.Name, err)
		return Result{}, errors.Join(err, f.cni.DelNetworkList(context.WithoutCancel(ctx), conf, rt))
	}
	return resultOf(res)
}

func resultOf(res types.Result) (Result, error) {
	r, err := types100.NewResultFromResult(res)
	if err != nil {
		return Result{}, fmt.Errorf("read the plugins' result: %w", err)
	}
	var out Result
	for _, ip := range r.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out.IPs = append(out.IPs, addr.Unmap())
		}
	}
	if len(out.IPs) == 0 {
		return Result{}, errors.New("the plugins gave the pod no address")
	}
	return out, nil
}

// del disconnects a pod with the configuration it was connected with. done is false if no plugin ever connected it.
func (f *foreign) del(ctx context.Context, pod Pod) (done bool, err error) {
	attached, err := f.cni.GetCachedAttachments(pod.SandboxID)
	if err != nil {
		return false, fmt.Errorf("look for what connects pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	var errs []error
	for _, a := range attached {
		errs = append(errs, f.detach(ctx, a, pod.NetNS))
	}
	return len(attached) > 0, errors.Join(errs...)
}

func (f *foreign) prune(ctx context.Context, keep func(sandboxID string) bool) error {
	attached, err := f.cni.GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("look for connected sandboxes: %w", err)
	}
	var errs []error
	for _, a := range attached {
		if !keep(a.ContainerID) {
			errs = append(errs, f.detach(ctx, a, ""))
		}
	}
	return errors.Join(errs...)
}

func (f *foreign) detach(ctx context.Context, a *libcni.NetworkAttachment, netNS string) error {
	conf, err := libcni.NetworkConfFromBytes(a.Config)
	if err != nil {
		return fmt.Errorf("read the configuration that sandbox %s was connected with: %w", a.ContainerID, err)
	}
	rt := &libcni.RuntimeConf{
		ContainerID: a.ContainerID, NetNS: netNS, IfName: a.IfName, Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs,
	}
	if err := f.cni.DelNetworkList(ctx, conf, rt); err != nil {
		return fmt.Errorf("disconnect sandbox %s from network %s: %w", a.ContainerID, a.Network, err)
	}
	return nil
}
