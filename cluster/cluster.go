package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mini-k8s/mini/internal/netns"
)

// DefaultDir holds the clusters that `mini cluster` makes.
const DefaultDir = "/var/lib/mini-clusters"

// Errors that callers tell apart.
var (
	ErrExists   = errors.New("cluster exists already")
	ErrNotFound = errors.New("no such cluster")
)

// Options describe a new cluster.
type Options struct {
	Name    string
	Agents  int
	Publish []Publish
	Images  []string // archives that every node imports at its start

	Dir    string // where clusters are kept; DefaultDir if empty
	Binary string // the mini to run; this program if empty
	// Subnet of the nodes; 172.31.250.0/24 if empty. Clusters may share it: no two of them ever meet.
	Subnet netip.Prefix
	// Routed puts every node on a subnet of its own, with a router between them.
	Routed bool
	// ServerArgs and NodeArgs are further flags for the server and for every node.
	ServerArgs, NodeArgs []string
	Env                  []string // added to the nodes' environment
	Logger               *slog.Logger
}

// Publish forwards 127.0.0.1:HostPort of the machine to a NodePort of the server's node.
type Publish struct {
	HostPort int `json:"hostPort"`
	NodePort int `json:"nodePort"`
}

// ParsePublish reads HOSTPORT:NODEPORT.
func ParsePublish(s string) (Publish, error) {
	host, node, ok := strings.Cut(s, ":")
	h, herr := strconv.ParseUint(host, 10, 16)
	n, nerr := strconv.ParseUint(node, 10, 16)
	if !ok || herr != nil || nerr != nil || h == 0 || n == 0 {
		return Publish{}, fmt.Errorf("%q is not HOSTPORT:NODEPORT with two ports from 1 to 65535, such as 8080:30080", s)
	}
	return Publish{HostPort: int(h), NodePort: int(n)}, nil
}

// Node is one node of a cluster.
type Node struct {
	Name   string     `json:"name"`
	IP     netip.Addr `json:"ip"`
	Server bool       `json:"server"`
	PID    int        `json:"pid,omitempty"` // of its mini, 0 if it was never started
	// StartTicks is the process's start time as /proc tells it, so that a reused pid is never taken for the node.
	StartTicks uint64 `json:"startTicks,omitempty"`
}

// Cluster is one throwaway cluster; its fields are what cluster.json keeps.
type Cluster struct {
	Name       string    `json:"name"`
	Binary     string    `json:"binary"`
	APIPort    int       `json:"apiPort"`
	Subnet     string    `json:"subnet"`
	Routed     bool      `json:"routed,omitempty"`
	Publish    []Publish `json:"publish,omitempty"`
	Nodes      []*Node   `json:"nodes"`
	ServerArgs []string  `json:"serverArgs,omitempty"`
	NodeArgs   []string  `json:"nodeArgs,omitempty"`
	Env        []string  `json:"env,omitempty"`
	Created    time.Time `json:"created"`

	dir string
	log *slog.Logger
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// Create makes the cluster and starts its nodes; WaitReady waits for them. On error nothing of it is left.
func Create(ctx context.Context, o Options) (_ *Cluster, err error) {
	c, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if err := c.claim(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			err = errors.Join(err, c.Delete(clean))
		}
	}()
	if err := c.makeNetwork(); err != nil {
		return nil, err
	}
	if err := c.writeResolvConf(); err != nil {
		return nil, err
	}
	if err := c.placeImages(o.Images); err != nil {
		return nil, err
	}
	if err := c.Start(ctx, c.Nodes[0].Name); err != nil {
		return nil, err
	}
	for _, n := range c.Nodes[1:] {
		if err := c.Start(ctx, n.Name); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// prepare checks the options and lays the cluster out on paper.
func prepare(o Options) (*Cluster, error) {
	if !nameRE.MatchString(o.Name) {
		return nil, fmt.Errorf("cluster name %q: want 1 to 40 lower case letters, digits and dashes, such as dev-1", o.Name)
	}
	if o.Agents < 0 || o.Agents > 100 {
		return nil, fmt.Errorf("%d agents: want 0 to 100", o.Agents)
	}
	if o.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		o.Binary = self
	}
	if !o.Subnet.IsValid() {
		o.Subnet = netip.MustParsePrefix("172.31.250.0/24")
	}
	c := &Cluster{
		Name: o.Name, Binary: o.Binary, Subnet: o.Subnet.Masked().String(), Routed: o.Routed, Publish: o.Publish,
		ServerArgs: o.ServerArgs, NodeArgs: o.NodeArgs, Env: o.Env, Created: time.Now().UTC(),
		dir: filepath.Join(dirOr(o.Dir), o.Name), log: loggerOr(o.Logger),
	}
	ip := o.Subnet.Masked().Addr().Next()
	c.Nodes = append(c.Nodes, &Node{Name: "server", IP: ip, Server: true})
	for i := range o.Agents {
		ip = ip.Next()
		c.Nodes = append(c.Nodes, &Node{Name: "agent-" + strconv.Itoa(i+1), IP: ip})
	}
	if !o.Subnet.Contains(ip) {
		return nil, fmt.Errorf("subnet %s is too small for %d nodes", o.Subnet, len(c.Nodes))
	}
	return c, nil
}

// claim makes the cluster's directory and its cluster.json, which must not exist yet.
func (c *Cluster) claim() error {
	if err := os.MkdirAll(filepath.Dir(c.dir), 0o755); err != nil {
		return fmt.Errorf("create cluster %s: %w", c.Name, err)
	}
	if err := os.Mkdir(c.dir, 0o700); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cluster %s: %w; `mini cluster delete %s` removes it", c.Name, ErrExists, c.Name)
	} else if err != nil {
		return fmt.Errorf("create cluster %s: %w", c.Name, err)
	}
	port, err := freePort()
	if err != nil {
		return errors.Join(err, os.Remove(c.dir))
	}
	c.APIPort = port
	return c.save()
}

