package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Create implements Collection.
func (c *collection) Create(ctx context.Context, key string, obj Object) (*Item, error) {
	if obj.GetResourceVersion() != "" {
		return nil, errors.New("store: an object to be created must not have a resourceVersion")
	}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	data, err := c.encode(key, obj)
	if err != nil {
		return nil, err
	}
	item, current, err := c.put(ctx, key, data, 0)
	if err != nil {
		return nil, err
	}
	if current != nil {
		return nil, ErrExists
	}
	return item, nil
}

// Mutate implements Collection.
func (c *collection) Mutate(ctx context.Context, key string, decide func(*Item) (Change, error)) (*Item, error) {
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	current, err := c.cached(key)
	if err != nil {
		return nil, err
	}
	// proven: current was read from etcd, or from a cache that had caught up, after the call began. Only on such a
	// state may a decision end the call without a write.
	for proven := false; ; {
		change, err := decide(current)
		if err != nil || (change.Put == nil && (!change.Delete || current == nil)) {
			if proven {
				return current, err
			}
			again, ferr := c.proven(ctx, key)
			if ferr != nil {
				return nil, ferr
			}
			proven = true
			if again.revision() == current.revision() {
				return current, err
			}
			current = again
			continue
		}
		var item, newer *Item
		if change.Put != nil {
			data, err := c.encode(key, change.Put)
			if err != nil {
				return nil, err
			}
			if c.same(key, current, data) {
				again, err := c.proven(ctx, key)
				if err != nil {
					return nil, err
				}
				if again.revision() == current.revision() {
					return current, nil
				}
				current, proven = again, true
				continue
			}
			item, newer, err = c.put(ctx, key, data, current.revision())
			if err != nil {
				return nil, err
			}
		} else {
			item, newer, err = c.remove(ctx, key, current)
			if err != nil {
				return nil, err
			}
		}
		if item != nil {
			return item, nil
		}
		current, proven = newer, true
		if newer == absent {
			current = nil
		}
	}
}

// absent stands for "no such key" where nil means that a write went through.
var absent = new(Item)

func (c *collection) proven(ctx context.Context, key string) (*Item, error) {
	if _, err := c.s.latest(ctx); err != nil {
		return nil, err
	}
	return c.cached(key)
}

// same says whether storing data would change nothing.
func (c *collection) same(key string, current *Item, data []byte) bool {
	if current == nil || current.stale || int(current.size) != len(data) {
		return false
	}
	old, err := c.cfg.Codec.Encode(current.Object)
	return err == nil && string(old) == string(data)
}

// put writes data if the key still has the revision, 0 for none. It returns the new item, or what is there instead.
func (c *collection) put(ctx context.Context, key string, data []byte, revision int64) (item, newer *Item, _ error) {
	stored := data
	if t := c.cfg.Transformer; t != nil {
		var err error
		if stored, err = t.ToStorage(c.cfg.Prefix+key, data); err != nil {
			return nil, nil, fmt.Errorf("encrypting: %w", err)
		}
	}
	// What readers get is what is written: decoding drops what the encoding does not carry.
	obj, err := c.cfg.Codec.Decode(data)
	if err != nil {
		return nil, nil, fmt.Errorf("decoding what was just encoded: %w", err)
	}
	req := &etcdserverpb.PutRequest{Key: []byte(c.cfg.Prefix + key), Value: stored}
	f := &flight{c: c, key: key, plain: data, stored: stored, obj: obj}
	c.s.launch(f)
	at := int64(0)
	defer func() { item = c.s.land(f, at) }()
	for range 2 {
		if c.cfg.TTL > 0 {
			if req.Lease, err = c.s.leases.get(ctx, c.cfg.TTL); err != nil {
				return nil, nil, c.s.failed(ctx, err)
			}
		}
		at, newer, err = c.txn(ctx, key, revision, &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: req}})
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			break
		}
		c.s.leases.forget(c.cfg.TTL, req.Lease) // somebody revoked it; the next is ours again
	}
	return nil, newer, err
}

// remove deletes the key if it still is current.
func (c *collection) remove(ctx context.Context, key string, current *Item) (item, newer *Item, _ error) {
	at, newer, err := c.txn(ctx, key, current.Revision, &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte(c.cfg.Prefix + key)},
	}})
	if err != nil || newer != nil {
		return nil, newer, err
	}
	tomb := current.at(at)
	c.s.wrote(ownWrite{c: c, key: key, tomb: tomb}, at)
	return tomb, nil, nil
}

// txn runs op if the key has the revision and returns the revision of the write; otherwise what the key holds, absent
// if nothing.
func (c *collection) txn(ctx context.Context, key string, revision int64, op *etcdserverpb.RequestOp) (int64, *Item, error) {
	full := []byte(c.cfg.Prefix + key)
	resp, err := c.s.etcd.Txn(ctx, &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{
			Key:         full,
			Target:      etcdserverpb.Compare_MOD,
			Result:      etcdserverpb.Compare_EQUAL,
			TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: revision},
		}},
		Success: []*etcdserverpb.RequestOp{op},
		Failure: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{
			RequestRange: &etcdserverpb.RangeRequest{Key: full},
		}}},
	})
	if err != nil {
		return 0, nil, c.s.failed(ctx, err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil, nil
	}
	var kvs []*mvccpb.KeyValue
	if len(resp.Responses) == 1 {
		kvs = resp.Responses[0].GetResponseRange().GetKvs()
	}
	if len(kvs) == 0 {
		return 0, absent, nil
	}
	item, err := c.decode(key, kvs[0].Value, kvs[0].ModRevision)
	return 0, item, err
}
