package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"expvar"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// member is the embedded etcd: the server without its listeners. Calls go to the functions behind its gRPC API.
type member struct {
	etcdserverpb.KVServer
	etcdserverpb.LeaseServer

	log    *slog.Logger
	server *etcdserver.EtcdServer
	fatal  <-chan error
	lock   *os.File
	socket *grpc.Server // nil if nobody is served

	// acked is the newest revision that a writer was told of. Asking the server instead would wait for the fsync of its
	// database.
	acked atomic.Int64
}

var _ etcd = (*member)(nil)

// startMember starts etcd in cfg.DataDir and returns when it leads and has applied its log.
func startMember(ctx context.Context, cfg Config) (_ *member, retErr error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockDir(ctx, cfg.DataDir, cfg.Logger)
	if err != nil {
		return nil, err
	}
	name, err := memberName(filepath.Join(cfg.DataDir, "name"))
	if err != nil {
		lock.Close()
		return nil, err
	}
	fatal := make(chan error, 1)
	done, err := beginFirst(cfg.DataDir, cfg.Logger)
	if err != nil {
		lock.Close()
		return nil, err
	}
	starting.Lock()
	defer starting.Unlock()
	srv, err := newServer(memberConfig(cfg, name, fatal), fatal)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("opening etcd in %s: %w", cfg.DataDir, err)
	}
	srv.Start()
	m := &member{
		KVServer:    v3rpc.NewQuotaKVServer(srv),
		LeaseServer: v3rpc.NewQuotaLeaseServer(srv),
		log:         cfg.Logger,
		server:      srv,
		fatal:       fatal,
		lock:        lock,
	}
	defer func() {
		if retErr != nil {
			m.close()
		}
	}()
	if err := m.elect(ctx); err != nil {
		return nil, err
	}
	select {
	case <-srv.ReadyNotify():
	case err := <-fatal:
		return nil, fmt.Errorf("etcd: %w", err)
	case <-srv.StopNotify():
		return nil, errors.New("etcd stopped while starting")
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for etcd to start: %w", context.Cause(ctx))
	}
	if err := done(); err != nil {
		return nil, err
	}
	m.acked.Store(srv.KV().Rev())
	m.shrink()
	if cfg.Socket != "" {
		if err := m.serve(cfg.Socket); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// newServer keeps what etcd would end the process for, which ends the goroutine that says it, away from the caller's.
func newServer(cfg config.ServerConfig, fatal <-chan error) (srv *etcdserver.EtcdServer, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv, err = etcdserver.NewServer(cfg)
	}()
	<-done
	if srv == nil && err == nil {
		err = <-fatal
	}
	return srv, err
}