// freePort asks the kernel for a port of 127.0.0.1 that nobody has.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (c *Cluster) save() error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode cluster %s: %w", c.Name, err)
	}
	tmp := filepath.Join(c.dir, ".cluster.json")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("save cluster %s: %w", c.Name, err)
	}
	if err := os.Rename(tmp, filepath.Join(c.dir, "cluster.json")); err != nil {
		return fmt.Errorf("save cluster %s: %w", c.Name, err)
	}
	return nil
}

// Open finds an existing cluster. dir may be empty for DefaultDir.
func Open(dir, name string, log *slog.Logger) (*Cluster, error) {
	if !nameRE.MatchString(name) {
		return nil, fmt.Errorf("cluster %q: %w", name, ErrNotFound)
	}
	c := &Cluster{Name: name, dir: filepath.Join(dirOr(dir), name), log: loggerOr(log)}
	b, err := os.ReadFile(filepath.Join(c.dir, "cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Stat(c.dir); serr == nil {
			return c, nil // a crash between two lines of claim: nothing more to it than the directory
		}
		return nil, fmt.Errorf("cluster %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open cluster %s: %w", name, err)
	}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("open cluster %s: cluster.json: %w", name, err)
	}
	return c, nil
}

// List returns the clusters of dir (DefaultDir if empty) by name.
func List(dir string, log *slog.Logger) ([]*Cluster, error) {
	entries, err := os.ReadDir(dirOr(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	var all []*Cluster
	for _, e := range entries {
		c, err := Open(dir, e.Name(), log)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, nil
}

// Dir is the cluster's own directory.
func (c *Cluster) Dir() string { return c.dir }

// Node finds a node by name.
func (c *Cluster) Node(name string) (*Node, error) {
	var names []string
	for _, n := range c.Nodes {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return nil, fmt.Errorf("cluster %s has no node %q, only %s", c.Name, name, strings.Join(names, ", "))
}

// DataDir is the data dir of a node.
func (c *Cluster) DataDir(node string) string { return filepath.Join(c.dir, node) }

// LogFile is where a node's mini writes its log.
func (c *Cluster) LogFile(node string) string { return filepath.Join(c.dir, node+".log") }

// NetNS is the path of a node's network namespace.
func (c *Cluster) NetNS(node string) string { return filepath.Join(c.dir, "netns", node) }

// CgroupRoot is the cgroup of a node, as a path below each hierarchy.
func (c *Cluster) CgroupRoot(node string) string { return "/mini-" + c.Name + "/" + node }

// Kubeconfig is the cluster-admin kubeconfig for use on the machine.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// Do runs fn inside a node's network namespace.
func (c *Cluster) Do(node string, fn func() error) error { return netns.Do(c.NetNS(node), fn) }

// StartCommand starts a command inside a node's network namespace, with the cluster's DNS as its resolver: /etc/resolv.conf
// is another file for it and what it starts, and for nobody else.
func (c *Cluster) StartCommand(node string, cmd *exec.Cmd) error {
	return c.Do(node, func() error {
		// The thread that Do gives us ends with it, and its mount namespace then belongs to the command alone.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("keep mounts to ourselves: %w", err)
		}
		target, err := filepath.EvalSymlinks("/etc/resolv.conf")
		if err == nil {
			err = unix.Mount(c.resolvConf(), target, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("use the cluster's DNS: %w", err)
		}
		return cmd.Start()
	})
}

func (c *Cluster) resolvConf() string { return filepath.Join(c.dir, "resolv.conf") }

// writeResolvConf writes the resolver configuration for commands in a node, as a pod of namespace default would have it.
func (c *Cluster) writeResolvConf() error {
	conf := "nameserver 10.43.0.10\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
	if err := os.WriteFile(c.resolvConf(), []byte(conf), 0o644); err != nil {
		return fmt.Errorf("create cluster %s: %w", c.Name, err)
	}
	return nil
}

// Running says whether the node's mini process is alive.
func (n *Node) Running() bool {
	ticks, err := startTicks(n.PID)
	return err == nil && ticks == n.StartTicks
}

// startTicks reads when a process started, in clock ticks since boot (proc(5), field 22 of stat). A zombie counts as gone,
// and so does a process that is just being reaped.
func startTicks(pid int) (uint64, error) {
	if pid <= 0 {
		return 0, syscall.ESRCH
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0, syscall.ESRCH
	}
	return strconv.ParseUint(f[19], 10, 64)
}

func dirOr(dir string) string {
	if dir == "" {
		return DefaultDir
	}
	return dir
}

func loggerOr(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
