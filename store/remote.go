package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// remote is an etcd cluster of somebody else.
type remote struct {
	client *clientv3.Client
	kv     etcdserverpb.KVClient
	lease  etcdserverpb.LeaseClient

	watchCtx context.Context // of the running watch: progress has to be asked for on its stream
	cancel   context.CancelFunc

	mu    sync.Mutex
	asked time.Time // when progress was last asked for
	// flight is the revision request on its way; next is the one that starts when it is back, for who came too late.
	flight, next *revisionCall
}

type revisionCall struct {
	done     chan struct{}
	revision int64
	err      error
}

const (
	remoteTimeout = 10 * time.Second // of one call: a quorum that takes longer is not there
	revisionLimit = 5 * time.Second
)

var _ etcd = (*remote)(nil)

// dial connects to the endpoints and returns when one answers.
func dial(ctx context.Context, cfg Config) (*remote, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  cfg.TLS,
		DialTimeout:          20 * time.Second,
		DialKeepAliveTime:    30 * time.Second, // find out about a peer that vanished without a word
		DialKeepAliveTimeout: 10 * time.Second,
		MaxCallSendMsgSize:   maxObjectSize + 1<<20,
		Logger:               etcdLogger(cfg.Logger, make(chan error, 1)),
	})
	if err != nil {
		return nil, err
	}
	r := &remote{client: client, kv: clientv3.RetryKVClient(client), lease: clientv3.RetryLeaseClient(client)}
	r.watchCtx, r.cancel = context.WithCancel(clientv3.WithRequireLeader(context.Background()))
	// Waits through restarts of the cluster as long as the caller does.
	for told := false; ; {
		_, err := r.revision(ctx)
		if err == nil {
			return r, nil
		}
		if !told && ctx.Err() == nil {
			told = true
			cfg.Logger.Warn("etcd does not answer, trying again", "endpoints", cfg.Endpoints, "err", err)
		}
		select {
		case <-ctx.Done():
			r.close()
			return nil, fmt.Errorf("no answer from %v: %w", cfg.Endpoints, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (r *remote) Range(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	return r.kv.Range(ctx, req, grpc.MaxCallRecvMsgSize(1<<31-1))
}

func (r *remote) Txn(ctx context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	return r.kv.Txn(ctx, req)
}

func (r *remote) Compact(ctx context.Context, req *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
	return r.kv.Compact(ctx, req)
}

func (r *remote) LeaseGrant(ctx context.Context, req *etcdserverpb.LeaseGrantRequest) (*etcdserverpb.LeaseGrantResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	return r.lease.LeaseGrant(ctx, req)
}

// revision asks the quorum. Readers that come while a request is on its way share the next one: the answer to a request
// says nothing about writes acknowledged after it was sent.
func (r *remote) revision(ctx context.Context) (int64, error) {
	r.mu.Lock()
	call := r.next
	if call == nil {
		call = &revisionCall{done: make(chan struct{})}
		if r.flight == nil {
			r.flight = call
			go r.ask(call)
		} else {
			r.next = call
		}
	}
	r.mu.Unlock()
	select {
	case <-call.done:
		return call.revision, call.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// ask answers call and the ones that queued up behind it.
func (r *remote) ask(call *revisionCall) {
	for call != nil {
		ctx, cancel := context.WithTimeout(r.watchCtx, revisionLimit)
		resp, err := r.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(root), CountOnly: true})
		cancel()
		if err == nil {
			call.revision = resp.Header.Revision
		}
		call.err = err
		close(call.done)
		r.mu.Lock()
		r.flight, r.next = r.next, nil
		call = r.flight
		r.mu.Unlock()
	}
}

func (r *remote) watch(ctx context.Context, after int64, deliver func(progress)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(r.watchCtx, cancel)
	defer stop()
	ch := r.client.Watch(r.watchCtx, root, clientv3.WithRange(prefixEnd(root)), clientv3.WithRev(after+1), clientv3.WithProgressNotify())
	for {
		select {
		case resp, ok := <-ch:
			switch {
			case !ok:
				return errors.New("etcd closed the watch")
			case errors.Is(resp.Err(), rpctypes.ErrCompacted):
				return ErrCompacted
			case resp.Err() != nil:
				return resp.Err()
			case resp.IsProgressNotify():
				deliver(progress{revision: resp.Header.Revision})
			case len(resp.Events) > 0:
				events := make([]*mvccpb.Event, len(resp.Events))
				for i, e := range resp.Events {
					events[i] = (*mvccpb.Event)(e)
				}
				deliver(progress{events, events[len(events)-1].Kv.ModRevision})
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *remote) changes(ctx context.Context, prefix string, after, upTo int64) ([]*mvccpb.Event, error) {
	// Metadata of its own make this a stream of its own: the progress asked for is that of this watch.
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "mini-history", prefix), remoteTimeout)
	defer cancel()
	ch := r.client.Watch(ctx, prefix, clientv3.WithRange(prefixEnd(prefix)), clientv3.WithRev(after+1), clientv3.WithPrevKV())
	var events []*mvccpb.Event
	ask := time.NewTicker(20 * time.Millisecond)
	defer ask.Stop()
	for {
		select {
		case resp, ok := <-ch:
			switch {
			case !ok:
				return nil, errors.New("etcd closed the watch")
			case resp.Err() != nil:
				return nil, resp.Err()
			case resp.IsProgressNotify() && resp.Header.Revision >= upTo:
				return events, nil
			}
			for _, e := range resp.Events {
				if e.Kv.ModRevision > upTo {
					return events, nil
				}
				events = append(events, (*mvccpb.Event)(e))
			}
			if len(events) > changesMax {
				return nil, rpctypes.ErrGRPCCompacted
			}
		case <-ask.C:
			_ = r.client.RequestProgress(ctx) // asked again at the next turn
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *remote) shrink() {}

// progress is needed for revisions that somebody made outside of root.
func (r *remote) progress(context.Context) {
	r.mu.Lock()
	now := time.Now()
	soon := now.Sub(r.asked) < 10*time.Millisecond
	if !soon {
		r.asked = now
	}
	r.mu.Unlock()
	if !soon {
		_ = r.client.RequestProgress(r.watchCtx) // a lost one is asked for again by who waits
	}
}

// reclaim leaves another's cluster to its owner.
func (r *remote) reclaim(context.Context) error { return nil }

func (r *remote) healthy(ctx context.Context) error {
	_, err := r.revision(ctx)
	return err
}

func (r *remote) wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (r *remote) close() {
	r.cancel()
	r.client.Close()
}
