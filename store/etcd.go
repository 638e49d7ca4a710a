package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// etcd is what the store needs of an etcd, embedded or remote. Errors are etcd's own; translate makes them the store's.
type etcd interface {
	Range(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error)
	Txn(context.Context, *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error)
	Compact(context.Context, *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error)
	LeaseGrant(context.Context, *etcdserverpb.LeaseGrantRequest) (*etcdserverpb.LeaseGrantResponse, error)

	// revision is one that no acknowledged write is newer than.
	revision(ctx context.Context) (int64, error)
	// watch delivers every change below root after the revision, a revision's changes together, until ctx ends or the
	// changes are gone (ErrCompacted). It survives lost connections.
	watch(ctx context.Context, after int64, deliver func(progress)) error
	// changes reads a part of the history below prefix: after one revision, up to another that the cache has reached,
	// with the values before. Too many of them count as compacted.
	changes(ctx context.Context, prefix string, after, upTo int64) ([]*mvccpb.Event, error)
	// progress asks for a delivery that tells how far the watch is, where silence does not.
	progress(ctx context.Context)
	// shrink lets go of memory that is not needed.
	shrink()
	// reclaim frees space after a compaction and lifts the alarm if that was enough.
	reclaim(ctx context.Context) error
	healthy(ctx context.Context) error
	// wait blocks until ctx ends or etcd is lost for good.
	wait(ctx context.Context) error
	close()
}

// changesMax is how many changes are worth reading for clients that would have to list otherwise.
const changesMax = historyMax

// progress is a step of the etcd watch: the changes, and the revision up to which nothing is missing now.
type progress struct {
	events   []*mvccpb.Event
	revision int64
}

func keyRange(prefix, from string, revision, limit int64) *etcdserverpb.RangeRequest {
	return &etcdserverpb.RangeRequest{
		Key:      []byte(from),
		RangeEnd: []byte(prefixEnd(prefix)),
		Revision: revision,
		Limit:    limit,
	}
}

// prefixEnd is the first key after all that start with prefix.
func prefixEnd(prefix string) string {
	return prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1)
}

// translate makes etcd's errors those of the contract. Everything that may pass by itself is ErrUnavailable.
func translate(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	switch rpctypes.Error(err) {
	case rpctypes.ErrCompacted:
		return ErrCompacted
	case rpctypes.ErrFutureRev:
		return ErrFuture
	case rpctypes.ErrRequestTooLarge:
		return ErrTooLarge
	case rpctypes.ErrNoSpace:
		return fmt.Errorf("%w: etcd's space quota is used up", ErrUnavailable)
	case rpctypes.ErrLeaseNotFound:
		return rpctypes.ErrLeaseNotFound // for put
	}
	var code codes.Code
	var e rpctypes.EtcdError
	if errors.As(rpctypes.Error(err), &e) {
		code = e.Code()
	} else {
		code = status.Code(err)
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted, codes.Aborted:
		return fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	return fmt.Errorf("etcd: %w", err)
}