// memberConfig is etcd's configuration for a member that only this process talks to.
//
// The member's identity is its name, made once and kept in the data dir: etcd hashes the first peer URL into the
// member's id, and this URL is made of the name rather than of an address, so that addresses may come and go.
func memberConfig(cfg Config, name string, fatal chan<- error) config.ServerConfig {
	peer := types.URLs{url.URL{Scheme: "unix", Host: name}}
	log := etcdLogger(cfg.Logger, fatal)
	gate := features.NewDefaultServerFeatureGate(name, log).(featuregate.MutableFeatureGate)
	// Without checkpoints a restart renews every lease, and Events live for as long as mini is restarted once an hour.
	if err := gate.SetFromMap(map[string]bool{
		string(features.LeaseCheckpoint):        true,
		string(features.LeaseCheckpointPersist): true,
	}); err != nil {
		panic(err) // a gate etcd does not know: a mistake in this file
	}
	return config.ServerConfig{
		Name:                name,
		ClientURLs:          peer,
		PeerURLs:            peer,
		DataDir:             cfg.DataDir,
		InitialPeerURLsMap:  types.URLsMap{name: peer},
		InitialClusterToken: "mini",
		NewCluster:          true,
		Logger:              log,
		ServerFeatureGate:   gate,
		V2Deprecation:       config.V2DeprDefault,

		// A single member has nobody to send heartbeats to, elect makes it leader without a timeout, and each tick is a
		// wake-up of an idle process.
		TickMs:        1000,
		ElectionTicks: 5,
		PreVote:       true,

		// The log is there for followers that lag and for the replay after a crash. Nobody lags; the entries kept in
		// memory are those since the last snapshot in memory, which etcd takes every 100.
		SnapshotCount:          5000,
		SnapshotCatchUpEntries: 64,
		MaxSnapFiles:           2,
		MaxWALFiles:            2,

		// Every write is in the fsynced log before it is acknowledged; the database may follow later, and one fsync
		// a while is kinder to a slow disk than etcd's ten a second.
		BackendBatchInterval:              500 * time.Millisecond,
		BackendFreelistType:               bbolt.FreelistMapType,
		QuotaBackendBytes:                 cfg.Quota,
		BootstrapDefragThresholdMegabytes: 512,

		MaxTxnOps:                   128,
		MaxRequestBytes:             maxObjectSize + 64<<10,
		MaxConcurrentStreams:        1 << 20,
		StrictReconfigCheck:         true,
		AuthToken:                   "simple",
		BcryptCost:                  10,
		TokenTTL:                    300,
		MaxLearners:                 1,
		Metrics:                     "basic",
		WarningApplyDuration:        time.Second,
		WarningUnaryRequestDuration: time.Second,
	}
}

// lockDir takes the data dir for this process. A process that was killed keeps its locks until the last write it waits
// for is done, so that the next one has some patience; then it is told, rather than left waiting for etcd's own lock.
func lockDir(ctx context.Context, dir string, log *slog.Logger) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	start, told := time.Now(), false
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && !etcdLocksFree(dir) {
			err = unix.EWOULDBLOCK
		}
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		case time.Since(start) > lockWait || ctx.Err() != nil:
			f.Close()
			return nil, fmt.Errorf("%s is in use by another process", dir)
		case !told && time.Since(start) > time.Second:
			told = true
			log.Info("waiting for another process to leave the data dir", "dir", dir)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond): // a lock that is let go tells nobody who could also hear of ctx
		}
	}
}

