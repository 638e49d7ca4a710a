// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	_ "github.com/containerd/containerd/v2/core/runtime/v2"
	_ "github.com/containerd/containerd/v2/plugins/content/local/plugin"
	_ "github.com/containerd/containerd/v2/plugins/diff/walking/plugin"
	_ "github.com/containerd/containerd/v2/plugins/events"
	_ "github.com/containerd/containerd/v2/plugins/gc"
	_ "github.com/containerd/containerd/v2/plugins/leases"
	_ "github.com/containerd/containerd/v2/plugins/metadata"
	_ "github.com/containerd/containerd/v2/plugins/services/containers"
	_ "github.com/containerd/containerd/v2/plugins/services/content"
	_ "github.com/containerd/containerd/v2/plugins/services/diff"
	_ "github.com/containerd/containerd/v2/plugins/services/events"
	_ "github.com/containerd/containerd/v2/plugins/services/images"
	_ "github.com/containerd/containerd/v2/plugins/services/introspection"
	_ "github.com/containerd/containerd/v2/plugins/services/leases"
	_ "github.com/containerd/containerd/v2/plugins/services/namespaces"
	_ "github.com/containerd/containerd/v2/plugins/services/sandbox"
	_ "github.com/containerd/containerd/v2/plugins/services/snapshots"
	_ "github.com/containerd/containerd/v2/plugins/services/tasks"
	_ "github.com/containerd/containerd/v2/plugins/services/version"
	_ "github.com/containerd/containerd/v2/plugins/services/warning"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/native/plugin"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/overlay/plugin"
)

// enginePlugins are the parts of containerd that a node runs. containerd's registry is global to the process and may hold
// more than these; what is not named here is not started.
var enginePlugins = map[plugin.Type][]string{
	plugins.ContentPlugin:      {"content"},
	plugins.DiffPlugin:         {"walking"},
	plugins.EventPlugin:        {"exchange"},
	plugins.GCPlugin:           {"scheduler"},
	plugins.LeasePlugin:        {"manager"},
	plugins.MetadataPlugin:     {"bolt"},
	plugins.RuntimePluginV2:    {"task"},
	plugins.SandboxStorePlugin: {"local"},
	plugins.ShimPlugin:         {"manager"},
	plugins.SnapshotPlugin:     {"native", "overlayfs"},
	plugins.WarningPlugin:      {plugins.DeprecationsPlugin},
	plugins.ServicePlugin: {"containers-service", "content-service", "diff-service", "images-service",
		"introspection-service", "namespaces-service", "snapshots-service", "tasks-service"},
	// These answer on the socket: the events of the shims, and ctr and nerdctl.
	plugins.GRPCPlugin: {"containers", "content", "diff", "events", "images", "introspection", "leases", "namespaces",
		"sandboxes", "snapshots", "tasks", "version"},
}

// engine is containerd inside this process.
type engine struct {
	client      *containerd.Client
	snapshotter string
	bundles     string // folder of the OCI bundles of namespace k8s.io
	exits       map[string]exitRecord
	stores      *stores
	state       string
	set         *plugin.Set
	grpc        *grpc.Server
	ttrpc       *ttrpc.Server
}

// engineConfig says where an engine keeps itself.
type engineConfig struct {
	root      string // survives a reboot
	state     string // of what runs
	socketDir string // short, see socketDir
	mounts    string // of images, for a moment
	overlay   []string
	log       *slog.Logger
}

// quiet keeps containerd's own logger, which is global and which only some of its parts use, from writing what is of no use
// to anybody to stderr.
var quiet = sync.OnceFunc(func() { _ = log.SetLevel("error") })

