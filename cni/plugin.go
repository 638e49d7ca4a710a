package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"

	"github.com/mini-k8s/mini/internal/iptables"
)

// PluginType is the type of our plugin in a conflist.
const PluginType = "mini"

// PluginMain is the program of the CNI plugin: it reads the CNI_ environment and standard input, prints the result and
// returns the exit code. A conflist uses it as {"type": "mini", "dataDir": DATA-DIR/agent/cni}; the node must have been
// set up by Node.Run before.
func PluginMain() int {
	p := plugin{}
	funcs := skel.CNIFuncs{
		Add: func(args *skel.CmdArgs) error {
			res, conf, err := p.add(context.Background(), args)
			if err != nil {
				return err
			}
			return types.PrintResult(res, conf.CNIVersion)
		},
		Del:    func(args *skel.CmdArgs) error { return p.del(context.Background(), args) },
		Check:  func(args *skel.CmdArgs) error { return p.check(context.Background(), args) },
		GC:     func(args *skel.CmdArgs) error { return p.gc(context.Background(), args) },
		Status: func(args *skel.CmdArgs) error { return p.status(context.Background(), args) },
	}
	if err := skel.PluginMainFuncsWithError(funcs, version.All, "CNI plugin mini: the pod network of mini"); err != nil {
		if printErr := err.Print(); printErr != nil {
			fmt.Fprintln(os.Stderr, printErr)
		}
		return 1
	}
	return 0
}

// plugin answers the CNI commands. In a process of its own it has no attacher and makes one.
type plugin struct {
	dataDir string // used if the configuration names none
	attach  *attacher
}

type pluginConf struct {
	types.NetConf
	DataDir       string `json:"dataDir"`
	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
	} `json:"runtimeConfig"`
}

// open reads the configuration and what Run left for us.
func (p plugin) open(args *skel.CmdArgs) (pluginConf, *attacher, error) {
	var conf pluginConf
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return conf, nil, types.NewError(types.ErrDecodingFailure, "cannot read the network configuration", err.Error())
	}
	if conf.DataDir == "" {
		conf.DataDir = p.dataDir
	}
	if conf.DataDir == "" {
		return conf, nil, types.NewError(types.ErrInvalidNetworkConfig, "dataDir is missing", "")
	}
	if p.attach != nil && conf.DataDir == p.dataDir {
		return conf, p.attach, nil
	}
	dir := conf.DataDir
	return conf, &attacher{leases: leaseFile{dir}, ports: func(ctx context.Context, ls []lease) error {
		return setPortsOnce(ctx, dir, ls)
	}}, nil
}

// readNetwork reads what Run left for the plugin.
func readNetwork(dataDir string) (network, error) {
	var n network
	data, err := os.ReadFile(networkPath(dataDir))
	if err != nil {
		return n, fmt.Errorf("the node's network is not set up: %w", err)
	}
	if err := json.Unmarshal(data, &n); err != nil {
		return n, fmt.Errorf("the node's network is not set up: %w", err)
	}
	return n, nil
}

// setPortsOnce sets the rules in a plugin process.
func setPortsOnce(ctx context.Context, dataDir string, ls []lease) error {
	n, err := readNetwork(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Run sets the rules from all leases when it starts
	}
	if err != nil {
		return err
	}
	cmd, err := iptables.Find("")
	if err != nil {
		return err
	}
	table := iptables.NewTable(iptables.Config{Command: cmd, Prefix: chainPrefix, Anchors: anchors})
	_, err = table.Set(ctx, chains(n, ls, cmd.Masquerade()))
	return err
}

// podArgs is what runtimes pass in CNI_ARGS; see libcni's conventions.
func podArgs(args string) (namespace, name, uid string) {
	for pair := range strings.SplitSeq(args, ";") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "K8S_POD_NAMESPACE":
			namespace = value
		case "K8S_POD_NAME":
			name = value
		case "K8S_POD_UID":
			uid = value
		}
	}
	return namespace, name, uid
}

