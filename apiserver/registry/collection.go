package registry

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mini-k8s/mini/apiserver/codec"
	"github.com/mini-k8s/mini/store"
)

// StorageKey is the row's place in etcd below /registry/.
func (r *Resource) StorageKey() string {
	if r.Key != "" {
		return r.Key
	}
	return r.Name
}

// StoredKind is the kind of the objects that StorageKey holds.
func (r *Resource) StoredKind() schema.GroupVersionKind {
	if r.Stored.Empty() {
		return r.GVK
	}
	return r.Stored
}

// ObjectKey is an object's key in the row's collection.
func (r *Resource) ObjectKey(namespace, name string) string {
	if r.Namespaced {
		return namespace + "/" + name
	}
	return name
}

// Collection says how the objects below /registry/KEY/, which are of kind stored, lie in etcd: as the rows with that key
// say, or as protobuf where there is none. The error is a kind that scheme has without metadata.
func Collection(scheme *runtime.Scheme, rows []Resource, key string, stored schema.GroupVersionKind) (store.CollectionConfig, error) {
	kind, err := codec.NewKind(scheme, stored, nil)
	if err != nil {
		return store.CollectionConfig{}, fmt.Errorf("collection %s: %w", key, err)
	}
	config := store.CollectionConfig{Prefix: "/registry/" + key + "/", Codec: codec.Storage{Kind: kind}}
	for i := range rows {
		row := &rows[i]
		if row.StorageKey() != key || row.Create != nil {
			continue
		}
		if row.TTLSeconds > 0 {
			config.TTL = time.Duration(row.TTLSeconds) * time.Second
		}
		switch {
		case row.Codec != nil:
			config.Codec = row.Codec
		case row.GVK == stored:
			config.Codec = codec.Storage{Kind: kind, Default: row.Default, Version: row.StoredVersion, JSON: row.StoredJSON}
		}
	}
	return config, nil
}