// startEngine brings containerd up and takes over the shims that run already. ctx must last as long as the engine: its
// background work ends with it, and Close releases the rest.
func startEngine(ctx context.Context, cfg engineConfig) (_ *engine, err error) {
	for _, dir := range []string{cfg.root, cfg.socketDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := mountState(cfg.state, cfg.log); err != nil {
		return nil, err
	}
	db, err := openStores(cfg.root, cfg.log)
	if err != nil {
		return nil, fmt.Errorf("containerd's databases: %w", err)
	}
	quiet()
	// Like containerd's daemon: what it mounts for a moment must be found after a crash. The place is global to the process.
	if err := mount.SetTempMountLocation(cfg.mounts); err != nil {
		return nil, err
	}
	e := &engine{
		set:     plugin.NewPluginSet(),
		stores:  db,
		state:   cfg.state,
		bundles: filepath.Join(cfg.state, string(plugins.RuntimePluginV2)+".task", namespace),
	}
	// containerd forgets the exits of containers that ended while nobody listened; the shims wrote them down.
	e.exits = readExits(e.bundles)
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close(false))
		}
	}()
	grpcAddress := filepath.Join(cfg.socketDir, "containerd.sock")
	properties := func(uri string) map[string]string {
		return map[string]string{
			plugins.PropertyRootDir:      filepath.Join(cfg.root, uri),
			plugins.PropertyStateDir:     filepath.Join(cfg.state, uri),
			plugins.PropertyGRPCAddress:  grpcAddress,
			plugins.PropertyTTRPCAddress: grpcAddress + ".ttrpc",
		}
	}
	settings := map[string]map[string]any{
		string(plugins.ShimPlugin) + ".manager":  {"SocketDir": cfg.socketDir},
		string(plugins.MetadataPlugin) + ".bolt": {"NoSync": true}, // see stores
	}
	ctx = engineContext(ctx, cfg.log)
	unwanted := func(r *plugin.Registration) bool { return !slices.Contains(enginePlugins[r.Type], r.ID) }
	for _, reg := range registry.Graph(unwanted) {
		ic := plugin.NewContext(ctx, e.set, properties(reg.URI()))
		if ic.Config, err = configure(reg.Config, settings[reg.URI()]); err != nil {
			return nil, fmt.Errorf("configure containerd plugin %s: %w", reg.URI(), err)
		}
		if reg.Type == plugins.SnapshotPlugin && reg.ID == "overlayfs" {
			reg.InitFn = db.overlayPlugin(cfg.overlay)
		}
		p := reg.Init(ic)
		if err := e.set.Add(p); err != nil {
			return nil, err
		}
		// A snapshotter that this kernel or file system cannot carry is left out; all else must work.
		if err := p.Err(); err != nil && reg.Type != plugins.SnapshotPlugin {
			return nil, fmt.Errorf("start containerd plugin %s: %w", reg.URI(), err)
		}
	}
	// Nobody else has these databases open, so no mount is in use.
	for _, name := range readDir(cfg.mounts) {
		at := filepath.Join(cfg.mounts, name)
		if err := errors.Join(mount.UnmountAll(at, unix.MNT_DETACH), os.Remove(at)); err != nil {
			cfg.log.Warn("could not remove a mount that a crash left", "err", err)
		}
	}
	if err := e.choose(ctx, cfg); err != nil {
		return nil, err
	}
	services, err := inMemory(plugin.NewContext(ctx, e.set, properties("mini")))
	if err != nil {
		return nil, err
	}
	e.client, err = containerd.New("", containerd.WithServices(services...), containerd.WithDefaultNamespace(namespace))
	if err != nil {
		return nil, err
	}
	return e, e.serve(grpcAddress, cfg.log)
}

// inMemory gives a client what enginePlugins offer. containerd.WithInMemoryServices wants a mount manager and a transfer
// service as well, which nothing here uses; the former brings text/template, and with it a fifth of the binary: the linker
// keeps every method of every type where a template might call it.
func inMemory(ic *plugin.InitContext) ([]containerd.ServicesOpt, error) {
	o := offers{plugins: ic}
	offer(&o, plugins.EventPlugin, "exchange", containerd.WithEventService)
	offer(&o, plugins.LeasePlugin, "manager", containerd.WithLeasesService)
	offer(&o, plugins.SandboxStorePlugin, "local", containerd.WithSandboxStore)
	offer(&o, plugins.ServicePlugin, "content-service", containerd.WithContentStore)
	offer(&o, plugins.ServicePlugin, "images-service", containerd.WithImageClient)
	offer(&o, plugins.ServicePlugin, "snapshots-service", containerd.WithSnapshotters)
	offer(&o, plugins.ServicePlugin, "containers-service", containerd.WithContainerClient)
	offer(&o, plugins.ServicePlugin, "tasks-service", containerd.WithTaskClient)
	offer(&o, plugins.ServicePlugin, "diff-service", containerd.WithDiffClient)
	offer(&o, plugins.ServicePlugin, "namespaces-service", containerd.WithNamespaceClient)
	offer(&o, plugins.ServicePlugin, "introspection-service", containerd.WithIntrospectionService)
	return o.list, errors.Join(o.errs...)
}