func (p plugin) add(ctx context.Context, args *skel.CmdArgs) (*types100.Result, pluginConf, error) {
	conf, a, err := p.open(args)
	if err != nil {
		return nil, conf, err
	}
	n, err := readNetwork(conf.DataDir)
	if err != nil {
		return nil, conf, types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	pod := Pod{SandboxID: args.ContainerID, NetNS: args.Netns}
	pod.Namespace, pod.Name, pod.UID = podArgs(args.Args)
	for _, m := range conf.RuntimeConfig.PortMappings {
		pod.Ports = append(pod.Ports, PortMapping{
			HostIP: m.HostIP, HostPort: m.HostPort, ContainerPort: m.ContainerPort, Protocol: m.Protocol,
		})
	}
	if err := validPorts(pod.Ports); err != nil {
		return nil, conf, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	l, err := a.add(ctx, n.Segment, args.IfName, pod)
	if err != nil {
		return nil, conf, err
	}
	index := 2
	return &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: n.Segment.Bridge},
			{Name: linkName(l.SandboxID, l.IfName)},
			{Name: l.IfName, Mac: hardwareAddr(l.IP).String(), Sandbox: args.Netns, Mtu: n.Segment.MTU},
		},
		IPs: []*types100.IPConfig{{
			Interface: &index,
			Address:   *ipNet(netip.PrefixFrom(l.IP, n.Segment.PodCIDR.Bits())),
			Gateway:   gateway(n.Segment.PodCIDR).AsSlice(),
		}},
		Routes: []*types.Route{{
			Dst: net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, GW: gateway(n.Segment.PodCIDR).AsSlice(),
		}},
		DNS: conf.DNS,
	}, conf, nil
}

func (p plugin) del(ctx context.Context, args *skel.CmdArgs) error {
	_, a, err := p.open(args)
	if err != nil {
		return err
	}
	return a.del(ctx, args.ContainerID, args.IfName)
}

func (p plugin) check(_ context.Context, args *skel.CmdArgs) error {
	conf, a, err := p.open(args)
	if err != nil {
		return err
	}
	n, err := readNetwork(conf.DataDir)
	if err != nil {
		return types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	return a.check(n.Segment, args.ContainerID, args.IfName)
}

func (p plugin) gc(ctx context.Context, args *skel.CmdArgs) error {
	conf, a, err := p.open(args)
	if err != nil {
		return err
	}
	valid := map[types.GCAttachment]bool{}
	for _, v := range conf.ValidAttachments {
		valid[v] = true
	}
	return a.prune(ctx, func(l lease) bool {
		return valid[types.GCAttachment{ContainerID: l.SandboxID, IfName: l.IfName}]
	})
}

// statusNotReady is the CNI error code for a plugin that cannot serve ADD requests.
const statusNotReady = 50

func (p plugin) status(_ context.Context, args *skel.CmdArgs) error {
	conf, _, err := p.open(args)
	if err != nil {
		return err
	}
	n, err := readNetwork(conf.DataDir)
	if err != nil {
		return types.NewError(statusNotReady, err.Error(), "")
	}
	if link, err := netlink.LinkByName(n.Segment.Bridge); err != nil || link.Attrs().Flags&net.FlagUp == 0 {
		return types.NewError(statusNotReady, fmt.Sprintf("bridge %s is not up", n.Segment.Bridge), "")
	}
	return nil
}

// pluginExec lets libcni call our plugin inside this process, and all others as programs.
type pluginExec struct {
	invoke.RawExec
	*version.PluginDecoder
	plugin plugin
}

var _ invoke.Exec = pluginExec{}

// inProcess stands for a path: no file has such a name.
const inProcess = "/in-process/" + PluginType

func (e pluginExec) FindInPath(name string, paths []string) (string, error) {
	if name == PluginType {
		return inProcess, nil
	}
	return e.RawExec.FindInPath(name, paths)
}

func (e pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	if path != inProcess {
		return e.RawExec.ExecPlugin(ctx, path, stdin, environ)
	}
	env := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	args := &skel.CmdArgs{
		ContainerID: env["CNI_CONTAINERID"], Netns: env["CNI_NETNS"], IfName: env["CNI_IFNAME"], Args: env["CNI_ARGS"],
		Path: env["CNI_PATH"], StdinData: stdin,
	}
	switch env["CNI_COMMAND"] {
	case "ADD":
		res, conf, err := e.plugin.add(ctx, args)
		if err != nil {
			return nil, err
		}
		out, err := res.GetAsVersion(conf.CNIVersion)
		if err != nil {
			return nil, fmt.Errorf("give the result as version %s: %w", conf.CNIVersion, err)
		}
		return json.Marshal(out)
	case "DEL":
		return nil, e.plugin.del(ctx, args)
	case "CHECK":
		return nil, e.plugin.check(ctx, args)
	case "GC":
		return nil, e.plugin.gc(ctx, args)
	case "STATUS":
		return nil, e.plugin.status(ctx, args)
	case "VERSION":
		return json.Marshal(version.All)
	}
	return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "unknown CNI_COMMAND "+env["CNI_COMMAND"], "")
}