// etcdLocksFree says whether etcd will get the locks it takes itself. A dying process lets them go one after the other,
// and an etcd of somebody else may be at work in a data dir that was taken over; etcd waits for ever or gives up halfway.
func etcdLocksFree(dir string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal")) // the pattern is fine
	for _, path := range files {
		l, err := fileutil.TryLockFile(path, os.O_WRONLY, 0o600)
		if errors.Is(err, fileutil.ErrLocked) {
			return false
		}
		if err == nil {
			l.Close()
		}
	}
	db, err := os.Open(filepath.Join(dir, "member", "snap", "db"))
	if err != nil {
		return true // not there yet; other errors are etcd's to tell
	}
	defer db.Close()
	return !errors.Is(unix.Flock(int(db.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

const lockWait = 3 * time.Second

// beginFirst guards the first start in a data dir. etcd that is killed before its first log entries are written leaves a
// log without members, which no later start gets out of. So a mark stands beside it until the first start is over: with
// the mark there nothing was ever acknowledged, and starting over loses nothing. The returned func takes it away.
func beginFirst(dir string, log *slog.Logger) (done func() error, _ error) {
	mark, data := filepath.Join(dir, "first-start"), filepath.Join(dir, "member")
	if _, err := os.Stat(mark); err == nil {
		log.Warn("the first start of etcd did not finish; starting over", "dir", dir)
		if err := os.RemoveAll(data); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if _, err := os.Stat(data); err == nil {
		return func() error { return nil }, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return nil, err
	}
	return func() error {
		if err := os.Remove(mark); err != nil {
			return err
		}
		// The mark must be gone for good before the first write is acknowledged.
		return syncDir(dir)
	}, syncDir(dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// memberName reads the member's name, or makes one that no other member has.
func memberName(path string) (string, error) {
	b, err := os.ReadFile(path)
	if name := strings.TrimSpace(string(b)); err == nil && name != "" {
		return name, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := make([]byte, 8)
	rand.Read(id)
	name := "mini-" + hex.EncodeToString(id)
	return name, os.WriteFile(path, []byte(name+"\n"), 0o600)
}

// starting is held while a member starts: etcd publishes the raft status of the newest member of the process only.
var starting sync.Mutex

// elect makes a single member the leader at once. Raft would wait for an election timeout in which no other leader is
// heard of; the only voter need not. The message is the one a leader sends to hand over.
//
// Raft must have applied what it has committed before: until then it looks through the log for membership changes, and
// panics where etcd, which applies in another goroutine, has dropped entries from memory already.
func (m *member) elect(ctx context.Context) error {
	id := uint64(m.server.MemberID())
	published, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return errors.New("etcd does not publish its raft status")
	}
	// There is no event to wait for, and a replay of the log takes from nothing to seconds.
	for wait := 200 * time.Microsecond; m.server.Leader() == 0; wait = min(2*wait, 10*time.Millisecond) {
		changed := m.server.LeaderChangedNotify()
		status, ok := published().(raft.Status)
		if !ok || status.ID != id {
			status = raft.Status{} // it has stopped, which fatal tells
		}
		voters := status.Config.Voters.IDs() // none as long as the entry that made this member one is not applied
		if len(voters) > 1 {
			return nil
		}
		if len(voters) == 1 && status.Applied == status.HardState.GetCommit() && status.RaftState == raft.StateFollower {
			if err := m.server.Process(ctx, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: &id, From: &id}); err != nil {
				return fmt.Errorf("electing the only member: %w", err)
			}
		}
		select {
		case <-changed:
		case <-time.After(wait):
		case err := <-m.fatal:
			return fmt.Errorf("etcd: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("electing the only member: %w", context.Cause(ctx))
		}
	}
	return nil
}

// serve answers etcd's gRPC API on a unix socket that only root may open.
func (m *member) serve(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("serving etcd on a unix socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return err
	}
	m.socket = v3rpc.Server(m.server, nil, func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req)
		if r, ok := resp.(interface {
			GetHeader() *etcdserverpb.ResponseHeader
		}); ok && err == nil {
			m.ack(r.GetHeader().GetRevision())
		}
		return resp, err
	})
	go m.socket.Serve(l)
	return nil
}

// Txn also remembers the revision that the caller is about to be told.
func (m *member) Txn(ctx context.Context, r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	resp, err := m.KVServer.Txn(ctx, r)
	if err == nil {
		m.ack(resp.Header.Revision)
	}
	return resp, err
}

func (m *member) ack(revision int64) {
	for old := m.acked.Load(); revision > old; old = m.acked.Load() {
		if m.acked.CompareAndSwap(old, revision) {
			return
		}
	}
}

// revision is the newest acknowledged one: nobody can ask to see a write that nobody was told of.
func (m *member) revision(context.Context) (int64, error) { return m.acked.Load(), nil }

// watch looks at the whole key space, so that every revision is heard of and progress needs no asking.
func (m *member) watch(ctx context.Context, after int64, deliver func(progress)) error {
	stream := m.server.Watchable().NewWatchStream()
	defer stream.Close()
	if _, err := stream.Watch(ctx, 0, []byte{0}, []byte{}, after+1); err != nil {
		return err
	}
	for {
		select {
		case r, ok := <-stream.Chan():
			switch {
			case !ok:
				return errors.New("etcd closed the watch")
			case r.CompactRevision != 0:
				return ErrCompacted
			case len(r.Events) != 0:
				deliver(progress{r.Events, r.Events[len(r.Events)-1].Kv.ModRevision})
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *member) progress(context.Context) {}

func (m *member) changes(ctx context.Context, prefix string, after, upTo int64) ([]*mvccpb.Event, error) {
	stream := m.server.Watchable().NewWatchStream()
	defer stream.Close()
	if _, err := stream.Watch(ctx, 0, []byte(prefix), []byte(prefixEnd(prefix)), after+1); err != nil {
		return nil, err
	}
	var events []*mvccpb.Event
	ask := time.NewTicker(10 * time.Millisecond) // is not answered before all is delivered
	defer ask.Stop()
	for done := false; !done; {
		select {
		case r, ok := <-stream.Chan():
			switch {
			case !ok:
				return nil, errors.New("etcd closed the watch")
			case r.CompactRevision != 0:
				return nil, rpctypes.ErrGRPCCompacted
			case len(r.Events) == 0:
				done = r.Revision >= upTo
			default:
				events = append(events, r.Events...)
				done = r.Events[len(r.Events)-1].Kv.ModRevision > upTo
			}
		case <-ask.C:
			stream.RequestProgress(0)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if len(events) > changesMax {
			return nil, rpctypes.ErrGRPCCompacted
		}
	}
	out := make([]*mvccpb.Event, 0, len(events))
	for _, e := range events {
		if e.Kv.ModRevision > upTo {
			continue
		}
		r, err := m.Range(ctx, &etcdserverpb.RangeRequest{Key: e.Kv.Key, Revision: e.Kv.ModRevision - 1, Serializable: true})
		if err != nil {
			return nil, err
		}
		// The event is shared with every other watcher.
		with := &mvccpb.Event{Type: e.Type, Kv: e.Kv}
		if len(r.Kvs) > 0 {
			with.PrevKv = r.Kvs[0]
		}
		out = append(out, with)
	}
	return out, nil
}

// shrink gives the pages of the database back to the page cache. etcd maps the file with all its pages present and reads
// it once at the start; after that only changed pages are looked at, but all of them would count as this process's memory.
func (m *member) shrink() {
	path, err := filepath.Abs(filepath.Join(m.server.Cfg.DataDir, "member", "snap", "db"))
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return // memory only
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		if !strings.HasSuffix(strings.TrimSpace(line), " "+path) {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x ", &from, &to); err == nil {
			unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}

func (m *member) healthy(ctx context.Context) error {
	if m.server.Leader() == 0 {
		return errors.New("there is no leader")
	}
	for _, a := range m.server.Alarms() {
		if a.Alarm != etcdserverpb.AlarmType_NONE {
			return fmt.Errorf("alarm %s is raised", a.Alarm)
		}
	}
	return nil
}

func (m *member) reclaim(ctx context.Context) error {
	if err := m.server.Defragment(); err != nil {
		return fmt.Errorf("defragmenting: %w", err)
	}
	if m.server.Backend().Size() >= m.server.Cfg.QuotaBackendBytes {
		return fmt.Errorf("%d bytes are in use, the quota is %d", m.server.Backend().Size(), m.server.Cfg.QuotaBackendBytes)
	}
	_, err := m.server.Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action:   etcdserverpb.AlarmRequest_DEACTIVATE,
		MemberID: uint64(m.server.MemberID()),
		Alarm:    etcdserverpb.AlarmType_NOSPACE,
	})
	return err
}

func (m *member) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-m.fatal:
		return fmt.Errorf("etcd: %w", err)
	case <-m.server.StopNotify():
		return errors.New("etcd stopped by itself")
	}
}

// close stops etcd: what was acknowledged is on disk already, this writes the rest of the database.
func (m *member) close() {
	if m.socket != nil {
		m.socket.Stop()
	}
	stopped := m.server.StopNotify()
	go m.server.HardStop()
	select {
	case <-stopped:
	case <-time.After(5 * time.Second):
		// One of its goroutines hangs in the disk, or died of what wait has reported. The lock stays: so do the others.
		m.log.Error("etcd does not stop")
		return
	}
	m.lock.Close()
}