type offers struct {
	plugins *plugin.InitContext
	list    []containerd.ServicesOpt
	errs    []error
}

func offer[T any](o *offers, t plugin.Type, id string, option func(T) containerd.ServicesOpt) {
	service, err := o.plugins.GetByID(t, id)
	if err != nil {
		o.errs = append(o.errs, fmt.Errorf("containerd plugin %s.%s: %w", t, id, err))
		return
	}
	o.list = append(o.list, option(service.(T)))
}

// choose takes the best snapshotter that works here.
func (e *engine) choose(ctx context.Context, cfg engineConfig) error {
	for _, name := range []string{"overlayfs", "native"} {
		if p := e.set.Get(plugins.SnapshotPlugin, name); p != nil && p.Err() == nil {
			e.snapshotter = name
			break
		}
	}
	if e.snapshotter == "" {
		return errors.New("start containerd: neither the overlayfs nor the native snapshotter works in " + cfg.root)
	}
	if e.snapshotter == "native" {
		cfg.log.Warn("overlayfs does not work here: every container gets a full copy of its image", "dir", cfg.root)
	}
	mdb, err := e.set.Get(plugins.MetadataPlugin, "bolt").Instance()
	if err != nil {
		return err
	}
	e.stores.metadata = mdb.(*metadata.DB)
	if !e.stores.restored {
		return nil
	}
	// The database that is back hands out again the numbers of snapshots that it does not know.
	sn, err := e.set.Get(plugins.SnapshotPlugin, e.snapshotter).Instance()
	if err != nil {
		return err
	}
	c, ok := sn.(snapshots.Cleaner)
	if !ok {
		return nil
	}
	if err := c.Cleanup(ctx); err != nil && !errdefs.IsNotFound(err) { // an empty database has not even its tables
		return err
	}
	return nil
}

// configure gives a plugin a configuration of its own: the one in the registry is shared by every engine in the process.
func configure(registered any, settings map[string]any) (any, error) {
	if registered == nil {
		return nil, nil
	}
	own := reflect.New(reflect.TypeOf(registered).Elem())
	own.Elem().Set(reflect.ValueOf(registered).Elem())
	for name, value := range settings {
		field := own.Elem().FieldByName(name)
		if !field.IsValid() || !reflect.TypeOf(value).AssignableTo(field.Type()) {
			return nil, fmt.Errorf("no setting %s of type %T", name, value)
		}
		field.Set(reflect.ValueOf(value))
	}
	return own.Interface(), nil
}

// serve answers on the sockets: the shims publish their events over ttrpc, and ctr and nerdctl speak gRPC.
func (e *engine) serve(address string, logger *slog.Logger) error {
	namespaced := func(ctx context.Context) context.Context {
		if ns, ok := namespaces.Namespace(ctx); ok {
			return namespaces.WithNamespace(ctx, ns) // also for calls that this one makes
		}
		return ctx
	}
	e.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(16<<20), grpc.MaxSendMsgSize(16<<20),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			return next(namespaced(ctx), req)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, namespacedStream{s, namespaced(s.Context())})
		}))
	var err error
	if e.ttrpc, err = ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser())); err != nil {
		return err
	}
	for _, p := range e.set.GetAll() {
		if p.Registration.Type != plugins.GRPCPlugin {
			continue
		}
		instance, err := p.Instance()
		if err != nil {
			return err
		}
		if s, ok := instance.(interface{ Register(*grpc.Server) error }); ok {
			if err := s.Register(e.grpc); err != nil {
				return err
			}
		}
		if s, ok := instance.(interface{ RegisterTTRPC(*ttrpc.Server) error }); ok {
			if err := s.RegisterTTRPC(e.ttrpc); err != nil {
				return err
			}
		}
	}
	for path, serve := range map[string]func(net.Listener) error{
		address:            e.grpc.Serve,
		address + ".ttrpc": func(l net.Listener) error { return e.ttrpc.Serve(context.Background(), l) },
	} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		if err := os.Chmod(path, 0o600); err != nil {
			l.Close()
			return err
		}
		go func() {
			if err := serve(l); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, ttrpc.ErrServerClosed) {
				logger.Error("containerd's socket failed: exits of containers go unnoticed", "socket", path, "err", err)
			}
		}()
	}
	return nil
}

// namespacedStream is a stream with another context.
type namespacedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s namespacedStream) Context() context.Context { return s.ctx }

// Close lets go of files and sockets. Shims and containers run on; empty says that there are none. The connections to the shims stay open as long as the
// process: containerd takes the end of one for the death of its shim, and would kill what that holds.
func (e *engine) Close(empty bool) error {
	if e.grpc != nil {
		e.grpc.Stop()
	}
	var errs []error
	if e.ttrpc != nil {
		errs = append(errs, e.ttrpc.Close())
	}
	for _, p := range slices.Backward(e.set.GetAll()) {
		if instance, err := p.Instance(); err == nil {
			if c, ok := instance.(io.Closer); ok {
				errs = append(errs, c.Close())
			}
		}
	}
	if empty {
		errs = append(errs, unmountState(e.state))
	}
	return errors.Join(errs...)
}

// engineContext carries our logger into containerd. What it says at Info level is of use only to its developers.
func engineContext(ctx context.Context, logger *slog.Logger) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.WarnLevel)
	l.AddHook(logHook{logger})
	return log.WithLogger(namespaces.WithNamespace(ctx, namespace), logrus.NewEntry(l))
}

type logHook struct{ *slog.Logger }

func (logHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h logHook) Fire(e *logrus.Entry) error {
	attrs := make([]any, 0, 2*len(e.Data))
	for k, v := range e.Data {
		if k == logrus.ErrorKey {
			k = "err"
		}
		attrs = append(attrs, k, v)
	}
	level := slog.LevelDebug
	if e.Level <= logrus.ErrorLevel {
		level = slog.LevelWarn
	}
	h.Log(context.Background(), level, "containerd: "+e.Message, attrs...)
	return nil
}

// shimSocketNames is the length of "/" and the hash that shims name their sockets by.
const shimSocketNames = 65

// socketLinks is the folder of the links that make long paths short.
const socketLinks = "/run/mini"

// socketDir gives a folder for sockets whose paths fit into the 107 bytes that Linux allows: dir itself if that is short
// enough, else a link to it in /run/mini, named by dir's hash so that several nodes do not meet.
func socketDir(dir string) (string, error) {
	const limit = len(unix.RawSockaddrUnix{}.Path) - 1 - shimSocketNames
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if len(dir) <= limit {
		return dir, nil
	}
	link := fmt.Sprintf("%s/%x", socketLinks, sha256.Sum256([]byte(dir)))[:len(socketLinks)+1+16]
	if err := os.MkdirAll(socketLinks, 0o711); err != nil {
		return "", err
	}
	for _, e := range readDir(socketLinks) { // of nodes whose data dir was removed
		if _, err := os.Stat(filepath.Join(socketLinks, e)); errors.Is(err, fs.ErrNotExist) {
			os.Remove(filepath.Join(socketLinks, e))
		}
	}
	if to, err := os.Readlink(link); err == nil && to == dir {
		return link, nil
	}
	next := fmt.Sprintf("%s.%d", link, os.Getpid())
	if err := os.Symlink(dir, next); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return link, os.Rename(next, link)
}

// overlayOptions are for the root file systems of containers. A container's writes need not survive a power failure: it
// is made anew then. "volatile" says so to the kernel, which otherwise writes all of them to disk before an unmount.
func overlayOptions() []string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return nil
	}
	if major > 5 || major == 5 && minor >= 10 {
		return []string{"volatile"}
	}
	return nil
}

// trimScheme takes unix:// off an address.
func trimScheme(address string) string { return strings.TrimPrefix(address, "unix://") }
